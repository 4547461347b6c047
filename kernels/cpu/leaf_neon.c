#include "kernels/cpu/leaf.h"
#include "kernels/cpu/vec_neon.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/leaf_gemm.h"
#include "kernels/cpu/leaf_attn.h"
#include "kernels/cpu/leaf_elem.h"
#include "kernels/cpu/leaf_delta.h"
#include "kernels/cpu/leaf_table.h"

LEAF_TABLE(neon);
