// How many bytes are read: of a model its header and some samples, by a stage its own layers.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/tiny.h"
#include "worker/stage.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { LAYERS = 4, DIM = 256, FFN = 1024, VOCAB = 32000, SLACK = 128 << 10 };
enum { SAMPLES_BYTES = 64 * 4096, HEADER_BYTES = 64 << 10 }; // headers are read in pieces
enum { LAYER_BYTES = 4 * (4 * DIM * DIM + 3 * DIM * FFN + 2 * DIM) };

// All that this process has asked the system to read so far.
static uint64_t bytes_read(void)
{
    char text[512] = "";
    unsigned long long n = 0;
    const int fd = open("/proc/self/io", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 1 || sscanf(text, "rchar: %llu", &n) != 1) {
        print_message("SKIPPED: /proc/self/io does not tell what is read\n");
        skip();
    }
    close(fd);
    return n;
}

// A model of 50 MB whose weights are all zero: a file with a hole.
static void make_model(struct tiny_file *f)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } layer[] = {{"attn_norm", 0, DIM},  {"attn_q", DIM, DIM},      {"attn_k", DIM, DIM},
                 {"attn_v", DIM, DIM},   {"attn_output", DIM, DIM}, {"ffn_norm", 0, DIM},
                 {"ffn_gate", FFN, DIM}, {"ffn_up", FFN, DIM},      {"ffn_down", DIM, FFN}};
    struct buf b = {0};
    char name[64];
    *f = (struct tiny_file){0};
    tiny_add(f, "token_embd.weight", VOCAB, DIM);
    for (int i = 0; i < LAYERS; i++)
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, layer[k].name);
            tiny_add(f, name, layer[k].rows, layer[k].cols);
        }
    tiny_add(f, "output_norm.weight", 0, DIM);
    make_head(&b, 3, f->n, 7);
    make_str(&b, "general.architecture", "llama");
    make_u32(&b, "llama.block_count", LAYERS);
    make_u32(&b, "llama.embedding_length", DIM);
    make_u32(&b, "llama.feed_forward_length", FFN);
    make_u32(&b, "llama.attention.head_count", 4);
    make_u32(&b, "llama.context_length", 4096);
    make_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (uint32_t i = 0; i < f->n; i++)
        make_tensor(&b, f->tensors[i].name, f->tensors[i].n_dim, f->tensors[i].dims, 0,
                    f->tensors[i].offset);
    make_pad(&b, 32);
    make_file(&b, f->path, sizeof f->path);
    assert_int_equal(truncate(f->path, (off_t)(b.len + f->bytes)), 0);
    buf_fini(&b);
}

static void only_what_is_needed_is_read(void **state)
{
    struct tiny_file f;
    struct err_text why;
    struct model *m;
    struct stage *s;
    struct stage_sizes sizes;
    (void)state;
    make_model(&f);

    uint64_t before = bytes_read();
    if (model_open(f.path, &m, &why)) fail_msg("%s", why.s);
    struct stage_config c = {
        .model = m,
        .layer_from = 1,
        .layer_to = 3,
        .settings = {.ctx = 64,
                     .page_tok = 16,
                     .n_page = 4,
                     .n_slot = 1,
                     .max_tok = 16,
                     .max_rows = 1,
                     .in_flight = 1,
                     .kv_dtype = DT_F16,
                     .precision = PRECISION_FAST},
        .n_threads = 2,
    };
    if (stage_sizes(&c, &sizes, &why)) fail_msg("%s", why.s);
    assert_in_range(bytes_read() - before, SAMPLES_BYTES, SAMPLES_BYTES + HEADER_BYTES + SLACK);

    before = bytes_read();
    if (stage_open(&c, NULL, &s, &why)) fail_msg("%s", why.s);
    assert_in_range(bytes_read() - before, 2 * LAYER_BYTES, 2 * LAYER_BYTES + SLACK);

    // What is held already is not read again.
    before = bytes_read();
    c.layer_from = 2;
    c.layer_to = 4;
    if (stage_open(&c, s, &s, &why)) fail_msg("%s", why.s);
    assert_in_range(bytes_read() - before, LAYER_BYTES, LAYER_BYTES + SLACK);
    stage_close(s);
    model_close(m);
    unlink(f.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_what_is_needed_is_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
