// The table of tensors from safetensors files, folders and split GGUF: what is well-formed reads
// back exactly, what is not is refused with one sentence (reliability catalogue, M09 and M10).
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "tests/unit/soon.h"
#include "tests/unit/topology/folder_make.h"
#include "tests/unit/topology/gguf_make.h"
#include "topology/tensors.h"

#include <time.h>

static const char config[] = "{\"model_type\":\"llama\"}";

// Opens, looks at nothing but success, and compares the sentence.
static void refused(const char *path, const char *needle)
{
    struct arena a;
    struct tensors *t = (struct tensors *)(uintptr_t)1;
    struct err_text why = {{0}};
    arena_init(&a, 0);
    const int64_t t0 = soon_now_us();
    err_t e = tensors_open(path, &a, &t, &why);
    if ((e != ERR_MODEL && e != ERR_SYSTEM) || !strstr(why.s, needle))
        fail_msg("error %d: '%s', expected '%s'", e, why.s, needle);
    assert_true(strlen(why.s) < 300);
    for (const char *p = why.s; *p; p++)
        assert_true((unsigned char)*p >= 0x20);
    assert_true(soon_is(t0, 1000000));
    assert_ptr_equal(t, (void *)(uintptr_t)1);
    arena_fini(&a);
}

static struct tensors *accepted(const char *path, struct arena *a)
{
    struct tensors *t = NULL;
    struct err_text why = {{0}};
    arena_init(a, 0);
    if (tensors_open(path, a, &t, &why)) fail_msg("%s", why.s);
    return t;
}

static void done(struct tensors *t, struct arena *a)
{
    tensors_close(t);
    arena_fini(a);
}

// ---- one file

// A folder with one file of this header and this many bytes of data.
static void refused_header(const char *header, size_t data, const char *needle)
{
    struct folder f = folder_new();
    folder_text(&f, "config.json", config);
    folder_safetensors(&f, "model.safetensors", header, data);
    refused(f.path, needle);
    folder_remove(&f);
}

#define T(name, dtype, shape, from, to)                                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to   \
    "]}"

static void reads_tensors(void **state)
{
    (void)state;
    struct folder f = folder_new();
    struct arena a;
    folder_text(&f, "config.json", config);
    // out of order, escapes, white space, all of what the format allows
    folder_safetensors(&f, "model.safetensors",
                       "{ \"__metadata__\" : {\"format\":\"pt\",\"x\":\"\\u0000\\ud83d\\ude00\"},\n"
                       " \"b\":{\"shape\":[2,3],\"data_offsets\":[4,28],\"dtype\":\"F32\"}," T(
                           "a", "BF16", "[2]", 0, 4) "," //
                       T("s", "F64", "[]", 28, 36) "," T("none", "I8", "[0,4]", 36, 36) "," T(
                           "tab\\u00e9\\t/", "F8_E8M0", "[1,1,1,2]", 36,
                           38) "," T("vision", "U8", "[1,2,1,2,3]", 38, 50) "," //
                       T("odd", "C64", "[1]", 50, 58) "," T("f4", "F4", "[2]", 58, 59) "}   \n",
                       59);
    struct tensors *t = accepted(f.path, &a);
    assert_int_equal(t->n, 8);
    assert_int_equal(t->n_file, 1);
    assert_true(json_is(json_get(t->config, "model_type"), "llama"));
    const struct model_tensor *b = tensors_find(t, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DT_F32);
    assert_int_equal(b->n_dim, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    const struct model_tensor *x = tensors_find(t, "a");
    assert_int_equal(b->offset, x->offset + 4);
    assert_int_equal(x->offset + 59, t->files[0].bytes);
    assert_int_equal(tensors_find(t, "s")->n_dim, 0);
    assert_int_equal(tensors_find(t, "none")->bytes, 0);
    x = tensors_find(t, "tab\xc3\xa9\t/");
    assert_non_null(x);
    assert_int_equal(x->dtype, DT_U8);
    x = tensors_find(t, "vision");
    assert_int_equal(x->n_dim, 4);
    assert_int_equal(x->shape[3], 6);
    assert_int_equal(tensors_find(t, "odd")->dtype, DT_NONE);
    assert_null(tensors_find(t, "__metadata__"));
    assert_null(tensors_find(t, ""));
    done(t, &a);
    folder_remove(&f);
}

static void m09_json(void **state)
{
    (void)state;
    static const struct {
        const char *header, *needle;
    } cases[] = {
        {"[]", "begins with 0x5b, expected '{'"},
        {" {}", "begins with 0x20"},
        {"{]", "expected '\"'"},
        {"{\"a", "ends within a string"},
        {"{\"a\"}", "expected ':'"},
        {"{\"a\":1}", "tensor 'a': byte 5 of its header is 0x31, expected '{'"},
        {"{\"a\":{}}", "expected '\"'"},
        {"{\"\":{}}", "without a name"},
        {"{\"a\\q\":{}}", "bad escape"},
        {"{\"a\\ud800\":{}}", "bad escape"},
        {"{\"a\\udc00\\ud800\":{}}", "bad escape"},
        {"{\"a\\u00\":{}}", "bad escape"},
        {"{\"a\\u0000\":{}}", "holds a NUL"},
        {"{\"a\xff\":{}}", "is no text"},
        {"{\"a\x01\":{}}", "is no text"},
        {"{\"a\xc0\x80\":{}}", "is no text"},
        {"{" T("a", "U8", "[1]", 0, 1) ",}", "expected '\"'"},
        {"{" T("a", "U8", "[1]", 0, 1) "}{}", "something follows"},
        {"{" T("a", "U8", "[1]", 0, 1) "", "ends where '}' is expected"},
        {"{" T("a", "U8", "[1,]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[-1]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[1.0]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[1e0]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[01]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[true]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "[[1]]", 0, 1) "}", "no whole number"},
        {"{" T("a", "U8", "1", 0, 1) "}", "expected '['"},
        {"{" T("a", "U8", "[18446744073709551616]", 0, 1) "}", "over 2^63-1"},
        {"{" T("a", "U8", "[9223372036854775808]", 0, 1) "}", "over 2^63-1"},
        {"{" T("a", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0, 1) "}", "over 16 numbers"},
        {"{" T("a", "int8", "[1]", 0, 1) "}", "dtype 'int8' is none of"},
        {"{" T("a", "U8888888888888888888888888", "[1]", 0, 1) "}", "a name of over 23 bytes"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", "has no dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", "has no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "has no data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", "has 1 numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", "over 2 numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", "key 'dtype', allowed"},
        {"{\"a\":{\"dtype\":\"U8\",\"stride\":[1]}}", "key 'stride', allowed"},
        {"{\"__metadata__\":1," T("a", "U8", "[1]", 0, 1) "}", "expected '{'"},
        {"{\"__metadata__\":{\"a\":1}," T("a", "U8", "[1]", 0, 1) "}", "allowed are strings"},
        {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", "allowed are strings"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", "is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_header(cases[i].header, 1, cases[i].needle);
}

static void m09_places(void **state)
{
    (void)state;
    refused_header("{" T("a", "U8", "[1]", 1, 0) "}", 1, "data_offsets 1 to 0");
    refused_header("{" T("a", "U8", "[2]", 0, 2) "}", 1, "data_offsets 0 to 2, the file has");
    refused_header("{" T("a", "U8", "[2]", 0, 1) "}", 1, "give 1 bytes, shape and type U8 make 2");
    refused_header("{" T("a", "F32", "[2]", 0, 2) "}", 2, "make 8");
    refused_header("{" T("a", "F4", "[3]", 0, 1) "}", 1, "no whole number of bytes");
    refused_header("{" T("a", "U8", "[1]", 0, 1) "}", 2, "tensors end at byte 1 of the data");
    refused_header("{" T("a", "U8", "[1]", 1, 2) "}", 2, "leave a hole at byte 0");
    refused_header("{" T("a", "U8", "[1]", 0, 1) "," T("b", "U8", "[1]", 2, 3) "}", 3,
                   "leave a hole at byte 1");
    refused_header("{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", 3,
                   "overlap at byte 2");
    refused_header("{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 0, 2) "}", 2,
                   "overlap at byte 2");
    refused_header("{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2,
                   "tensor 'a': is there twice");
    refused_header("{" T("a", "U8", "[4294967296,4294967296]", 0, 1) "}", 1, "over 2^63-1");
    refused_header("{" T("a", "F64", "[2305843009213693952]", 0, 1) "}", 1,
                   "no whole number of bytes");
    refused_header("{" T("a", "U8", "[9223372036854775807,0,2]", 0, 1) "}", 1, "make 0");
    refused_header("{}", 1, "tensors end at byte 0");
}

static void m09_lengths(void **state)
{
    (void)state;
    static const struct {
        uint64_t len;
        size_t whole;
        const char *needle;
    } cases[] = {
        {2, 7, "has 7 bytes"},
        {2, 9, "has 9 bytes"},
        {0, 10, "its header has 0 bytes"},
        {1, 10, "its header has 1 bytes"},
        {3, 10, "the file ends after 2"},
        {(uint64_t)1 << 63, 10, "allowed 2 to 100000000"},
        {UINT64_MAX, 10, "allowed 2 to 100000000"},
        {100000001, 200000000, "allowed 2 to 100000000"},
        {100000000, 100000007, "the file ends after 99999999"},
        {50000000, 50000008, "begins with 0x00"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct folder f = folder_new();
        uint8_t len[8];
        for (int k = 0; k < 8; k++)
            len[k] = (uint8_t)(cases[i].len >> (8 * k));
        folder_text(&f, "config.json", config);
        folder_put(&f, "model.safetensors", len, cases[i].whole < 8 ? cases[i].whole : 8,
                   cases[i].whole);
        refused(f.path, cases[i].needle);
        folder_remove(&f);
    }
    // nested deep, and a name that never ends
    char *deep = malloc(1 << 20);
    memset(deep, '[', 1 << 20);
    memcpy(deep, "{\"a\":{\"dtype\":", 14);
    deep[(1 << 20) - 1] = 0;
    refused_header(deep, 0, "expected '\"'");
    memset(deep, 'x', 1 << 20);
    memcpy(deep, "{\"", 2);
    deep[(1 << 20) - 1] = 0;
    refused_header(deep, 0, "a name of over 512 bytes");
    free(deep);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct folder f = folder_new();
    struct buf b = {0};
    const char *header = "{" T("a", "U8", "[2,2]", 0, 4) "," T("b", "F16", "[2]", 4, 8) "}";
    for (int i = 0; i < 8; i++)
        buf_char(&b, (char)(strlen(header) >> (8 * i)));
    buf_str(&b, header);
    for (int i = 0; i < 8; i++)
        buf_char(&b, 0);
    folder_text(&f, "config.json", config);
    for (size_t len = 0; len < b.len; len++) {
        folder_put(&f, "model.safetensors", b.data, len, 0);
        refused(f.path, "model.safetensors: ");
    }
    buf_fini(&b);
    folder_remove(&f);
}

// ---- folders

static void m10_folders(void **state)
{
    (void)state;
    struct folder f = folder_new();
    char path[256];
    refused(f.path, "has no config.json");
    folder_text(&f, "config.json", "{");
    refused(f.path, "config.json: invalid JSON");
    folder_text(&f, "config.json", "[1]");
    refused(f.path, "config.json: is");
    folder_text(&f, "config.json", config);
    refused(f.path, "has no *.safetensors");
    folder_text(&f, "pytorch_model.bin", "PK");
    refused(f.path, "are pickles");
    folder_path(&f, "pytorch_model.bin", path, sizeof path);
    refused(path, "is a pickle");
    folder_path(&f, "config.json", path, sizeof path);
    refused(path, "give the folder");
    folder_text(&f, "hf_quant_config.json", "1");
    refused(f.path, "hf_quant_config.json: is");
    folder_path(&f, "hf_quant_config.json", path, sizeof path);
    unlink(path);
    folder_tensors(&f, "one.safetensors", "a U8 1\n");
    folder_tensors(&f, "two.safetensors", "a U8 1\n");
    refused(f.path, "has 2 *.safetensors but no model.safetensors.index.json");
    folder_path(&f, "model.safetensors", path, sizeof path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(f.path, "model.safetensors: is a directory");
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(f.path, "model.safetensors: is a pipe");
    unlink(path);
    assert_int_equal(symlink("nowhere", path), 0);
    refused(f.path, "model.safetensors: cannot open");
    unlink(path);
    assert_int_equal(symlink("model.safetensors", path), 0);
    refused(f.path, "model.safetensors: cannot open");
    refused("/tmp/trireme-is-not-there", "cannot open");
    folder_remove(&f);
}

static void takes_links_and_lone_files(void **state)
{
    (void)state;
    struct folder f = folder_new(), blobs = folder_new();
    struct arena a;
    char path[256], blob[256];
    folder_text(&f, "config.json", config);
    folder_tensors(&blobs, "0123abcd", "a U8 4\n");
    folder_path(&blobs, "0123abcd", blob, sizeof blob);
    folder_path(&f, "quantised.safetensors", path, sizeof path);
    assert_int_equal(symlink(blob, path), 0);
    folder_tensors(&f, "consolidated.safetensors", "b U8 4\n");
    struct tensors *t = accepted(f.path, &a);
    assert_non_null(tensors_find(t, "a"));
    assert_null(tensors_find(t, "b"));
    done(t, &a);
    unlink(path);
    t = accepted(f.path, &a);
    assert_non_null(tensors_find(t, "b"));
    done(t, &a);
    folder_remove(&f);
    folder_remove(&blobs);
}

// Two good shards and this index.
static void refused_index(const char *index, const char *needle)
{
    struct folder f = folder_new();
    folder_text(&f, "config.json", config);
    folder_tensors(&f, "one.safetensors", "a U8 4\nb U8 4\n");
    folder_tensors(&f, "two.safetensors", "c U8 4\n");
    folder_tensors(&f, "again.safetensors", "a U8 4\n");
    folder_text(&f, "model.safetensors.index.json", index);
    refused(f.path, needle);
    folder_remove(&f);
}

static void m10_index(void **state)
{
    (void)state;
    static const struct {
        const char *map, *needle;
    } cases[] = {
        {"[]", "has no weight_map"},
        {"{}", "has no weight_map"},
        {"{\"a\":1}", "tensor 'a': byte 33 of it: expected a file name"},
        {"{\"a\":null}", "expected a file name"},
        {"{\"a\":\"../one.safetensors\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"/etc/passwd.safetensors\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"sub/one.safetensors\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\".safetensors\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"model.safetensors.index.json\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"pytorch_model.bin\"}", "is no *.safetensors of this folder"},
        {"{\"a\":\"three.safetensors\"}", "three.safetensors: cannot open"},
        {"{\"c\":\"one.safetensors\"}", "tensor 'c' is not in one.safetensors"},
        {"{\"a\":\"two.safetensors\",\"c\":\"one.safetensors\"}", "is not in"}, // swapped
        {"{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\\u0000\"}", "is no *.safetensors"},
        {"{\"z\":\"one.safetensors\"}", "tensor 'z' is not in one.safetensors"},
        {"{\"a\":\"one.safetensors\",\"x\":\"again.safetensors\"}", "tensor 'a': is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char index[256];
        snprintf(index, sizeof index, "{\"metadata\":{},\"weight_map\":%s}", cases[i].map);
        refused_index(index, cases[i].needle);
    }
    refused_index("{}", "has no weight_map");
    refused_index("", "index.json: it ends where '{' is expected");
    refused_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
                  "tensor 'a' is not in two.safetensors");
    refused_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}",
                  "tensor 'a' is there twice");
    refused_index("{\"weight_map\":{\"a\":\"one.safetensors\"},\"weight_map\":{}}",
                  "weight_map is there twice");
    refused_index("{\"weight_map\":{\"a\":\"one.safetensors\"}} x", "something follows");
    refused_index("{\"metadata\":{\"a\":[1,{\"b\":nul}]}}", "begins no value");
    refused_index("{\"metadata\":{\"a\" 1}}", "expected ':'");
    refused_index("{\"weight_map\":{\"a\":\"one.safetensors\"", "it ends where '}' is expected");
    char *bomb = malloc(1 << 20);
    memset(bomb, '[', 1 << 20);
    bomb[(1 << 20) - 1] = 0;
    memcpy(bomb, "{\"metadata\":", 12);
    refused_index(bomb, "nested deeper than");
    free(bomb);
}

static void reads_shards(void **state)
{
    (void)state;
    struct folder f = folder_new();
    struct arena a;
    uint8_t first[32];
    folder_text(&f, "config.json", config);
    folder_tensors(&f, "model-00001-of-00002.safetensors", "a U8 4\nb U8 4\n");
    folder_tensors(&f, "model-00002-of-00002.safetensors", "c U8 4\nunnamed U8 1\n");
    folder_text(&f, "model.safetensors.index.json",
                "{\"metadata\":{\"total_size\":12,\"made\":[\"by\",{},-1.5e3,null,true,[]]},"
                "\"weight_map\":{"
                "\"c\":\"model-00002-of-00002.safetensors\","
                "\"a\":\"model-00001-of-00002.safetensors\","
                "\"b\":\"model-00001-of-00002.safetensors\"}}");
    struct tensors *t = accepted(f.path, &a);
    assert_int_equal(t->n_file, 2);
    assert_int_equal(t->n, 4);
    assert_string_equal(t->files[tensors_find(t, "c")->file].path + strlen(t->path),
                        "/model-00002-of-00002.safetensors");
    assert_int_equal(tensors_find(t, "b")->file, 0);
    assert_int_equal(t->file_bytes, t->files[0].bytes + t->files[1].bytes);
    memcpy(first, t->hash, 32);
    done(t, &a);
    t = accepted(f.path, &a);
    assert_memory_equal(t->hash, first, 32);
    done(t, &a);
    folder_text(&f, "config.json", "{\"model_type\":\"llamb\"}");
    t = accepted(f.path, &a);
    assert_memory_not_equal(t->hash, first, 32); // the config is of the model
    done(t, &a);
    folder_remove(&f);
}

// ---- split GGUF

struct piece {
    int no, count, total; // -1: key left out
    const char *tensor;
};

static void put_piece(const struct folder *f, const char *name, const struct piece *p)
{
    struct buf b = {0};
    make_head(&b, 3, 1, (uint64_t)((p->no >= 0) + (p->count >= 0) + (p->total >= 0)) + 1);
    make_str(&b, "general.architecture", p->no == 0 ? "first" : "other");
    if (p->no >= 0) make_int(&b, "split.no", GGUF_U16, (uint64_t)p->no, 2);
    if (p->count >= 0) make_int(&b, "split.count", GGUF_U16, (uint64_t)p->count, 2);
    if (p->total >= 0) make_int(&b, "split.tensors.count", GGUF_I32, (uint64_t)p->total, 4);
    make_tensor(&b, p->tensor, 1, (uint64_t[]){8}, 0, 0);
    make_pad(&b, 32);
    folder_put(f, name, b.data, b.len, b.len + 32);
    buf_fini(&b);
}

static void reads_split_gguf(void **state)
{
    (void)state;
    struct folder f = folder_new();
    struct arena a;
    char path[256];
    uint8_t hash[32] = {0};
    put_piece(&f, "m-00001-of-00002.gguf", &(struct piece){0, 2, 2, "a"});
    put_piece(&f, "m-00002-of-00002.gguf", &(struct piece){1, 2, 2, "b"});
    for (int i = 1; i <= 2; i++) { // any piece opens all
        char name[64];
        struct gguf_str arch;
        snprintf(name, sizeof name, "m-%05d-of-00002.gguf", i);
        folder_path(&f, name, path, sizeof path);
        struct tensors *t = accepted(path, &a);
        assert_int_equal(t->n_file, 2);
        assert_int_equal(t->n, 2);
        assert_int_equal(tensors_find(t, "a")->file, 0);
        assert_int_equal(tensors_find(t, "b")->file, 1);
        assert_int_equal(gguf_get_str(t->gguf, "general.architecture", &arch, NULL), OK);
        assert_memory_equal(arch.s, "first", 5);
        if (i == 2) assert_memory_equal(t->hash, hash, 32);
        memcpy(hash, t->hash, 32);
        done(t, &a);
    }
    folder_remove(&f);
}

static void m10_split_gguf(void **state)
{
    (void)state;
    static const struct {
        struct piece second;
        const char *needle;
    } cases[] = {
        {{0, 2, 2, "b"}, "expected piece 1 of 2"},
        {{1, 3, 2, "b"}, "expected piece 1 of 2"},
        {{1, 2, 9, "b"}, "expected piece 1 of 2"},
        {{-1, -1, -1, "b"}, "expected piece 1 of 2"},
        {{2, 2, 2, "b"}, "piece 2 of 2 (split.no, split.count)"},
        {{1, 2, 2, "a"}, "tensor 'a': is there twice"},
    };
    struct folder f = folder_new();
    char path[256];
    folder_path(&f, "m-00001-of-00002.gguf", path, sizeof path);
    put_piece(&f, "m-00001-of-00002.gguf", &(struct piece){0, 2, 2, "a"});
    refused(path, "m-00002-of-00002.gguf: cannot open");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_piece(&f, "m-00002-of-00002.gguf", &cases[i].second);
        refused(path, cases[i].needle);
    }
    put_piece(&f, "m-00001-of-00002.gguf", &(struct piece){0, 2, 3, "a"});
    put_piece(&f, "m-00002-of-00002.gguf", &(struct piece){1, 2, 3, "b"});
    refused(path, "'split.tensors.count': found 3, its 2 pieces have 2");
    put_piece(&f, "renamed.gguf", &(struct piece){0, 2, 2, "a"});
    folder_path(&f, "renamed.gguf", path, sizeof path);
    refused(path, "its name should end in -00001-of-00002.gguf");
    put_piece(&f, "renamed.gguf", &(struct piece){0, 65535, 2, "a"});
    refused(path, "piece 0 of 65535");
    folder_remove(&f);
}

// ---- sizes and fixtures

static void opens_large_tables_quickly(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct folder f = folder_new();
    struct arena a;
    struct buf b = {0};
    folder_text(&f, "config.json", config);
    for (int i = 0; i < N; i++)
        buf_printf(&b,
                   "%s\"model.layers.%d.mlp.experts.%d.down_proj.weight_scale\":{\"dtype\":"
                   "\"BF16\",\"shape\":[2,1],\"data_offsets\":[%d,%d]}",
                   i ? "," : "{", i / 1000, i % 1000, 4 * i, 4 * i + 4);
    buf_char(&b, '}');
    folder_safetensors(&f, "model.safetensors", b.data, 4 * N);
    buf_fini(&b);
    const int64_t t0 = soon_now_us();
    struct tensors *t = accepted(f.path, &a);
    print_message("%d tensors: %.1f ms\n", N, (double)(soon_now_us() - t0) / 1e3);
    assert_true(soon_is(t0, 500000));
    assert_int_equal(t->n, N);
    assert_non_null(tensors_find(t, "model.layers.99.mlp.experts.999.down_proj.weight_scale"));
    done(t, &a);
    folder_remove(&f);
}

static void reads_all_fixtures(void **state)
{
    (void)state;
    const char *dir = getenv("TRIREME_FIXTURES"), *kinds[] = {"arch", "quant"};
    int n = 0;
    for (int k = 0; k < 2; k++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir ? dir : "../shared/fixtures", kinds[k]);
        DIR *d = opendir(path);
        for (struct dirent *at; d && (at = readdir(d));) {
            char full[1024];
            struct arena a;
            if (at->d_name[0] == '.') continue;
            snprintf(full, sizeof full, "%s/%s", path, at->d_name);
            struct tensors *t = accepted(full, &a);
            for (int32_t i = 0; i < t->n; i++) {
                const struct model_tensor *x = &t->items[i];
                assert_ptr_equal(tensors_find(t, x->name), x);
                assert_true(x->offset + x->bytes <= t->files[x->file].bytes);
            }
            n++;
            done(t, &a);
        }
        if (d) closedir(d);
    }
    if (n == 0)
        print_message("SKIPPED: no fixtures\n");
    else
        assert_true(n >= 41);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(m09_json),
        cmocka_unit_test(m09_places),
        cmocka_unit_test(m09_lengths),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(m10_folders),
        cmocka_unit_test(takes_links_and_lone_files),
        cmocka_unit_test(m10_index),
        cmocka_unit_test(reads_shards),
        cmocka_unit_test(reads_split_gguf),
        cmocka_unit_test(m10_split_gguf),
        cmocka_unit_test(opens_large_tables_quickly),
        cmocka_unit_test(reads_all_fixtures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
