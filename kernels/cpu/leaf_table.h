// leaf_table: the table of one instruction set; included last by leaf_ISA.c.
#pragma once

static int32_t leaf_spin_int8(int64_t n)
{
    return vec_spin_int8(n);
}

static uint64_t leaf_read(const void *p, int64_t bytes)
{
    return vec_read(p, bytes);
}

#define LEAF_TABLE(isa)                                                                            \
    const struct leaf_isa leaf_##isa = {                                                           \
        .name = "cpu " #isa,                                                                       \
        .quantise = leaf_quantise,                                                                 \
        .gemm_fast = leaf_gemm_fast,                                                               \
        .gemm_float = leaf_gemm_float,                                                             \
        .row = leaf_row,                                                                           \
        .attn = leaf_attn_segment,                                                                 \
        .attn_merge = leaf_merge,                                                                  \
        .k_put = leaf_k_put,                                                                       \
        .v_put = leaf_v_put,                                                                       \
        .rms_norm = leaf_rms_norm,                                                                 \
        .rope = leaf_rope,                                                                         \
        .conv = leaf_conv_block,                                                                   \
        .delta = leaf_delta_block,                                                                 \
        .softmax = leaf_softmax_row,                                                               \
        .sigmoid = leaf_sigmoid,                                                                   \
        .combine = leaf_combine,                                                                   \
        .glu = leaf_glu,                                                                           \
        .gate = leaf_gate,                                                                         \
        .add = leaf_add,                                                                           \
        .scale = leaf_scale,                                                                       \
        .softcap = leaf_softcap,                                                                   \
        .max = leaf_max,                                                                           \
        .sum_exp = leaf_sum_exp,                                                                   \
        .spin_f32 = leaf_spin_f32,                                                                 \
        .spin_int8 = leaf_spin_int8,                                                               \
        .read = leaf_read,                                                                         \
    }
