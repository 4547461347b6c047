// simt: one source for two machines. Under nvcc this header adds LAUNCH and a few short names to
// CUDA C++. Under a host compiler it is a small CUDA: each thread of a block is a fiber, blocks run
// one after another, barriers and warp collectives change fibers (simt_host.cc), so every kernel
// can be tested, and searched for faults, on a machine without a GPU.
//
// What the host finds that a device may hide: a barrier that part of a block does not reach, lanes
// missing from a collective, results that depend on the order of threads (simt_set_order), copies
// that were not waited for (simt_mma.h), host memory used as device memory and device memory
// touched by the host (device_host.cc), shared and global memory out of bounds (under ASan; global
// memory also by a guard page).
//
// Rules for kernels: `static __global__`; C with templates over types and sizes; no exceptions, no
// destructors, no std. Arguments are trivially copyable. Static shared memory holds what the block
// before left there. A block never waits for another block, but for work that blocks before it have
// taken: work is handed out in order by a counter, and who takes what others wait for does it
// without waiting (simt_wait). On the host the first block does all of it.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
// Dynamic shared memory of the kernel as `type name[]`, aligned to 16 bytes.
#define SIMT_DYNAMIC_SHARED(type, name)                                                            \
    extern __shared__ uint4 simt_dynamic[];                                                        \
    type *name = (type *)simt_dynamic

// More dynamic shared memory than this has to be asked for.
#define SIMT_SHARED_FREE (48u << 10)

template <class... P, class... A>
static inline void simt_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                               size_t shared, cudaStream_t stream, A... args)
{
    (void)name;
    if (shared > SIMT_SHARED_FREE)
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared);
    kernel<<<grid, block, shared, stream>>>(static_cast<P>(args)...);
}

// early: the kernel may begin before the one before it has ended.
template <class... P, class... A>
static inline void simt_launch_next(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                    size_t shared, cudaStream_t stream, bool early, A... args)
{
    if (!early) {
        simt_launch(name, kernel, grid, block, shared, stream, args...);
        return;
    }
    if (shared > SIMT_SHARED_FREE)
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared);
    cudaLaunchAttribute how = {};
    how.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &how;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

static __device__ __forceinline__ void simt_let_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void simt_wait_before(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Until *count has come to `least`; what was written before it was counted is seen afterwards, by
// loads that do not go through the first cache.
static __device__ __forceinline__ void simt_wait(const unsigned *count, unsigned least)
{
    unsigned now;
    for (;;) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(count) : "memory");
        if (now >= least) return;
        __nanosleep(64);
    }
}

// Asks for `bytes` of device memory, both in units of 16, to come to the second cache.
static __device__ __forceinline__ void simt_prefetch(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#else
    (void)p;
    (void)bytes;
#endif
}

static __device__ __forceinline__ float simt_f8_to_float(uint8_t x) // E4M3
{
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(x, __NV_E4M3)));
}
static __device__ __forceinline__ uint8_t simt_float_to_f8(float x) // nearest, saturating
{
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
#else
#include "kernels/cuda/simt_host.h"
#endif

// Before a loop of few steps whose arrays are to be registers. Nothing on the host, where clang
// would take minutes, with the sanitizers, for what is not faster there.
#ifdef __CUDACC__
#define SIMT_UNROLL _Pragma("unroll")
#else
#define SIMT_UNROLL
#endif

// LAUNCH(kernel, grid, block, bytes of dynamic shared memory, stream, arguments...); a kernel with
// commas of its own in parentheses: LAUNCH((gemm<float, 4>), ...).
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    simt_launch(#kernel, kernel, grid, block, shared, stream, ##__VA_ARGS__)

// LAUNCH_NEXT(c, kernel, grid, block, bytes, arguments...), c a struct cuda: the kernel may begin
// while the one before it in the stream ends. Each of its threads calls simt_wait_before, before
// which it touches no memory (but may ask for some: simt_prefetch), and should call simt_let_next,
// after which the next one may begin. All blocks have begun by then, so nobody takes the place of
// those that others wait for; and since all wait until those before them are through, whoever has
// waited has all that was ever written before. What kernels of a step write is not read by __ldg:
// the compiler takes that for memory that never changes and may move it ahead of the wait.
#define LAUNCH_NEXT(c, kernel, grid, block, shared, ...)                                           \
    simt_launch_next(#kernel, kernel, grid, block, shared, (c)->stream, cuda_begins_early(c),      \
                     ##__VA_ARGS__)
static __device__ __forceinline__ void simt_follow(void)
{
    simt_let_next();
    simt_wait_before();
}

#define SIMT_FULL 0xffffffffu

// Sum and largest value over a warp, the same in each lane; a fixed tree.
static __device__ __forceinline__ float warp_sum(float x)
{
    for (int m = 16; m; m >>= 1)
        x += __shfl_xor_sync(SIMT_FULL, x, m);
    return x;
}
static __device__ __forceinline__ double warp_sum(double x)
{
    for (int m = 16; m; m >>= 1)
        x += __shfl_xor_sync(SIMT_FULL, x, m);
    return x;
}
static __device__ __forceinline__ int32_t warp_sum(int32_t x)
{
    for (int m = 16; m; m >>= 1)
        x += __shfl_xor_sync(SIMT_FULL, x, m);
    return x;
}
static __device__ __forceinline__ float warp_max(float x)
{
    for (int m = 16; m; m >>= 1)
        x = fmaxf(x, __shfl_xor_sync(SIMT_FULL, x, m));
    return x;
}
// Sum over a block of whole warps, the same in each thread; `part` is shared memory of 32 floats
// that nobody else uses until the next barrier.
static __device__ __forceinline__ float block_sum(float x, float *part)
{
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int n = (int)blockDim.x >> 5;
    x = warp_sum(x);
    if (n == 1) return x;
    if (!lane) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < n ? part[lane] : 0.0f);
}
static __device__ __forceinline__ float block_max(float x, float *part)
{
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int n = (int)blockDim.x >> 5;
    x = warp_max(x);
    if (n == 1) return x;
    if (!lane) part[warp] = x;
    __syncthreads();
    return warp_max(lane < n ? part[lane] : -INFINITY);
}
