// NEON with the dot products of 8-bit integers (Armv8.2 DotProd: GB10, Apple M, Graviton 2 on). The
// build compiles this file alone with them.
#include "kernels/cpu/leaf.h"
#include "kernels/cpu/vec_neon.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/leaf_gemm.h"
#include "kernels/cpu/leaf_attn.h"
#include "kernels/cpu/leaf_elem.h"
#include "kernels/cpu/leaf_delta.h"
#include "kernels/cpu/leaf_table.h"

LEAF_TABLE(dotprod);
