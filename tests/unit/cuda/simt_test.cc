// What kernels rely on when they run on the host: fragments of the matrix units against plain
// products, conversions against those of proto/base, and the faults that must be found.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
extern "C" {
#include <cmocka.h>
}
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/simt_mma.h"

static struct device *device;
static cudaStream_t stream;

static int open_device(void **state)
{
    (void)state;
    simt_set_order(SIMT_ASCENDING, 1);
    if (device_open(0, &device, NULL)) return 1;
    stream = device_stream(device);
    return 0;
}
static int close_device(void **state)
{
    (void)state;
    device_close(device);
    return 0;
}

template <class T> static T *take(size_t n)
{
    void *p;
    assert_int_equal(device_take(device, n * sizeof(T), "a test", &p, NULL), OK);
    return (T *)p;
}
template <class T> static void put(T *to, const T *from, size_t n)
{
    device_put(device, to, from, n * sizeof(T));
    device_wait(device);
}
template <class T> static void get(T *to, const T *from, size_t n)
{
    device_get(device, to, from, n * sizeof(T));
    device_wait(device);
    struct err_text why = {""};
    if (device_error(device, &why)) fail_msg("%s", why.s);
}

// -- matrix units --

enum kind { F16, BF16, S8 };

// a, b, d: (16 x K), (K x 8), (16 x 8) in order; A comes through ldmatrix, B through its transpose.
template <enum kind kind>
static __global__ void multiply(const uint16_t *a, const uint16_t *b, float *d)
{
    __shared__ __align__(16) uint16_t sa[16 * 16], sb[16 * 16];
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) {
        sa[i] = a[i];
        sb[i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : 0;
    }
    __syncthreads();
    uint32_t fa[4], fb[4];
    // Matrices in the order of A's registers: rows 0-7 and 8-15 of the left half, then the right.
    ldmatrix_x4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x4_trans(fb, sb + (lane % 16) * 16 + lane / 16 * 8);
    float f[4] = {1, 1, 1, 1};
    if (kind == F16) mma_m16n8k16_f16(f, fa, fb);
    if (kind == BF16) mma_m16n8k16_bf16(f, fa, fb);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; r++)
        d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = f[r];
}

template <enum kind kind> static void check_products()
{
    uint16_t a[256], b[128];
    float want[128], d[128];
    for (int i = 0; i < 256; i++) {
        const float x = (float)((i * 37 + 11) % 23 - 11) / 4;
        a[i] = kind == F16 ? __float2half(x).bits : __float2bfloat16(x).bits;
    }
    for (int i = 0; i < 128; i++) {
        const float x = (float)((i * 29 + 5) % 19 - 9) / 2;
        b[i] = kind == F16 ? __float2half(x).bits : __float2bfloat16(x).bits;
    }
    for (int i = 0; i < 128; i++) {
        want[i] = 1;
        for (int k = 0; k < 16; k++)
            want[i] += (float)(((i / 8 * 16 + k) * 37 + 11) % 23 - 11) / 4 *
                       ((float)(((k * 8 + i % 8) * 29 + 5) % 19 - 9) / 2);
    }
    uint16_t *da = take<uint16_t>(256), *db = take<uint16_t>(128);
    float *dd = take<float>(128);
    put(da, a, 256);
    put(db, b, 128);
    LAUNCH(multiply<kind>, 1, 32, 0, stream, da, db, dd);
    get(d, dd, 128);
    for (int i = 0; i < 128; i++)
        assert_true(d[i] == want[i]);
    device_give(device, da);
    device_give(device, db);
    device_give(device, dd);
}

static __global__ void multiply_bytes(const int8_t *a, const int8_t *b, int32_t *d)
{
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[2];
    int32_t f[4] = {5, 5, 5, 5};
    for (int r = 0; r < 4; r++) // four neighbours of a row of A
        memcpy(fa + r, a + (g + r % 2 * 8) * 32 + 4 * t + r / 2 * 16, 4);
    for (int r = 0; r < 2; r++) { // and of a column of B (32 x 8)
        fb[r] = 0;
        for (int h = 0; h < 4; h++)
            fb[r] |= (uint32_t)(uint8_t)b[(4 * t + 16 * r + h) * 8 + g] << 8 * h;
    }
    mma_m16n8k32_s8(f, fa, fb);
    for (int r = 0; r < 4; r++)
        d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = f[r];
}

static __global__ void multiply_tf32(const float *a, const float *b, float *d)
{
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[2];
    float f[4] = {1, 1, 1, 1};
    for (int r = 0; r < 4; r++)
        fa[r] = mma_tf32(a[(g + r % 2 * 8) * 8 + t + r / 2 * 4]);
    for (int r = 0; r < 2; r++)
        fb[r] = mma_tf32(b[(t + 4 * r) * 8 + g]);
    mma_m16n8k8_tf32(f, fa, fb);
    for (int r = 0; r < 4; r++)
        d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = f[r];
}

static void check_products_tf32()
{
    float a[128], b[64], d[128];
    for (int i = 0; i < 128; i++)
        a[i] =
            (float)((i * 37 + 11) % 23 - 11) / 4 + (i == 9 ? 0x1p-11f : 0); // what is rounded away
    for (int i = 0; i < 64; i++)
        b[i] = (float)((i * 29 + 5) % 19 - 9) / 2;
    float *da = take<float>(128), *db = take<float>(64), *dd = take<float>(128);
    put(da, a, 128);
    put(db, b, 64);
    LAUNCH(multiply_tf32, 1, 32, 0, stream, da, db, dd);
    get(d, dd, 128);
    for (int i = 0; i < 128; i++) {
        float want = 1;
        for (int k = 0; k < 8; k++)
            want += (float)(((i / 8 * 8 + k) * 37 + 11) % 23 - 11) / 4 * b[k * 8 + i % 8];
        assert_true(d[i] == want);
    }
    assert_int_equal(mma_tf32(1.0f), 0x3f800000);
    assert_int_equal(mma_tf32(1 + 0x1p-11f), 0x3f802000); // between two: away from zero
    assert_int_equal(mma_tf32(-1 - 0x1p-12f), 0xbf800000);
    device_give(device, da);
    device_give(device, db);
    device_give(device, dd);
}

static void test_products(void **state)
{
    (void)state;
    check_products<F16>();
    check_products<BF16>();
    check_products_tf32();
    int8_t a[512], b[256];
    int32_t d[128];
    for (int i = 0; i < 512; i++)
        a[i] = (int8_t)(i * 71 + 3);
    for (int i = 0; i < 256; i++)
        b[i] = (int8_t)(i * 45 + 9);
    int8_t *da = take<int8_t>(512), *db = take<int8_t>(256);
    int32_t *dd = take<int32_t>(128);
    put(da, a, 512);
    put(db, b, 256);
    LAUNCH(multiply_bytes, 1, 32, 0, stream, da, db, dd);
    get(d, dd, 128);
    for (int i = 0; i < 128; i++) {
        int32_t want = 5;
        for (int k = 0; k < 32; k++)
            want += a[i / 8 * 32 + k] * b[k * 8 + i % 8];
        assert_int_equal(d[i], want);
    }
    device_give(device, da);
    device_give(device, db);
    device_give(device, dd);
}

// -- conversions --

static void test_conversions(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        const float f = __half2float(__half{(uint16_t)i}), want = dtype_f16_to_f32((uint16_t)i);
        assert_true(simt_bits<uint32_t>(f) == simt_bits<uint32_t>(want) ||
                    (f != f && want != want));
        if (f == f) assert_int_equal(__float2half(f).bits, i);
        const float b = __bfloat162float(__nv_bfloat16{(uint16_t)i});
        if (b == b) assert_int_equal(__float2bfloat16(b).bits, i);
    }
    for (uint32_t i = 0; i < 1u << 20; i++) { // every exponent, many mantissas
        const float f = simt_bits<float>(i * 4093u + (i >> 3));
        if (f != f) continue;
        assert_int_equal(__float2half(f).bits, dtype_f32_to_f16(f));
    }
    for (uint32_t i = 0; i < 256; i++) {
        const float f = simt_f8_to_float((uint8_t)i), want = dtype_f8_to_f32((uint8_t)i);
        assert_true(f == want || (f != f && want != want));
        if (f == f) assert_int_equal(simt_float_to_f8(f), i);
        // Half way between neighbours of one sign goes to the even one, a little more goes up.
        if ((i & 127) > 0x7d) continue;
        const float next = simt_f8_to_float((uint8_t)(i + 1)), mid = (f + next) / 2;
        assert_int_equal(simt_float_to_f8(mid), i & 1 ? i + 1 : i);
        assert_int_equal(simt_float_to_f8(nextafterf(mid, next)), i + 1);
        assert_int_equal(simt_float_to_f8(nextafterf(mid, f)), i);
    }
    assert_int_equal(simt_float_to_f8(1e9f), 0x7e);
    assert_int_equal(simt_float_to_f8(-INFINITY), 0xfe);
    assert_int_equal(__dp4a(0x01ff0280, 0x7f7f0280, 1), 0x7f - 0x7f + 4 + 128 * 128 + 1);
    assert_int_equal(__byte_perm(0x33221100, 0x77665544, 0x7250), 0x77225500);
}

// -- collectives --

static __global__ void talk(int *out)
{
    const int lane = (int)threadIdx.x & 31;
    int v = lane * lane;
    v += __shfl_sync(SIMT_FULL, v, 5);            // 25
    v += __shfl_up_sync(SIMT_FULL, lane, 1);      // lane 0 keeps its own
    v += __shfl_down_sync(SIMT_FULL, lane, 2, 8); // within eights
    v += 1000 * __shfl_xor_sync(SIMT_FULL, lane, 3);
    const uint32_t odd = __ballot_sync(SIMT_FULL, lane & 1);
    if (odd == 0xaaaaaaaau && __any_sync(SIMT_FULL, lane == 9) && !__all_sync(SIMT_FULL, lane))
        v += 1000000;
    if (lane < 8) v += __shfl_sync(0xffu, lane, 7); // part of a warp by itself
    out[threadIdx.x] = v;
}

static void test_collectives(void **state)
{
    (void)state;
    int *out = take<int>(96), got[96];
    for (int order = 0; order < 3; order++) {
        simt_set_order((enum simt_order)order, 3);
        LAUNCH(talk, 1, 96, 0, stream, out);
        get(got, out, 96);
        for (int i = 0; i < 96; i++) {
            const int l = i % 32, down = l % 8 + 2 < 8 ? l + 2 : l;
            int want = l * l + 25 + (l ? l - 1 : 0) + down + 1000 * (l ^ 3) + 1000000;
            want += l < 8 ? 7 : 0;
            assert_int_equal(got[i], want);
        }
    }
    simt_set_order(SIMT_ASCENDING, 1);
    device_give(device, out);
}

static __global__ void copy_rows(const float *from, float *to, bool waits)
{
    SIMT_DYNAMIC_SHARED(float, s);
    const int i = 4 * (int)threadIdx.x;
    *(float4 *)(s + i) = make_float4(-1, -1, -1, -1);
    cp_async16(s + i, from + i, i ? 16 : 8);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    __syncthreads();
    for (int j = 0; j < 4; j++)
        to[i + j] = s[i + j];
}

static void test_copies(void **state)
{
    (void)state;
    float *from = take<float>(128), *to = take<float>(128), f[128], got[128];
    for (int i = 0; i < 128; i++)
        f[i] = (float)i;
    put(from, f, 128);
    for (int waits = 0; waits < 2; waits++) {
        LAUNCH(copy_rows, 1, 32, 512, stream, from, to, waits == 1);
        get(got, to, 128);
        for (int i = 0; i < 128; i++)
            assert_true(got[i] == (!waits ? -1 : i == 2 || i == 3 ? 0 : (float)i));
    }
    device_give(device, from);
    device_give(device, to);
}

// -- faults --

static __global__ void fault(int which, int *out)
{
    const int i = (int)threadIdx.x;
    if (which == 0 && i < 40) __syncthreads(); // the others have ended
    if (which == 1 && i % 32 < 31) __shfl_sync(SIMT_FULL, i, 0);
    if (which == 2) i < 32 ? __syncthreads() : __syncwarp();
    if (which == 2 && i >= 32) __syncthreads();
    if (which == 3) __shfl_sync(0xffffu, i, 0);          // half of the lanes are not in the mask
    if (which == 4) __shfl_sync(1u << i % 32, i, i + 1); // from a lane that is absent
    out[i] = i;
}

static void expect_fault(int which, unsigned threads, const char *what)
{
    struct device *d;
    struct err_text why = {""};
    void *out;
    assert_int_equal(device_open(0, &d, NULL), OK);
    assert_int_equal(device_take(d, 4096, "a test", &out, NULL), OK);
    LAUNCH(fault, dim3(2, 1), threads, 0, device_stream(d), which, (int *)out);
    device_wait(d);
    assert_int_equal(device_error(d, &why), ERR_DEVICE);
    if (!strstr(why.s, "kernel fault, block (") || !strstr(why.s, what))
        fail_msg("fault %d: %s", which, why.s);
    device_give(d, out);
    device_close(d);
}

static void test_faults(void **state)
{
    (void)state;
    for (int order = 0; order < 3; order++) {
        simt_set_order((enum simt_order)order, 5);
        expect_fault(0, 64, "waits at a barrier, thread");
        expect_fault(1, 32, "waits for lanes that do not come (others have ended)");
        expect_fault(2, 64, "waits at a barrier while thread");
        expect_fault(3, 32, "a lane calls that its mask leaves out");
        expect_fault(4, 32, "shuffle from a lane that is absent");
    }
    simt_set_order(SIMT_ASCENDING, 1);
    struct device *d;
    struct err_text why = {""};
    int here = 0;
    assert_int_equal(device_open(0, &d, NULL), OK);
    LAUNCH(fault, 1, 32, 0, device_stream(d), 9, &here);
    assert_int_equal(device_error(d, &why), ERR_DEVICE);
    assert_non_null(strstr(why.s, "is given a pointer to host memory"));
    device_close(d);
    assert_int_equal(device_open(0, &d, NULL), OK);
    LAUNCH(fault, dim3(1, 70000), 32, 0, device_stream(d), 9, (int *)NULL);
    device_wait(d);
    assert_int_equal(device_error(d, &why), ERR_DEVICE);
    assert_non_null(strstr(why.s, "blocks in y, z"));
    device_close(d);
}

// -- bounds: the process ends, so this program is started again to go there --

static __global__ void reach(int which, int at, int *out)
{
    __shared__ int fixed[40];
    SIMT_DYNAMIC_SHARED(int, asked);
    for (int i = 0; i < 40; i++)
        fixed[i] = i;
    if (which == 0) out[at] = 1;
    if (which == 1) asked[at] = 1;
    if (which == 2) out[0] = fixed[at];
}

static int go_there(int which, int at)
{
    alarm(100);
    if (open_device(NULL)) return 2;
    void *out;
    if (device_take(device, 100 * sizeof(int), "a test", &out, NULL)) return 2;
    LAUNCH(reach, 1, 1, 200, stream, which, at, (int *)out);
    device_wait(device);
    return 0;
}

static const char *program;

// True: the child came back.
static bool survives(int which, int at)
{
    char w[16], a[16];
    snprintf(w, sizeof w, "%d", which);
    snprintf(a, sizeof a, "%d", at);
    const pid_t child = fork();
    if (!child) {
        const int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, 2);
        setenv("ASAN_OPTIONS", "symbolize=0:detect_leaks=0", 1);
        execl(program, program, "reach", w, a, (char *)NULL);
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status == 0;
}

static void test_bounds(void **state)
{
    (void)state;
    assert_true(survives(0, 99) && survives(1, 49) && survives(2, 39));
    assert_false(survives(0, 1024)); // behind the page
#ifdef __SANITIZE_ADDRESS__
    const bool sees_bytes = true;
#elif defined(__has_feature)
    const bool sees_bytes = __has_feature(address_sanitizer);
#else
    const bool sees_bytes = false;
#endif
    if (!sees_bytes) return;
    assert_false(survives(0, 100));
    assert_false(survives(1, 50));
    assert_false(survives(2, 40));
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 4) return go_there(atoi(argv[2]), atoi(argv[3]));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),    cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_collectives), cmocka_unit_test(test_copies),
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
