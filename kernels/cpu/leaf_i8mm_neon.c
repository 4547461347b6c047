// NEON with dot products and products of small matrices of 8-bit integers (I8MM: GB10, Apple M2,
// Graviton 3 on). The build compiles this file alone with them.
#include "kernels/cpu/leaf.h"
#include "kernels/cpu/vec_neon.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/leaf_gemm.h"
#include "kernels/cpu/leaf_attn.h"
#include "kernels/cpu/leaf_elem.h"
#include "kernels/cpu/leaf_delta.h"
#include "kernels/cpu/leaf_table.h"

LEAF_TABLE(i8mm);
