// simt_host: the names of CUDA that kernels use, for a host compiler. Only simt.h includes this.
#pragma once
#include "kernels/cuda/host.h"
#include <stddef.h>
#include <tuple>
#include <type_traits>

// -- words --
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ static
#define __constant__ static
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// -- vectors --
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define SIMT_VECTOR2(type, name)                                                                   \
    struct alignas(2 * sizeof(type)) name {                                                        \
        type x, y;                                                                                 \
    };                                                                                             \
    static inline name make_##name(type a, type b)                                                 \
    {                                                                                              \
        return name{a, b};                                                                         \
    }
#define SIMT_VECTOR4(type, name)                                                                   \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name {                           \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name make_##name(type a, type b, type c, type d)                                 \
    {                                                                                              \
        return name{a, b, c, d};                                                                   \
    }
SIMT_VECTOR2(float, float2)
SIMT_VECTOR2(double, double2)
SIMT_VECTOR2(int, int2)
SIMT_VECTOR2(unsigned, uint2)
SIMT_VECTOR2(short, short2)
SIMT_VECTOR4(float, float4)
SIMT_VECTOR4(int, int4)
SIMT_VECTOR4(unsigned, uint4)
SIMT_VECTOR4(signed char, char4)
SIMT_VECTOR4(unsigned char, uchar4)

// -- where a thread is --
struct CUstream_st; // a stream; cudaStream_t is a pointer to it
typedef struct CUstream_st *cudaStream_t;

struct simt_thread {
    uint3 index;
    unsigned number; // x fastest
};
extern struct simt_thread *simt_now;
extern uint3 simt_block_index;
extern dim3 simt_block_dim, simt_grid_dim;
extern void *simt_shared; // dynamic shared memory of the block
#define threadIdx (simt_now->index)
#define blockIdx simt_block_index
#define blockDim simt_block_dim
#define gridDim simt_grid_dim
#define warpSize 32
#define SIMT_DYNAMIC_SHARED(type, name) type *name = (type *)simt_shared

// -- launches --
struct simt_call {
    const char *name;
    dim3 grid, block;
    size_t shared;
    void (*run)(const void *args); // one thread
    void *args;
    size_t args_bytes;
    bool waits; // each thread calls simt_wait_before
};
// Puts a launch into the stream's order; args are copied (device_host.cc).
void simt_enqueue(cudaStream_t stream, const struct simt_call *call);
// A pointer among a kernel's arguments must be the device's (or NULL).
void simt_check_pointer(cudaStream_t stream, const char *kernel, const void *p);
template <class T> static inline void simt_check(cudaStream_t s, const char *kernel, const T &value)
{
    if constexpr (std::is_pointer<T>::value) simt_check_pointer(s, kernel, (const void *)value);
}
// Runs a launch now, one at a time in the process. False: what went wrong is in why.
struct simt_why {
    char s[280];
};
bool simt_run(const struct simt_call *call, struct simt_why *why);

template <class... P> struct simt_args {
    void (*kernel)(P...);
    std::tuple<P...> values;
    static void run(const void *p)
    {
        const simt_args *a = (const simt_args *)p;
        std::apply(a->kernel, a->values);
    }
};
template <class... P, class... A>
static inline void simt_start(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                              size_t shared, cudaStream_t stream, bool waits, A... args)
{
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments are copied as bytes");
    simt_args<P...> a{kernel, std::tuple<P...>(static_cast<P>(args)...)};
    std::apply([&](const P &...v) { (simt_check(stream, name, v), ...); }, a.values);
    struct simt_call call = {name, grid, block, shared, simt_args<P...>::run, &a, sizeof a, waits};
    simt_enqueue(stream, &call);
}
template <class... P, class... A>
static inline void simt_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                               size_t shared, cudaStream_t stream, A... args)
{
    simt_start(name, kernel, grid, block, shared, stream, false, args...);
}
// Nothing begins early here, but each thread has to wait.
template <class... P, class... A>
static inline void simt_launch_next(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                    size_t shared, cudaStream_t stream, bool early, A... args)
{
    (void)early;
    simt_start(name, kernel, grid, block, shared, stream, true, args...);
}
void simt_wait_before(void);
static inline void simt_let_next(void) {}
static inline void simt_prefetch(const void *, uint32_t) {}

// -- barriers and collectives --
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void __syncthreads(SIMT_SITE);

// One lane's part in a collective: what it brings and where its answer goes.
struct simt_lane {
    const void *in;
    void *out;
};
// Waits until all lanes of mask have come to this call, then `solve` answers all of them.
typedef void simt_solve(struct simt_lane lanes[32], uint32_t mask);
void simt_collective(uint32_t mask, simt_solve *solve, const void *in, void *out, const char *file,
                     int line);
// Ends the block: says where and what. Does not return.
[[noreturn]] void simt_fail(const char *file, int line, const char *what);

static inline void simt_nothing(struct simt_lane *, uint32_t) {}
static inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_SITE)
{
    simt_collective(mask, simt_nothing, NULL, NULL, file, line);
}

enum simt_shuffle { SIMT_IDX, SIMT_UP, SIMT_DOWN, SIMT_XOR };
template <class T> struct simt_shuffle_in {
    T value;
    enum simt_shuffle kind;
    int arg, width;
    const char *file;
    int line;
};
template <class T> static void simt_shuffle_solve(struct simt_lane lanes[32], uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        const simt_shuffle_in<T> *in = (const simt_shuffle_in<T> *)lanes[i].in;
        const int w = in->width, low = i & ~(w - 1);
        int from = i;
        if (in->kind == SIMT_IDX) from = low + (in->arg & (w - 1));
        if (in->kind == SIMT_UP) from = i - in->arg < low ? i : i - in->arg;
        if (in->kind == SIMT_DOWN) from = i + in->arg >= low + w ? i : i + in->arg;
        if (in->kind == SIMT_XOR) from = (i ^ in->arg) >= low + w ? i : i ^ in->arg;
        if (!(mask >> from & 1))
            simt_fail(in->file, in->line, "shuffle from a lane that is absent");
        *(T *)lanes[i].out = ((const simt_shuffle_in<T> *)lanes[from].in)->value;
    }
}
template <class T>
static inline T simt_shuffle_of(uint32_t mask, T v, enum simt_shuffle kind, int arg, int width,
                                const char *file, int line)
{
    simt_shuffle_in<T> in = {v, kind, arg, width, file, line};
    T out;
    simt_collective(mask, simt_shuffle_solve<T>, &in, &out, file, line);
    return out;
}
template <class T> static inline T __shfl_sync(uint32_t mask, T v, int from, int w = 32, SIMT_SITE)
{
    return simt_shuffle_of(mask, v, SIMT_IDX, from, w, file, line);
}
template <class T> static inline T __shfl_up_sync(uint32_t mask, T v, int by, int w = 32, SIMT_SITE)
{
    return simt_shuffle_of(mask, v, SIMT_UP, by, w, file, line);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T v, int by, int w = 32, SIMT_SITE)
{
    return simt_shuffle_of(mask, v, SIMT_DOWN, by, w, file, line);
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T v, int by, int w = 32, SIMT_SITE)
{
    return simt_shuffle_of(mask, v, SIMT_XOR, by, w, file, line);
}
static inline void simt_ballot_solve(struct simt_lane lanes[32], uint32_t mask)
{
    uint32_t votes = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && *(const int *)lanes[i].in) votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) *(uint32_t *)lanes[i].out = votes;
}
static inline uint32_t __ballot_sync(uint32_t mask, int vote, SIMT_SITE)
{
    uint32_t out;
    simt_collective(mask, simt_ballot_solve, &vote, &out, file, line);
    return out;
}
static inline int __any_sync(uint32_t mask, int vote, SIMT_SITE)
{
    return __ballot_sync(mask, vote, file, line) != 0;
}
static inline int __all_sync(uint32_t mask, int vote, SIMT_SITE)
{
    return __ballot_sync(mask, vote, file, line) == mask;
}
static inline void __threadfence(void) {}
static inline void simt_wait(const unsigned *count, unsigned least, SIMT_SITE)
{
    if (*count < least) simt_fail(file, line, "a block waits for one that comes later");
}
static inline void __threadfence_block(void) {}

// -- memory --
template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline void __stcs(T *p, T v)
{
    *p = v;
}
template <class T> static inline T simt_add(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}
static inline int atomicAdd(int *p, int v)
{
    return simt_add(p, v);
}
static inline unsigned atomicAdd(unsigned *p, unsigned v)
{
    return simt_add(p, v);
}
static inline float atomicAdd(float *p, float v)
{
    return simt_add(p, v);
}
static inline int atomicMax(int *p, int v)
{
    int old = *p;
    *p = old > v ? old : v;
    return old;
}
static inline int atomicExch(int *p, int v)
{
    int old = *p;
    *p = v;
    return old;
}
static inline unsigned atomicOr(unsigned *p, unsigned v)
{
    unsigned old = *p;
    *p = old | v;
    return old;
}
static inline unsigned atomicInc(unsigned *p, unsigned last) // back to 0 behind last
{
    unsigned old = *p;
    *p = old >= last ? 0 : old + 1;
    return old;
}

// -- numbers --
#define SIMT_MIN_MAX(type)                                                                         \
    static inline type min(type a, type b)                                                         \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    static inline type max(type a, type b)                                                         \
    {                                                                                              \
        return a > b ? a : b;                                                                      \
    }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long)
template <class To, class From> static inline To simt_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline unsigned __float_as_uint(float x)
{
    return simt_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return simt_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return simt_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return simt_bits<float>(x);
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
#define __expf(x) expf(x) // glibc has functions of these names
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline int __float2int_rn(float x) // nearest, saturating; NaN is 0
{
    x = rintf(x);
    return x != x ? 0 : x >= 2147483648.0f ? INT32_MAX : x < -2147483648.0f ? INT32_MIN : (int)x;
}
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int)(int8_t)((unsigned)a >> 8 * i) * (int)(int8_t)((unsigned)b >> 8 * i);
    return c;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned pick)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = pick >> 4 * i & 15, byte = (unsigned)(both >> 8 * (s & 7)) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0; // the sign, repeated
        out |= byte << 8 * i;
    }
    return out;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
static inline int __vsubss4(int a, int b) // four saturated differences of int8
{
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        int d = (int)(int8_t)((unsigned)a >> 8 * i) - (int)(int8_t)((unsigned)b >> 8 * i);
        d = d > 127 ? 127 : d < -128 ? -128 : d;
        out |= ((unsigned)d & 255) << 8 * i;
    }
    return (int)out;
}
static inline int __vsub4(int a, int b) // four differences of int8
{
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= ((((unsigned)a >> 8 * i) - ((unsigned)b >> 8 * i)) & 255) << 8 * i;
    return (int)out;
}

// -- half precision --
struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __half2float(__half h)
{
    const unsigned e = h.bits >> 10 & 31, m = h.bits & 1023,
                   sign = (unsigned)(h.bits & 0x8000) << 16;
    if (e == 0) { // zero or subnormal: m * 2^-24
        float f = (float)m * 5.9604644775390625e-8f;
        return simt_bits<float>(simt_bits<unsigned>(f) | sign);
    }
    return simt_bits<float>(sign | (e == 31 ? 255 : e + 112) << 23 | m << 13);
}
static inline __half __float2half(float f) // nearest, ties to even
{
    const unsigned u = simt_bits<unsigned>(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return __half{(uint16_t)(sign | 0x7fff)};
    if (a >= 0x477ff000) return __half{(uint16_t)(sign | 0x7c00)}; // 65520 and more
    if (a < 0x38800000) { // below 2^-14: steps of 2^-24, rounded by the addition
        float r = simt_bits<float>(a) + 0.5f;
        return __half{(uint16_t)(sign | (simt_bits<unsigned>(r) - 0x3f000000))};
    }
    return __half{(uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13)};
}
static inline __half __float2half_rn(float f)
{
    return __float2half(f);
}
static inline uint16_t __half_as_ushort(__half h)
{
    return h.bits;
}
static inline __half __ushort_as_half(uint16_t u)
{
    return __half{u};
}
static inline __half2 __halves2half2(__half a, __half b)
{
    return __half2{a, b};
}
static inline __half __low2half(__half2 a)
{
    return a.x;
}
static inline __half __high2half(__half2 a)
{
    return a.y;
}
static inline __half2 __half2half2(__half a)
{
    return __half2{a, a};
}
static inline __half2 __floats2half2_rn(float a, float b)
{
    return __half2{__float2half(a), __float2half(b)};
}
static inline __half2 __float22half2_rn(float2 a)
{
    return __floats2half2_rn(a.x, a.y);
}
static inline __half2 __float2half2_rn(float a)
{
    return __floats2half2_rn(a, a);
}
static inline float2 __half22float2(__half2 a)
{
    return make_float2(__half2float(a.x), __half2float(a.y));
}
static inline float __low2float(__half2 a)
{
    return __half2float(a.x);
}
static inline float __high2float(__half2 a)
{
    return __half2float(a.y);
}
static inline __half __hmul(__half a, __half b)
{
    return __float2half(__half2float(a) * __half2float(b));
}
static inline __half __hadd(__half a, __half b)
{
    return __float2half(__half2float(a) + __half2float(b));
}
static inline __half __hsub(__half a, __half b)
{
    return __float2half(__half2float(a) - __half2float(b));
}
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __half2{__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
static inline __half2 __hadd2(__half2 a, __half2 b)
{
    return __half2{__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
static inline __half2 __hsub2(__half2 a, __half2 b)
{
    return __half2{__hsub(a.x, b.x), __hsub(a.y, b.y)};
}
// A product of two halves is exact in float, a sum in double: rounded once.
static inline __half simt_hfma(__half a, __half b, __half c)
{
    double s = (double)(__half2float(a) * __half2float(b)) + (double)__half2float(c);
    float f = (float)s; // to odd, so that the second rounding is as if it were the first
    if ((double)f != s && !(simt_bits<unsigned>(f) & 1))
        f = nextafterf(f, s > (double)f ? INFINITY : -INFINITY);
    return __float2half(f);
}
static inline __half __hfma(__half a, __half b, __half c)
{
    return simt_hfma(a, b, c);
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __half2{simt_hfma(a.x, b.x, c.x), simt_hfma(a.y, b.y, c.y)};
}

static inline float __bfloat162float(__nv_bfloat16 h)
{
    return simt_bits<float>((unsigned)h.bits << 16);
}
static inline __nv_bfloat16 __float2bfloat16(float f) // nearest, ties to even
{
    unsigned u = simt_bits<unsigned>(f);
    if ((u & 0x7fffffff) > 0x7f800000) return __nv_bfloat16{0x7fff};
    return __nv_bfloat16{(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __float2bfloat16(f);
}
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t u)
{
    return __nv_bfloat16{u};
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __nv_bfloat162{a, b};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return __nv_bfloat162{__float2bfloat16(a), __float2bfloat16(b)};
}
static inline float2 __bfloat1622float2(__nv_bfloat162 a)
{
    return make_float2(__bfloat162float(a.x), __bfloat162float(a.y));
}

static inline float simt_f8_to_float(uint8_t x) // E4M3
{
    const unsigned e = x >> 3 & 15, m = x & 7;
    float f = e ? simt_bits<float>((e + 120) << 23 | m << 20) : (float)m * 0.001953125f;
    if (e == 15 && m == 7) f = NAN;
    return x & 128 ? -f : f;
}
static inline uint8_t simt_float_to_f8(float f) // nearest, ties to even, saturating
{
    const unsigned u = simt_bits<unsigned>(f), sign = u >> 24 & 128, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint8_t)(sign | 0x7f);
    if (a >= 0x43e80000) return (uint8_t)(sign | 0x7e); // 464 and more, and what would be NaN
    if (a < 0x3c800000) {                               // below 2^-6: steps of 2^-9
        float r = simt_bits<float>(a) + 16384.0f;
        return (uint8_t)(sign | (simt_bits<unsigned>(r) - 0x46800000));
    }
    unsigned r = (a - 0x3c000000 + 0x7ffff + (a >> 20 & 1)) >> 20;
    return (uint8_t)(sign | (r > 0x7e ? 0x7e : r));
}

// -- asynchronous copies (simt_mma.h) --
void simt_copy_async(void *shared, const void *global, int bytes, int zeros);
void simt_copy_commit(void);
void simt_copy_wait(int pending); // until at most so many groups of this thread are under way
