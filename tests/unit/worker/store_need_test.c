// Which bytes a stage needs: of every fixture a copy in which all other bytes are rubbish opens as
// the same model and loads the same weights, whatever part of it.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

// The store under test only writes down what is asked of it.
#define store_need recorded_need
#define store_files recorded_files
#define store_need_stage recorded_need_stage
#define store_need_opening recorded_need_opening
#include "tests/unit/worker/exact_kernels.h"
#include "worker/store_need.c"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

static struct offer offered;
static uint8_t *here[16]; // of each file, one byte for each byte: it is needed

const struct offer *recorded_files(const struct store *s)
{
    (void)s;
    return &offered;
}

void recorded_need(struct store *s, uint32_t file, uint64_t from, uint64_t bytes)
{
    (void)s;
    assert_true(file < offered.n_file);
    assert_true(from <= offered.files[file].bytes && bytes <= offered.files[file].bytes - from);
    memset(here[file] + from, 1, bytes);
}

static const char *fixtures(void)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    return dir ? dir : "../shared/fixtures";
}

// Bytes that are needed of it.
static uint64_t write_copy(const char *dir)
{
    uint64_t n_needed = 0;
    for (uint32_t i = 0; i < offered.n_file; i++) {
        const struct offer_file *f = &offered.files[i];
        char path[600];
        uint8_t *data = malloc(f->bytes);
        FILE *in = fopen(f->path, "rb");
        assert_true(data && in);
        assert_int_equal(fread(data, 1, f->bytes, in), f->bytes);
        fclose(in);
        for (uint64_t k = 0; k < f->bytes; k++) {
            n_needed += here[i][k];
            if (!here[i][k]) data[k] = 0xff;
        }
        snprintf(path, sizeof path, "%s/%s", dir, f->name);
        FILE *out = fopen(path, "wb");
        assert_non_null(out);
        assert_int_equal(fwrite(data, 1, f->bytes, out), f->bytes);
        fclose(out);
        free(data);
    }
    return n_needed;
}

static struct model *open_copy(const char *dir)
{
    char path[600];
    struct model *m;
    struct err_text why;
    const int32_t entry = offer_entry(offered.files, offered.n_file);
    snprintf(path, sizeof path, "%s/%s", dir, entry < 0 ? "." : offered.files[entry].name);
    if (model_open(path, &m, &why)) fail_msg("%s", why.s);
    return m;
}

static void compare(struct kernels *k, const struct stage_config *c, const struct model *copy)
{
    struct weights a, b;
    struct err_text why;
    struct stage_config d = *c;
    d.model = copy;
    if (weights_load(c, k, NULL, NULL, &a, &why)) fail_msg("%s", why.s);
    if (weights_load(&d, k, NULL, NULL, &b, &why)) fail_msg("the copy: %s", why.s);
    assert_int_equal(a.n_part, b.n_part);
    for (int32_t i = 0; i < a.n_part; i++) {
        assert_int_equal(a.parts[i].mem.bytes, b.parts[i].mem.bytes);
        assert_memory_equal(a.parts[i].mem.data, b.parts[i].mem.data, a.parts[i].mem.bytes);
        for (int s = 0; s < SLOT_COUNT; s++)
            assert_true(a.parts[i].w[s].view.factor == b.parts[i].w[s].view.factor);
    }
    weights_free(&a);
    weights_free(&b);
}

static uint64_t begin_marks(void)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < offered.n_file; i++) {
        all += offered.files[i].bytes;
        here[i] = calloc(1, offered.files[i].bytes);
        assert_non_null(here[i]);
    }
    return all;
}

static uint64_t end_marks(const char *dir)
{
    const uint64_t n_needed = write_copy(dir);
    for (uint32_t i = 0; i < offered.n_file; i++)
        free(here[i]);
    return n_needed;
}

// Opening needs nothing but what is marked for it, loading nothing but what is marked for that.
static void check_stage(struct kernels *k, const struct stage_config *c, const char *dir)
{
    struct err_text why;
    begin_marks();
    recorded_need_opening(NULL);
    end_marks(dir);
    struct model *copy = open_copy(dir);
    assert_memory_equal(copy->hash, c->model->hash, sizeof copy->hash);

    const uint64_t all = begin_marks();
    if (recorded_need_stage(NULL, c, &why)) fail_msg("%s", why.s);
    assert_in_range(end_marks(dir), 1, all - 1);
    compare(k, c, copy);
    model_close(copy);
}

// The second half of the layers alone; a quarter of every layer; some of the experts.
static void check_model(struct kernels *k, const char *path, const char *dir)
{
    struct model *m;
    struct err_text why;
    struct arena arena;
    arena_init(&arena, 0);
    if (model_open(path, &m, &why)) fail_msg("%s", why.s);
    if (offer_make(m, &arena, &offered, &why)) fail_msg("%s", why.s);
    assert_in_range(offered.n_file, 1, 16);
    const uint32_t n = (uint32_t)m->shape.n_layer;
    struct stage_config c = {.model = m, .n_threads = 1, .layer_from = n / 2, .layer_to = n};
    c.head = true;
    c.mtp = m->shape.has_mtp;
    check_stage(k, &c, dir);
    const struct share halves = {.split = SPLIT_TENSOR,
                                 .n_member = 2,
                                 .member = 1,
                                 .part = {SHARE_TOTAL * 3 / 4, SHARE_TOTAL / 4}};
    c = (struct stage_config){.model = m, .n_threads = 1, .layer_to = n, .share = halves};
    c.embed = c.head = true;
    check_stage(k, &c, dir);
    if (m->shape.moe.n_expert) {
        c.share.split = SPLIT_EXPERTS;
        c.share.part[0] = c.share.part[1] = SHARE_TOTAL / 2;
        check_stage(k, &c, dir);
    }
    for (uint32_t i = 0; i < offered.n_file; i++) {
        char copy[600];
        snprintf(copy, sizeof copy, "%s/%s", dir, offered.files[i].name);
        unlink(copy);
    }
    model_close(m);
    arena_fini(&arena);
}

static int check_folder(const char *room, const char *file)
{
    char path[500], dir[] = "/tmp/trireme-need-XXXXXX";
    snprintf(path, sizeof path, "%s/%s", fixtures(), room);
    DIR *d = opendir(path);
    if (!d) return 0;
    struct kernels *k = open_kernels();
    assert_non_null(mkdtemp(dir));
    int n = 0;
    for (struct dirent *x; (x = readdir(d));) {
        if (x->d_name[0] == '.' || strchr(x->d_name, '.')) continue;
        snprintf(path, sizeof path, "%s/%s/%.100s%s", fixtures(), room, x->d_name, file);
        if (access(path, F_OK)) continue;
        check_model(k, path, dir);
        n++;
    }
    closedir(d);
    rmdir(dir);
    k->ops->close(k);
    print_message("%s: %d models\n", room, n);
    return n;
}

static void fixtures_need_no_more(void **state)
{
    (void)state;
    const int n =
        check_folder("arch", "") + check_folder("quant", "") + check_folder("gguf", "/model.gguf");
    if (n == 0) {
        print_message("SKIPPED: no fixtures at %s\n", fixtures());
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fixtures_need_no_more)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
