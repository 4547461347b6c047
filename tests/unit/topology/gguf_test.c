// GGUF headers: what is well-formed reads back exactly; what is not is refused with one sentence
// that names the file and the key or tensor. Rows are grouped as in the reliability catalogue
// (M01-M08).
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/gguf_make.h"
#include "topology/sha256.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

// One refused file: the sentence is one line of at most 300 bytes, names the file and holds
// `needle`; it took less than a second; the output is untouched.
static void refused_path(const char *path, const char *needle)
{
    struct gguf *g = (struct gguf *)(uintptr_t)1;
    struct err_text why = {{0}};
    int64_t t0 = soon_now_us();
    err_t e = gguf_open(path, &g, &why);
    bool soon = soon_is(t0, 1000000);
    const char *tail = strlen(path) > 80 ? path + strlen(path) - 80 : path;
    if (e != ERR_MODEL || !strstr(why.s, needle) || !strstr(why.s, tail))
        fail_msg("error %d: '%s', expected '%s'", e, why.s, needle);
    assert_true(strlen(why.s) < 300);
    for (const char *p = why.s; *p; p++)
        assert_true((unsigned char)*p >= 0x20);
    assert_true(soon);
    assert_ptr_equal(g, (void *)(uintptr_t)1);
}

static void refused(struct buf *b, const char *needle)
{
    char path[64];
    make_file(b, path, sizeof path);
    refused_path(path, needle);
    unlink(path);
    buf_fini(b);
}

static struct gguf *accepted(struct buf *b)
{
    char path[64];
    struct gguf *g = NULL;
    struct err_text why = {{0}};
    make_file(b, path, sizeof path);
    if (gguf_open(path, &g, &why)) fail_msg("%s", why.s);
    unlink(path);
    buf_fini(b);
    return g;
}

// ---- good files

static void reads_every_type(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err_text why;
    make_head(&b, 3, 0, 16);
    make_int(&b, "u8", GGUF_U8, 200, 1);
    make_int(&b, "i8", GGUF_I8, 0xff, 1);
    make_int(&b, "u16", GGUF_U16, 65535, 2);
    make_int(&b, "i16", GGUF_I16, 0x8000, 2);
    make_u32(&b, "u32", 4000000000u);
    make_int(&b, "i32", GGUF_I32, 7, 4);
    make_f32(&b, "f32", 0.5f);
    make_int(&b, "yes", GGUF_BOOL, 1, 1);
    make_str(&b, "str", "h\xc3\xa9");
    make_int(&b, "u64", GGUF_U64, (uint64_t)1 << 40, 8);
    make_int(&b, "i64", GGUF_I64, 5, 8);
    make_int(&b, "f64", GGUF_F64, 0x3ff8000000000000, 8);
    make_arr(&b, "strs", GGUF_STR, 3);
    make_bytes(&b, "a", 1);
    make_bytes(&b, "", 0);
    make_bytes(&b, "a\0b", 3);
    make_arr(&b, "i16s", GGUF_I16, 2);
    make_le(&b, 0xfffe, 2);
    make_le(&b, 9, 2);
    make_arr(&b, "none", GGUF_F32, 0);
    make_arr(&b, "bools", GGUF_BOOL, 2);
    make_le(&b, 0x0100, 2);
    struct gguf *g = accepted(&b);
    uint32_t u;
    float f;
    bool yes;
    struct gguf_str s;
    assert_int_equal(gguf_n_kv(g), 16);
    assert_int_equal(gguf_get_u32(g, "u8", &u, &why), OK);
    assert_int_equal(u, 200);
    assert_int_equal(gguf_get_u32(g, "u16", &u, &why), OK);
    assert_int_equal(u, 65535);
    assert_int_equal(gguf_get_u32(g, "u32", &u, &why), OK);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(gguf_get_u32(g, "i32", &u, &why), OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_u32(g, "i64", &u, &why), OK);
    assert_int_equal(u, 5);
    assert_int_equal(gguf_get_u32(g, "i8", &u, &why), ERR_MODEL);
    assert_int_equal(gguf_get_u32(g, "i16", &u, &why), ERR_MODEL);
    assert_int_equal(gguf_get_u32(g, "u64", &u, &why), ERR_MODEL);
    assert_int_equal(gguf_get_u32(g, "str", &u, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "key 'str': found string, allowed an integer"));
    assert_int_equal(gguf_get_u32(g, "strs", &u, &why), ERR_MODEL);
    assert_int_equal(gguf_get_u32(g, "absent", &u, &why), ERR_NOT_FOUND);
    assert_int_equal(u, 5);
    assert_int_equal(gguf_get_f32(g, "f32", &f, &why), OK);
    assert_float_equal(f, 0.5, 0);
    assert_int_equal(gguf_get_f32(g, "f64", &f, &why), OK);
    assert_float_equal(f, 1.5, 0);
    assert_int_equal(gguf_get_f32(g, "u32", &f, &why), ERR_MODEL);
    assert_int_equal(gguf_get_bool(g, "yes", &yes, &why), OK);
    assert_true(yes);
    assert_int_equal(gguf_get_bool(g, "u8", &yes, &why), ERR_MODEL);
    assert_int_equal(gguf_get_str(g, "str", &s, &why), OK);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.s, "h\xc3\xa9", 3);
    gguf_close(g);
}

static void reads_arrays(void **state)
{
    (void)state;
    struct buf b = {0};
    struct err_text why;
    struct arena a;
    arena_init(&a, 0);
    make_head(&b, 2, 0, 4);
    make_arr(&b, "strs", GGUF_STR, 2);
    make_bytes(&b, "one", 3);
    make_bytes(&b, "", 0);
    make_arr(&b, "i16s", GGUF_I16, 2);
    make_le(&b, 0xfffe, 2);
    make_le(&b, 9, 2);
    make_arr(&b, "u8s", GGUF_U8, 3); // a reader of floats must not take these
    make_le(&b, 0x010203, 3);
    make_arr(&b, "u32s", GGUF_U32, 1);
    make_le(&b, 0x80000000, 4);
    struct gguf *g = accepted(&b);
    const struct gguf_str *strs;
    const int32_t *ints;
    const float *floats = NULL;
    uint64_t n = 77;
    assert_int_equal(gguf_get_strs(g, "strs", &a, &strs, &n, &why), OK);
    assert_int_equal(n, 2);
    assert_memory_equal(strs[0].s, "one", 3);
    assert_int_equal(strs[1].len, 0);
    assert_int_equal(gguf_get_i32s(g, "i16s", &a, &ints, &n, &why), OK);
    assert_int_equal(ints[0], -2);
    assert_int_equal(ints[1], 9);
    n = 77;
    assert_int_equal(gguf_get_f32s(g, "u8s", &a, &floats, &n, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "found array of uint8, allowed array of float32"));
    assert_int_equal(gguf_get_strs(g, "u8s", &a, &strs, &n, &why), ERR_MODEL);
    assert_int_equal(gguf_get_i32s(g, "u32s", &a, &ints, &n, &why), ERR_MODEL);
    assert_int_equal(gguf_get_i32s(g, "strs", &a, &ints, &n, &why), ERR_MODEL);
    assert_int_equal(gguf_get_f32s(g, "absent", &a, &floats, &n, &why), ERR_NOT_FOUND);
    assert_int_equal(n, 77);
    assert_null(floats);
    gguf_close(g);
    arena_fini(&a);
}

static void reads_tensors(void **state)
{
    (void)state;
    struct buf b = {0};
    make_head(&b, 3, 4, 1);
    make_u32(&b, "general.alignment", 64);
    make_tensor(&b, "a", 1, (uint64_t[]){3}, 0, 0);                // F32: 12 bytes
    make_tensor(&b, "b", 2, (uint64_t[]){256, 2}, 12, 64);         // Q4_K: 288 bytes
    make_tensor(&b, "c", 4, (uint64_t[]){32, 1, 2, 3}, 15, 384);   // Q8_K: never of a weight
    make_tensor(&b, "d", 3, (uint64_t[]){2, 3, 4}, 1, 384 + 1024); // F16: 48 bytes
    make_pad(&b, 64);
    size_t start = b.len;
    for (int i = 0; i < 384 + 1024 + 48; i++)
        buf_char(&b, 0);
    struct gguf *g = accepted(&b);
    assert_int_equal(gguf_n_tensor(g), 4);
    const struct gguf_tensor *t = gguf_tensor_find(g, "b");
    assert_non_null(t);
    assert_ptr_equal(t, gguf_tensor_at(g, 1));
    assert_int_equal(t->dtype, DT_Q4_K);
    assert_int_equal(t->n_dim, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 256);
    assert_int_equal(t->bytes, 288);
    assert_int_equal(t->offset, start + 64);
    t = gguf_tensor_find(g, "c");
    assert_int_equal(t->dtype, DT_NONE);
    assert_int_equal(t->ggml_type, 15);
    assert_int_equal(t->bytes, 0);
    t = gguf_tensor_find(g, "d");
    assert_int_equal(t->shape[0], 4);
    assert_int_equal(t->shape[2], 2);
    assert_int_equal(t->offset + t->bytes, gguf_file_bytes(g));
    assert_null(gguf_tensor_find(g, "e"));
    assert_null(gguf_tensor_find(g, ""));
    gguf_close(g);
}

static const char *fixtures(void)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    return dir ? dir : "../shared/fixtures";
}

static int open_all(const char *folder, const char *file)
{
    char path[512];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", fixtures(), folder);
    DIR *d = opendir(path);
    for (struct dirent *it; d && (it = readdir(d));) {
        char full[1024];
        struct stat st;
        snprintf(full, sizeof full, "%s/%s/%s", path, it->d_name, file);
        if (it->d_name[0] == '.' || stat(full, &st)) continue;
        struct gguf *g;
        struct err_text why;
        if (gguf_open(full, &g, &why)) fail_msg("%s", why.s);
        for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(g, i);
            char name[65] = {0};
            memcpy(name, t->name.s, t->name.len);
            assert_ptr_equal(gguf_tensor_find(g, name), t);
        }
        gguf_close(g);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static void reads_all_fixtures(void **state)
{
    (void)state;
    int models = open_all("gguf", "model.gguf"), vocabs = open_all("tokenizers", "vocab.gguf");
    if (models + vocabs == 0) {
        print_message("SKIPPED: no fixtures at %s (set TRIREME_FIXTURES)\n", fixtures());
        skip();
    }
    assert_true(models >= 19);
    assert_true(vocabs >= 6);
}

// Adding files must not make loading quadratic: 100,000 tensors and keys.
static void opens_large_tables_quickly(void **state)
{
    (void)state;
    enum { N = 100000, KEYS = 60000 };
    struct buf b = {0};
    char name[32];
    make_head(&b, 3, N, KEYS);
    for (int i = 0; i < KEYS; i++) {
        snprintf(name, sizeof name, "key.%d", i);
        make_u32(&b, name, (uint32_t)i);
    }
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        make_tensor(&b, name, 1, (uint64_t[]){8}, 0, (uint64_t)i * 32);
    }
    make_pad(&b, 32);
    for (int i = 0; i < N * 32; i++)
        buf_char(&b, 0);
    char path[64];
    struct gguf *g;
    struct err_text why = {{0}};
    make_file(&b, path, sizeof path);
    int64_t t0 = soon_now_us();
    if (gguf_open(path, &g, &why)) fail_msg("%s", why.s);
    print_message("100000 tensors and 60000 keys: %.1f ms\n", (double)(soon_now_us() - t0) / 1e3);
    assert_true(soon_is(t0, 500000));
    assert_non_null(gguf_tensor_find(g, "blk.99999.weight"));
    gguf_close(g);
    unlink(path);
    buf_fini(&b);
}

static void hash_tells_headers_apart(void **state)
{
    (void)state;
    uint8_t hash[3][32];
    for (int i = 0; i < 3; i++) {
        struct buf b = {0};
        make_head(&b, 3, 0, 1);
        make_u32(&b, "k", i == 1 ? 2 : 1);
        struct gguf *g = accepted(&b);
        memcpy(hash[i], gguf_hash(g), 32);
        gguf_close(g);
    }
    assert_memory_equal(hash[0], hash[2], 32);
    assert_memory_not_equal(hash[0], hash[1], 32);
}

// Two trainings of one model: only the weights differ.
static void hash_tells_weights_apart(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    uint8_t hash[3][32];
    for (int i = 0; i < 3; i++) {
        struct buf b = {0};
        make_head(&b, 3, 1, 0);
        make_tensor(&b, "a", 1, (uint64_t[]){N}, 0, 0);
        make_pad(&b, 32);
        for (int k = 0; k < N; k++)
            make_le(&b, (uint64_t)(i == 1 ? 2 * k : k), 4);
        struct gguf *g = accepted(&b);
        memcpy(hash[i], gguf_hash(g), 32);
        gguf_close(g);
    }
    assert_memory_equal(hash[0], hash[2], 32);
    assert_memory_not_equal(hash[0], hash[1], 32);
}

static void sha256_matches_published_values(void **state)
{
    (void)state;
    static const struct {
        const char *text, *hex;
    } cases[] = {
        // FIPS 180-4 examples.
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sha256 s;
        uint8_t out[32];
        char hex[65];
        sha256_init(&s);
        for (const char *p = cases[i].text; *p; p++) // in the smallest pieces
            sha256_add(&s, p, 1);
        sha256_end(&s, out);
        for (int k = 0; k < 32; k++)
            snprintf(hex + 2 * k, 3, "%02x", out[k]);
        assert_string_equal(hex, cases[i].hex);
    }
    // FIPS 180-4's long example, and pieces of all lengths, with and without the processor's help.
    uint8_t out[2][32];
    char chunk[1000];
    memset(chunk, 'a', sizeof chunk);
    for (int soft = 0; soft < 2; soft++) {
        struct sha256 s;
        sha256_init(&s);
        s.is_hard = s.is_hard && !soft;
        for (int i = 0; i < 1000; i++)
            sha256_add(&s, chunk, sizeof chunk);
        sha256_end(&s, out[soft]);
        assert_memory_equal(out[soft], "\xcd\xc7\x6e\x5c\x99\x14\xfb\x92\x81\xa1\xc7\xe2\x84\xd7",
                            14);
        sha256_init(&s);
        s.is_hard = s.is_hard && !soft;
        for (size_t i = 0; i < sizeof chunk; i++) {
            chunk[i] = (char)(i * 7);
            sha256_add(&s, chunk + i / 2, i - i / 2);
        }
        sha256_end(&s, out[soft]);
        memset(chunk, 'a', sizeof chunk);
    }
    assert_memory_equal(out[0], out[1], sizeof out[0]);
}

// ---- M01: magic, version, sizes, things that are no files

static void m01_not_a_gguf_file(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 3, 7, 23};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf b = {0};
        struct buf head = {0};
        make_head(&head, 3, 0, 0);
        buf_add(&b, head.data, sizes[i]);
        refused(&b, "a GGUF file has at least 24");
        buf_fini(&head);
    }
    struct buf b = {0};
    make_head(&b, 3, 0, 0);
    b.data[0] = 'g';
    refused(&b, "begins with 67 47 55 46");
    static const struct {
        uint32_t version;
        const char *needle;
    } versions[] = {{0, "version 0, allowed 2 and 3"},
                    {1, "version 1, allowed 2 and 3"},
                    {4, "version 4, allowed 2 and 3"},
                    {0xffffffff, "allowed 2 and 3"},
                    {0x03000000, "big-endian"}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        b = (struct buf){0};
        make_head(&b, versions[i].version, 0, 0);
        refused(&b, versions[i].needle);
    }
}

static void m01_not_a_regular_file(void **state)
{
    (void)state;
    char fifo[64];
    snprintf(fifo, sizeof fifo, "/tmp/trireme-fifo-%d", (int)getpid());
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refused_path(fifo, "is a pipe, expected a regular file");
    unlink(fifo);
    refused_path("/tmp", "is a directory, expected a regular file");
    refused_path("/dev/zero", "is a device or socket, expected a regular file");
    struct gguf *g;
    struct err_text why;
    assert_int_equal(gguf_open("/tmp/no-such-file.gguf", &g, &why), ERR_SYSTEM);
    assert_non_null(strstr(why.s, "/tmp/no-such-file.gguf: cannot open: No such file"));
}

// A process that truncates the file again and again while we read it: any answer, but no signal.
static void m01_shrinks_while_read(void **state)
{
    (void)state;
    struct buf b = {0};
    char path[64];
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", GGUF_U8, 8 << 20);
    for (int i = 0; i < 8 << 20; i++)
        buf_char(&b, 1);
    make_file(&b, path, sizeof path);
    pid_t child = fork();
    if (child == 0) {
        for (;;) {
            int fd = open(path, O_WRONLY);
            if (ftruncate(fd, 100000)) _exit(1);
            if (pwrite(fd, b.data, b.len, 0) < 0) _exit(1);
            close(fd);
            usleep(3000);
        }
    }
    int n_shrunk = 0, n_ok = 0, n_read = 0;
    int64_t until = clock_now_us() + 3000000;
    for (; n_read < 60 || (n_shrunk < 3 && clock_now_us() < until); n_read++) {
        struct gguf *g;
        struct err_text why = {{0}};
        err_t e = gguf_open(path, &g, &why);
        assert_true(e == OK || e == ERR_MODEL);
        n_shrunk += strstr(why.s, "shrank") != NULL;
        n_ok += e == OK;
        if (!e) gguf_close(g);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    print_message("of %d reads %d whole, %d saw it shrink\n", n_read, n_ok, n_shrunk);
    unlink(path);
    buf_fini(&b);
}

// ---- M02: counts

static void m02_counts(void **state)
{
    (void)state;
    static const uint64_t counts[] = {2,
                                      1000,
                                      (uint64_t)1 << 32,
                                      (uint64_t)1 << 63,
                                      UINT64_MAX,
                                      UINT64_MAX / sizeof(struct gguf_tensor) + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct buf b = {0};
        make_head(&b, 3, 0, counts[i]);
        refused(&b, "metadata entries, a file of this size has at most 0");
        b = (struct buf){0};
        make_head(&b, 3, counts[i], 0);
        make_le(&b, 0, 8);
        refused(&b, "tensors, a file of this size has at most 0");
    }
    struct buf b = {0};
    make_head(&b, 3, 0, 2); // one more than is there
    make_u32(&b, "one", 1);
    make_le(&b, 0, 8);
    make_le(&b, 0, 4);
    refused(&b, "key number 1: its name has 0 bytes");
    b = (struct buf){0};
    make_head(&b, 3, 1, 1);
    make_str(&b, "a", "long enough for one tensor to fit in this file by its size");
    refused(&b, "tensor number 0: needs 8 bytes");
}

// ---- M03: strings

static void m03_strings(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {(uint64_t)1 << 63, UINT64_MAX, 1000};
    struct buf b;
    for (size_t i = 0; i < 3; i++) {
        b = (struct buf){0};
        make_head(&b, 3, 0, 1);
        make_key(&b, "long", GGUF_STR);
        make_le(&b, lengths[i], 8);
        buf_str(&b, "only this");
        refused(&b, i == 2 ? "key 'long': needs 1000 bytes" : "key 'long': string 0 has");
        b = (struct buf){0};
        make_head(&b, 3, 0, 1);
        make_le(&b, lengths[i], 8);
        buf_str(&b, "only this here");
        refused(&b, i == 2 ? "needs 1000 bytes at byte 32" : "allowed 1 to 65535");
    }
    static const char *const bad_utf8[] = {
        "\xff",         "\xc0\x80",         "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80",
        "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xc3("};
    for (size_t i = 0; i < sizeof bad_utf8 / sizeof *bad_utf8; i++) {
        b = (struct buf){0};
        make_head(&b, 3, 0, 1);
        make_str(&b, "bad", bad_utf8[i]);
        refused(&b, "key 'bad': string 0 is not UTF-8");
        b = (struct buf){0};
        make_head(&b, 3, 0, 1);
        make_u32(&b, bad_utf8[i], 1);
        refused(&b, "is not UTF-8 or holds control bytes");
    }
    static const char *const control[] = {"a\nerror: b", "a\x1b[2J", "a\x7f"};
    for (size_t i = 0; i < sizeof control / sizeof *control; i++) {
        b = (struct buf){0};
        make_head(&b, 3, 0, 1);
        make_u32(&b, control[i], 1);
        refused(&b, "key number 0: its name is not UTF-8 or holds control bytes");
    }
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_bytes(&b, "a\0b", 3);
    make_le(&b, GGUF_U32, 4);
    make_le(&b, 1, 4);
    refused(&b, "holds control bytes");
}

static void m03_long_string(void **state)
{
    (void)state;
    struct buf b = {0};
    make_head(&b, 3, 0, 1);
    make_key(&b, "huge", GGUF_STR);
    make_le(&b, 64 << 20, 8);
    for (int i = 0; i < 64 << 20; i++)
        buf_char(&b, 'x');
    refused(&b, "key 'huge': string 0 has 67108864 bytes, allowed 16777216");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    char key[300];
    memset(key, 'k', sizeof key);
    key[299] = 0;
    make_key(&b, key, 99);
    refused(&b, "kkk...': value type 99, allowed 0 to 12");
}

// ---- M04: arrays

static void m04_arrays(void **state)
{
    (void)state;
    struct buf b = {0};
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", 13, 1);
    refused(&b, "key 'a': array of element type 13");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", GGUF_ARR, 1);
    refused(&b, "key 'a': array of element type 9");
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 61, (uint64_t)1 << 62, 1000000000};
    for (size_t i = 0; i < 4; i++)
        for (uint32_t t = 0; t < 13; t++) {
            if (t == GGUF_ARR) continue;
            b = (struct buf){0};
            make_head(&b, 3, 0, 1);
            make_arr(&b, "a", t, counts[i]);
            make_le(&b, 0, 8);
            refused(&b, "elements, allowed 16777216");
        }
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", GGUF_I64, 3);
    make_le(&b, 0, 8);
    refused(&b, "key 'a': needs 24 bytes");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", GGUF_STR, 2);
    make_bytes(&b, "x", 1);
    make_bytes(&b, "\xff", 1);
    refused(&b, "key 'a': string 1 is not UTF-8");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_arr(&b, "a", GGUF_BOOL, 2);
    make_le(&b, 0x0201, 2);
    refused(&b, "key 'a': a boolean is 2, allowed 0 and 1");
}

// ---- M05: names

static void m05_names(void **state)
{
    (void)state;
    struct buf b = {0};
    make_head(&b, 3, 0, 3);
    make_u32(&b, "twice", 1);
    make_u32(&b, "once", 1);
    make_str(&b, "twice", "x");
    refused(&b, "key 'twice': is there twice, allowed once");
    b = (struct buf){0};
    make_head(&b, 3, 2, 0);
    make_tensor(&b, "same", 1, (uint64_t[]){8}, 0, 0);
    make_tensor(&b, "same", 1, (uint64_t[]){8}, 0, 32);
    make_pad(&b, 32);
    for (int i = 0; i < 64; i++)
        buf_char(&b, 0);
    refused(&b, "tensor 'same': is there twice, allowed once");
    b = (struct buf){0};
    make_head(&b, 3, 1, 0);
    make_tensor(&b, "12345678901234567890123456789012345678901234567890123456789012345", 1,
                (uint64_t[]){8}, 0, 0);
    refused(&b, "tensor number 0: its name has 65 bytes, allowed 1 to 64");
    b = (struct buf){0};
    make_head(&b, 3, 1, 0);
    make_tensor(&b, "", 1, (uint64_t[]){8}, 0, 0);
    make_le(&b, 0, 8);
    refused(&b, "tensor number 0: its name has 0 bytes, allowed 1 to 64");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_u32(&b, "", 1);
    refused(&b, "key number 0: its name has 0 bytes");
}

// ---- M06-M08: tensors

struct bad_tensor {
    uint32_t n_dim;
    uint64_t dims[5];
    uint32_t type;
    uint64_t offset;
    const char *needle;
};

static void refused_tensor(const struct bad_tensor *t)
{
    struct buf b = {0};
    make_head(&b, 3, 1, 0);
    make_bytes(&b, "the.tensor", 10);
    make_le(&b, t->n_dim, 4);
    for (uint32_t i = 0; i < t->n_dim && i < 5; i++)
        make_le(&b, t->dims[i], 8);
    make_le(&b, t->type, 4);
    make_le(&b, t->offset, 8);
    make_pad(&b, 32);
    for (int i = 0; i < 4096; i++)
        buf_char(&b, 0);
    char needle[200];
    snprintf(needle, sizeof needle, "tensor 'the.tensor': %s", t->needle);
    refused(&b, needle);
}

static void m06_shapes(void **state)
{
    (void)state;
    static const struct bad_tensor cases[] = {
        {0, {0}, 0, 0, "0 dimensions, allowed 1 to 4"},
        {5, {1, 1, 1, 1, 1}, 0, 0, "5 dimensions, allowed 1 to 4"},
        {0xffffffff, {1}, 0, 0, "4294967295 dimensions, allowed 1 to 4"},
        {1, {0}, 0, 0, "dimension 1 of 1 is 0, allowed 1 to"},
        {2, {8, 0}, 0, 0, "dimension 1 of 2 is 0, allowed 1 to"},
        {1, {UINT64_MAX}, 0, 0, "dimension 1 of 1 is 18446744073709551615, allowed"},
        {1, {((uint64_t)1 << 42) + 1}, 0, 0, "its data ends 17592186044420 bytes after"},
        {4, {1 << 30, 1 << 30, 1 << 30, 4}, 0, 0, "its dimensions multiply to over 2^63-1"},
        {2, {(uint64_t)1 << 32, (uint64_t)1 << 32}, 0, 0, "its dimensions multiply to over 2^63-1"},
        {2, {(uint64_t)1 << 31, ((uint64_t)1 << 31) - 1}, 0, 0, "its data would take over 2^63-1"},
        {2, {(uint64_t)1 << 30, (uint64_t)1 << 31}, 0, 0, "its data would take over 2^63-1"},
        {1, {((uint64_t)1 << 61) - 1}, 0, 0, "its data ends 9223372036854775804 bytes after"},
        {1, {33}, 2, 0, "rows of 33 elements, allowed with Q4_0: multiples of 32"},
        {2, {128, 2}, 12, 0, "rows of 128 elements, allowed with Q4_K: multiples of 256"},
        {1, {1025}, 0, 0, "its data ends 4100 bytes after"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_tensor(&cases[i]);
}

static void m07_offsets(void **state)
{
    (void)state;
    static const struct bad_tensor cases[] = {
        {1, {8}, 0, 7, "offset 7 is not a multiple of the alignment 32"},
        {1, {8}, 0, 32, "offset 32, expected 0"},
        {1, {8}, 0, (uint64_t)1 << 63, "offset 9223372036854775808, expected 0"},
        {1, {8}, 0, UINT64_MAX - 31, "offset 18446744073709551584, expected 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_tensor(&cases[i]);
    static const struct {
        uint64_t offset[3];
        uint32_t type[3];
        const char *needle;
    } tables[] = {
        {{0, 32, 32}, {0, 0, 0}, "tensor 'c': offset 32, expected 64"},        // equal
        {{0, 0, 32}, {0, 0, 0}, "tensor 'b': offset 0, expected 32"},          // equal, overlap
        {{64, 32, 0}, {0, 0, 0}, "tensor 'a': offset 64, expected 0"},         // descending
        {{0, 64, 96}, {0, 0, 0}, "tensor 'b': offset 64, expected 32"},        // hole
        {{0, 32, 32}, {0, 15, 0}, "tensor 'c': offset 32, expected at least"}, // size unknown
        {{0, 32, 1 << 15}, {0, 15, 0}, "tensor 'c': its data ends 32 bytes after"},
        {{0, 32, 1 << 15}, {0, 15, 15}, "tensor 'c': its data ends 1 bytes after"},
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        struct buf b = {0};
        make_head(&b, 3, 3, 0);
        for (int k = 0; k < 3; k++)
            make_tensor(&b,
                        k == 0   ? "a"
                        : k == 1 ? "b"
                                 : "c",
                        1, (uint64_t[]){8}, tables[i].type[k], tables[i].offset[k]);
        make_pad(&b, 32);
        for (int k = 0; k < 256; k++)
            buf_char(&b, 0);
        refused(&b, tables[i].needle);
    }
}

static void m07_alignment(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1, 3, 4, 33, (uint32_t)1 << 31, (1 << 20) + 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf b = {0};
        make_head(&b, 3, 0, 1);
        make_u32(&b, "general.alignment", bad[i]);
        refused(&b, "key 'general.alignment': ");
    }
    struct buf b = {0};
    make_head(&b, 3, 0, 1);
    make_str(&b, "general.alignment", "32");
    refused(&b, "key 'general.alignment': found string, allowed an integer");
    b = (struct buf){0};
    make_head(&b, 3, 0, 1);
    make_f32(&b, "general.alignment", 32);
    refused(&b, "key 'general.alignment': found float32, allowed an integer");
    b = (struct buf){0}; // the data section would begin past the end of the file
    make_head(&b, 3, 1, 1);
    make_u32(&b, "general.alignment", 1 << 20);
    make_tensor(&b, "t", 1, (uint64_t[]){8}, 0, 0);
    refused(&b, "tensor 't': its data ends 32 bytes after byte 1048576");
}

static void m08_types(void **state)
{
    (void)state;
    static const uint32_t types[] = {4, 5, 31, 32, 33, 36, 37, 38, 1000, 0xffffffff};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char needle[64];
        snprintf(needle, sizeof needle, "tensor type number %u, which GGML does not", types[i]);
        refused_tensor(&(struct bad_tensor){1, {256}, types[i], 0, needle});
    }
}

// Every cut of a good file is refused or still good, never worse.
static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct buf b = {0};
    make_head(&b, 3, 2, 4);
    make_u32(&b, "a.number", 1);
    make_str(&b, "a.string", "text");
    make_arr(&b, "strings", GGUF_STR, 2);
    make_bytes(&b, "x", 1);
    make_bytes(&b, "yy", 2);
    make_arr(&b, "floats", GGUF_F32, 2);
    make_le(&b, 0, 8);
    make_tensor(&b, "one", 2, (uint64_t[]){32, 2}, 2, 0);
    make_tensor(&b, "two", 1, (uint64_t[]){8}, 0, 64);
    make_pad(&b, 32);
    for (int i = 0; i < 96; i++)
        buf_char(&b, 0);
    size_t whole = b.len;
    for (size_t len = 0; len < whole; len++) {
        struct buf cut = {0};
        buf_add(&cut, b.data, len);
        refused(&cut, ": ");
    }
    struct gguf *g = accepted(&b);
    gguf_close(g);
}

// The peak of a child that opens a file made to cost memory: 64 MiB above the bare child and the
// bytes of the header, at most.
static void hostile_files_stay_small(void **state)
{
    (void)state;
    if (SANITIZED) {
        print_message("SKIPPED: the sanitizer's own memory hides ours\n");
        skip();
    }
    char path[64];
    struct buf b = {0};
    make_head(&b, 3, 250000, 60000); // of a sparse file of 8 GiB, both seem possible
    make_arr(&b, "a", GGUF_U8, 1 << 24);
    make_file(&b, path, sizeof path);
    assert_int_equal(truncate(path, (off_t)8 << 30), 0);
    long peak[2];
    for (int i = 0; i < 2; i++) {
        struct rusage use;
        int status;
        pid_t child = fork();
        if (child == 0) {
            struct gguf *g;
            _exit(i && gguf_open(path, &g, NULL) != ERR_MODEL);
        }
        wait4(child, &status, 0, &use);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        peak[i] = use.ru_maxrss;
    }
    print_message("peak %ld KiB above the bare process\n", peak[1] - peak[0]);
    assert_true(peak[1] - peak[0] < (64 + 32) << 10); // header: 16 MiB, read ahead by its double
    unlink(path);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_type),
        cmocka_unit_test(reads_arrays),
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(reads_all_fixtures),
        cmocka_unit_test(opens_large_tables_quickly),
        cmocka_unit_test(hash_tells_headers_apart),
        cmocka_unit_test(hash_tells_weights_apart),
        cmocka_unit_test(sha256_matches_published_values),
        cmocka_unit_test(m01_not_a_gguf_file),
        cmocka_unit_test(m01_not_a_regular_file),
        cmocka_unit_test(m01_shrinks_while_read),
        cmocka_unit_test(m02_counts),
        cmocka_unit_test(m03_strings),
        cmocka_unit_test(m03_long_string),
        cmocka_unit_test(m04_arrays),
        cmocka_unit_test(m05_names),
        cmocka_unit_test(m06_shapes),
        cmocka_unit_test(m07_offsets),
        cmocka_unit_test(m07_alignment),
        cmocka_unit_test(m08_types),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(hostile_files_stay_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
