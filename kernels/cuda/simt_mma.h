// simt_mma: the matrix units and asynchronous copies, as PTX on the device (PTX ISA 8, "Matrix
// fragments for mma.m16n8k16", "... m16n8k32", "ldmatrix", "cp.async") and as collectives of a warp
// on the host, with the same fragments in the same lanes. All 32 lanes call together.
//
// With g = lane / 4 and t = lane % 4, two values of 16 bits in a register (low half first):
//     A (16 x 16, row major)  a[0] (g, 2t)  a[1] (g + 8, 2t)  a[2] (g, 2t + 8)  a[3] (g + 8, 2t +
//     8) B (16 x 8)              b[0] (2t, g)  b[1] (2t + 8, g); the pair goes down a column D (16
//     x 8)              d[0], d[1] (g, 2t), (g, 2t + 1)  d[2], d[3] (g + 8, ...)
// and one value of 32 bits, of which the units read the upper 19 (TF32):
//     A (16 x 8, row major)   a[0] (g, t)  a[1] (g + 8, t)  a[2] (g, t + 4)  a[3] (g + 8, t + 4)
//     B (8 x 8)               b[0] (t, g)  b[1] (t + 4, g)
// and four values of 8 bits:
//     A (16 x 32)             a[0] (g, 4t)  a[1] (g + 8, 4t)  a[2] (g, 4t + 16)  a[3] (g + 8, 4t +
//     16) B (32 x 8)              b[0] (4t, g)  b[1] (4t + 16, g)
#pragma once
#include "kernels/cuda/simt.h"

#ifdef __CUDACC__
static __device__ __forceinline__ unsigned simt_shared_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

// d += a * b
static __device__ __forceinline__ void mma_m16n8k16_f16(float d[4], const uint32_t a[4],
                                                        const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const uint32_t a[4],
                                                         const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void mma_m16n8k32_s8(int32_t d[4], const uint32_t a[4],
                                                       const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The nearest float of 19 bits.
static __device__ __forceinline__ uint32_t mma_tf32(float x)
{
    uint32_t u;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));
    return u;
}
static __device__ __forceinline__ void mma_m16n8k8_tf32(float d[4], const uint32_t a[4],
                                                        const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four 8 x 8 matrices of 16-bit values: lane 8 j + i gives the address of row i of matrix j (16
// bytes, aligned to 16); r[j] is (g, 2t), (g, 2t + 1) of matrix j.
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(simt_shared_address(shared))
                 : "memory");
}
// The same of the transposed matrices: r[j] is (2t, g), (2t + 1, g).
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(simt_shared_address(shared))
                 : "memory");
}
// 16 bytes, the first `bytes` of them from global memory and zeros behind; both aligned to 16.
// Whoever reads them waits for the group and passes a barrier.
static __device__ __forceinline__ void cp_async16(void *shared, const void *global, int bytes = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(simt_shared_address(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most N groups of this thread are under way.
template <int N> static __device__ __forceinline__ void cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
struct simt_mma_in {
    const uint32_t *a, *b;
};
template <float value(uint32_t)>
static inline void simt_mma_16(struct simt_lane lanes[32], uint32_t)
{
    float a[16][16], b[16][8];
    for (int i = 0; i < 32; i++) {
        const struct simt_mma_in *in = (const struct simt_mma_in *)lanes[i].in;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++)
                a[g + r % 2 * 8][2 * t + r / 2 * 8 + h] = value(in->a[r] >> 16 * h & 0xffff);
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++)
                b[2 * t + 8 * r + h][g] = value(in->b[r] >> 16 * h & 0xffff);
    }
    for (int i = 0; i < 32; i++) {
        float *d = (float *)lanes[i].out;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++) {
            float s = 0;
            for (int k = 0; k < 16; k++)
                s += a[g + r / 2 * 8][k] * b[k][2 * t + r % 2];
            d[r] += s;
        }
    }
}
static inline float simt_mma_half(uint32_t u)
{
    return __half2float(__half{(uint16_t)u});
}
static inline float simt_mma_bf16(uint32_t u)
{
    return simt_bits<float>(u << 16);
}
static inline void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE)
{
    struct simt_mma_in in = {a, b};
    simt_collective(0xffffffffu, simt_mma_16<simt_mma_half>, &in, d, file, line);
}
static inline void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2],
                                     SIMT_SITE)
{
    struct simt_mma_in in = {a, b};
    simt_collective(0xffffffffu, simt_mma_16<simt_mma_bf16>, &in, d, file, line);
}
static inline uint32_t mma_tf32(float x) // to nearest, away from zero between two
{
    const uint32_t u = simt_bits<uint32_t>(x);
    return (u & 0x7fffffff) > 0x7f800000 ? 0x7fffffff : (u + 0x1000) & 0xffffe000;
}
static inline float simt_mma_tf32(uint32_t u)
{
    return simt_bits<float>(u & 0xffffe000);
}
static inline void simt_mma_tf32_solve(struct simt_lane lanes[32], uint32_t)
{
    float a[16][8], b[8][8];
    for (int i = 0; i < 32; i++) {
        const struct simt_mma_in *in = (const struct simt_mma_in *)lanes[i].in;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++)
            a[g + r % 2 * 8][t + r / 2 * 4] = simt_mma_tf32(in->a[r]);
        for (int r = 0; r < 2; r++)
            b[t + 4 * r][g] = simt_mma_tf32(in->b[r]);
    }
    for (int i = 0; i < 32; i++) {
        float *d = (float *)lanes[i].out;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++) {
            float s = 0;
            for (int k = 0; k < 8; k++)
                s += a[g + r / 2 * 8][k] * b[k][2 * t + r % 2];
            d[r] += s;
        }
    }
}
static inline void mma_m16n8k8_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE)
{
    struct simt_mma_in in = {a, b};
    simt_collective(0xffffffffu, simt_mma_tf32_solve, &in, d, file, line);
}
static inline void simt_mma_s8_solve(struct simt_lane lanes[32], uint32_t)
{
    int8_t a[16][32], b[32][8];
    for (int i = 0; i < 32; i++) {
        const struct simt_mma_in *in = (const struct simt_mma_in *)lanes[i].in;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 4; h++)
                a[g + r % 2 * 8][4 * t + r / 2 * 16 + h] = (int8_t)(in->a[r] >> 8 * h);
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 4; h++)
                b[4 * t + 16 * r + h][g] = (int8_t)(in->b[r] >> 8 * h);
    }
    for (int i = 0; i < 32; i++) {
        int32_t *d = (int32_t *)lanes[i].out;
        const int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++)
            for (int k = 0; k < 32; k++)
                d[r] += a[g + r / 2 * 8][k] * b[k][2 * t + r % 2];
    }
}
static inline void mma_m16n8k32_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2],
                                   SIMT_SITE)
{
    struct simt_mma_in in = {a, b};
    simt_collective(0xffffffffu, simt_mma_s8_solve, &in, d, file, line);
}
struct simt_rows_in {
    const uint16_t *row;
    const char *file;
    int line;
};
template <bool trans> static inline void simt_ldmatrix_solve(struct simt_lane lanes[32], uint32_t)
{
    const uint16_t *rows[32];
    for (int i = 0; i < 32; i++) {
        const struct simt_rows_in *in = (const struct simt_rows_in *)lanes[i].in;
        rows[i] = in->row;
        if ((uintptr_t)in->row % 16)
            simt_fail(in->file, in->line, "ldmatrix from an address that is not a multiple of 16");
    }
    for (int i = 0; i < 32; i++) {
        uint32_t *r = (uint32_t *)lanes[i].out;
        const int g = i / 4, t = i % 4;
        for (int j = 0; j < 4; j++) {
            const uint16_t *const *m = rows + 8 * j;
            uint32_t low = trans ? m[2 * t][g] : m[g][2 * t];
            uint32_t high = trans ? m[2 * t + 1][g] : m[g][2 * t + 1];
            r[j] = low | high << 16;
        }
    }
}
static inline void ldmatrix_x4(uint32_t r[4], const void *shared, SIMT_SITE)
{
    struct simt_rows_in in = {(const uint16_t *)shared, file, line};
    simt_collective(0xffffffffu, simt_ldmatrix_solve<false>, &in, r, file, line);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *shared, SIMT_SITE)
{
    struct simt_rows_in in = {(const uint16_t *)shared, file, line};
    simt_collective(0xffffffffu, simt_ldmatrix_solve<true>, &in, r, file, line);
}
// The bytes arrive at the wait, not before: who does not wait reads what was there.
static inline void cp_async16(void *shared, const void *global, int bytes = 16, SIMT_SITE)
{
    if ((uintptr_t)shared % 16 || (bytes && (uintptr_t)global % 16))
        simt_fail(file, line, "cp_async16 with an address that is not a multiple of 16");
    simt_copy_async(shared, global, bytes, 16 - bytes);
}
static inline void cp_async_commit(void)
{
    simt_copy_commit();
}
template <int N> static inline void cp_async_wait(void)
{
    simt_copy_wait(N);
}
#endif
