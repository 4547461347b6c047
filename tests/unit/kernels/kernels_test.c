#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#define KERNELS_CHECK_NO_MAIN
#include "tests/unit/kernels/kernels_check.c"
#include "kernels/cpu/pool.h"
#include "proto/base/json.h"

#include <stdatomic.h>
#include <time.h>

// Every operation on the instruction sets of this machine, which give the same bits.
static void test_operations(void **state)
{
    (void)state;
#if defined(__aarch64__)
    static const char *const names[] = {"reference", "neon", "dotprod", "i8mm"};
#else
    static const char *const names[] = {"reference", "avx2", "vnni"};
#endif
    assert_int_equal(check_all(names, sizeof names / sizeof *names, check_isa), 0);
}

// -- the blocks of an independent implementation --

struct fixture {
    uint8_t *data;
    const uint8_t *tensors; // after the header
    struct arena arena;
    const struct json *header;
};

static bool fixture_open(struct fixture *f)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    char path[4096];
    snprintf(path, sizeof path, "%s/gguf/blocks.safetensors", dir ? dir : "../shared/fixtures");
    FILE *file = fopen(path, "rb");
    if (!file) {
        printf("SKIPPED: no fixture %s (set TRIREME_FIXTURES)\n", path);
        return false;
    }
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    f->data = malloc(size);
    assert_non_null(f->data);
    assert_int_equal(fread(f->data, 1, size, file), size);
    fclose(file);
    uint64_t n;
    memcpy(&n, f->data, 8);
    f->tensors = f->data + 8 + n;
    arena_init(&f->arena, 0);
    assert_int_equal(json_read((char *)f->data + 8, n, &f->arena, &f->header, NULL, NULL), OK);
    return true;
}

static const void *fixture_tensor(const struct fixture *f, const char *type, const char *part)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", type, part);
    const struct json *o = json_get(json_get(f->header, name), "data_offsets");
    assert_non_null(o);
    return f->tensors + o->arr.items[0].i;
}

static void check_fixture_type(const struct fixture *f, enum dtype t, enum precision p)
{
    enum { ROWS = 16, COLS = 512, TOK = 3 };
    const char *type = dtype_info(t)->name;
    const uint8_t *raw = fixture_tensor(f, type, ".raw");
    static float value[ROWS * COLS], x[TOK * COLS], want[TOK * ROWS];
    float got[ROWS * COLS], y[TOK * ROWS];
    memcpy(value, fixture_tensor(f, type, ".f32"), sizeof value);
    memcpy(want, fixture_tensor(f, type, ".y"), sizeof want);
    memcpy(x, fixture_tensor(f, "x", ""), sizeof x);
    struct kernels *k = open_isa(2, p);
    struct view w = pack(k, t, raw, ROWS, COLS);
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++)
        ids[i] = i;
    k->ops->embed(k, &w, ids, ROWS, got);
    for (int i = 0; i < ROWS * COLS; i++) // at most one ulp: the order of two multiplications
        assert_true(fabs((double)got[i] - (double)value[i]) <= fabs((double)value[i]) * 1.2e-7);
    struct gemm_job job = {&w, NULL, y, ROWS, false};
    k->ops->gemm(k, x, TOK, COLS, &job, 1);
    for (int i = 0; i < TOK * ROWS; i++) {
        double nx = 0, nw = 0, e = fabs((double)y[i] - (double)want[i]);
        for (int c = 0; c < COLS; c++) {
            nx += (double)x[i / ROWS * COLS + c] * (double)x[i / ROWS * COLS + c];
            nw += (double)value[i % ROWS * COLS + c] * (double)value[i % ROWS * COLS + c];
        }
        assert_true(e <= (p == PRECISION_EXACT ? 1e-6 : 3e-3) * sqrt(nx * nw));
    }
    free(w.data);
    k->ops->close(k);
}

static void test_fixture_blocks(void **state)
{
    (void)state;
    struct fixture f;
    if (!fixture_open(&f)) skip();
    static const char *const names[] = {"reference", NULL};
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < N_TYPE; i++) {
            isa_name = names[n];
            if (types[i] == DT_F32 || dtype_info(types[i])->ggml < 0) continue; // no fixture
            check_fixture_type(&f, types[i], PRECISION_EXACT);
            check_fixture_type(&f, types[i], PRECISION_FAST);
        }
    arena_fini(&f.arena);
    free(f.data);
}

// -- pool --

struct pool_count {
    _Atomic int32_t hits[1000];
    _Atomic int32_t bad_thread;
    int32_t n_threads;
};

static void pool_count_item(void *arg, int32_t item, int32_t thread)
{
    struct pool_count *c = arg;
    atomic_fetch_add(&c->hits[item], 1);
    if (thread < 0 || thread >= c->n_threads) atomic_store(&c->bad_thread, 1);
}

// Every item exactly once, for regions in quick succession and after the threads fell asleep, with
// more threads than cores.
static void test_pool(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 9; threads += 4) {
        struct pool *p;
        assert_int_equal(pool_open(threads, &p), OK);
        static struct pool_count c;
        memset(&c, 0, sizeof c);
        c.n_threads = threads;
        int32_t want[1000] = {0};
        for (int round = 0; round < 2000; round++) {
            int n = round % 7 == 0 ? 1000 : round % 5;
            uint64_t before = pool_progress(p);
            pool_run(p, n, pool_count_item, &c);
            assert_true(pool_progress(p) > before);
            for (int i = 0; i < n; i++)
                want[i]++;
            if (round % 500 == 0) {
                struct timespec t = {0, 2000000};
                nanosleep(&t, NULL);
            }
        }
        for (int i = 0; i < 1000; i++)
            assert_int_equal(atomic_load(&c.hits[i]), want[i]);
        assert_int_equal(atomic_load(&c.bad_thread), 0);
        pool_close(p);
    }
    struct pool *p = NULL;
    assert_int_equal(pool_open(0, &p), ERR_CONFIG);
    assert_null(p);
}

static void test_peaks(void **state)
{
    (void)state;
    struct kernels_peaks p = {0};
    assert_int_equal(kernels_measure_peaks(2, 1, &p), OK);
    assert_true(p.read_bytes_per_s > 1e7 && p.int8_ops_per_s > 1e7 && p.f32_flops_per_s > 1e6);
    assert_int_equal(kernels_measure_peaks(0, 1, &p), ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),
        cmocka_unit_test(test_fixture_blocks),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_peaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
