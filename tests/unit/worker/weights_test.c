// Whole models: every quantised fixture's dequantised weights come out of the packed ones, and what
// weights_load promises of files, ranges and reuse.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/golden/safetensors.h"
#include "tests/unit/worker/exact_kernels.h"
#include "tests/unit/worker/made.h"
#include "tests/unit/worker/tiny.h"
#include "worker/weights.h"

#include <dirent.h>
#include <math.h>
#include <sys/stat.h>

static struct stage_config whole(const struct model *m)
{
    return (struct stage_config){.model = m,
                                 .layer_to = (uint32_t)m->shape.n_layer,
                                 .embed = true,
                                 .head = true,
                                 .mtp = m->shape.has_mtp,
                                 .n_threads = 2};
}

// -- fixtures --

// The weight made of tensor MODULE.something, and which of a stack.
static const struct model_weight *weight_of(const struct model *m, const char *module, int64_t *i)
{
    const size_t n = strlen(module);
    for (int32_t x = 0; x < m->n_weight; x++)
        for (*i = 0; *i < m->weights[x].n_source; ++*i) {
            const char *at = strstr(m->weights[x].sources[*i].main->name, module);
            if (at && at[n] == '.') return &m->weights[x];
        }
    return NULL;
}

// Rows of the packed weight against `want`. Returns how many differ by more than rounding.
static int64_t compare(struct kernels *k, const struct weight *w, int64_t i, const float *want)
{
    struct view v = w->view.n_dim == 3 ? view_of_stack(&w->view, i) : w->view;
    if (w->factors) v.factor = w->factors[i];
    const int64_t rows = v.shape[0], cols = v.shape[1];
    float *got = malloc((size_t)cols * sizeof *got);
    int64_t bad = 0;
    for (int32_t r = 0; r < rows; r++) {
        k->ops->embed(k, &v, &r, 1, got);
        for (int64_t c = 0; c < cols; c++) {
            const float x = want[r * cols + (w->order ? w->order[c] : c)];
            bad += !(fabsf(got[c] - x) <= 2.4e-7f * fabsf(x));
        }
    }
    free(got);
    return bad;
}

static int check_dequantised(const struct model *m, const char *golden)
{
    struct kernels *k = open_kernels();
    struct weights w;
    struct err_text why;
    const struct stage_config c = whole(m);
    if (weights_load(&c, k, NULL, NULL, &w, &why)) fail_msg("%s", why.s);
    uint64_t bytes;
    assert_int_equal(weights_bytes(&c, k, &bytes, &why), OK);
    assert_in_range(w.bytes, bytes, bytes + (uint64_t)w.n_part); // an empty part has a byte
    struct st_file f;
    assert_true(st_open(&f, golden));
    int n = 0;
    const char *name;
    json_t *value;
    json_object_foreach(f.header, name, value)
    {
        const char *at = strstr(name, "layers."); // what stands before differs by file
        if (strncmp(name, "dequant.", 8) || !at) continue;
        struct st_tensor t = {0};
        char module[200];
        int64_t i;
        snprintf(module, sizeof module, "%.*s", (int)(strlen(at) - strlen(".weight")), at);
        assert_true(st_find(&f, name, "F32", &t));
        const struct model_weight *mw = weight_of(m, module, &i);
        if (!mw) fail_msg("%s: no weight is made of %s", golden, module);
        const struct part *p = weights_part(&w, mw->part);
        const int64_t bad = compare(k, part_weight(p, mw->slot), i, t.data);
        if (bad) fail_msg("%s: %s: %lld values differ", golden, module, (long long)bad);
        n++;
    }
    st_close(&f);
    weights_free(&w);
    k->ops->close(k);
    return n;
}

static const char *fixtures(void)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    return dir ? dir : "../shared/fixtures";
}

static void dequantised_fixtures(void **state)
{
    (void)state;
    char path[600], golden[700];
    snprintf(path, sizeof path, "%s/quant", fixtures());
    DIR *d = opendir(path);
    if (!d) {
        print_message("SKIPPED: no fixtures at %s\n", path);
        skip();
    }
    struct dirent *x;
    int n = 0;
    while ((x = readdir(d))) {
        if (x->d_name[0] == '.') continue;
        struct model *m;
        struct err_text why;
        snprintf(path, sizeof path, "%s/quant/%s", fixtures(), x->d_name);
        snprintf(golden, sizeof golden, "%s/golden.safetensors", path);
        if (model_open(path, &m, &why)) fail_msg("%s", why.s);
        const int found = check_dequantised(m, golden);
        print_message("%s: %d weights\n", x->d_name, found);
        assert_true(found > 0);
        n += found;
        model_close(m);
    }
    closedir(d);
    assert_true(n > 0);
}

// -- ranges, files, reuse --

static struct model *open_tiny(struct tiny_file *f)
{
    struct model *m;
    struct err_text why;
    tiny_make(f, 1, true);
    if (model_open(f->path, &m, &why)) fail_msg("%s", why.s);
    return m;
}

// Bytes this process has asked the system to read.
static uint64_t bytes_read(void)
{
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "r");
    if (!f) return 0;
    if (fscanf(f, "rchar: %llu", &n) != 1) n = 0;
    fclose(f);
    return n;
}

static void only_what_is_needed_is_read(void **state)
{
    (void)state;
    if (!bytes_read()) {
        print_message("SKIPPED: the system does not count reads\n");
        skip();
    }
    struct tiny_file f;
    struct model *m = open_tiny(&f);
    struct kernels *k = open_kernels();
    struct weights w;
    struct err_text why;
    struct stage_config c = whole(m);
    c.embed = c.head = false;
    c.layer_from = 1;
    c.layer_to = 3;
    const uint64_t need = model_part_bytes(m, 1) + model_part_bytes(m, 2);
    const uint64_t before = bytes_read();
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), OK);
    const uint64_t read = bytes_read() - before;
    assert_in_range(read, need, need + 4096); // this test's own reading of /proc
    assert_null(weights_part(&w, 0));
    assert_null(weights_part(&w, PART_EMBED));
    assert_non_null(part_vector(weights_part(&w, 1), SLOT_ATTN_NORM));
    // a wider stage reads only what it does not have yet
    c.layer_from = 0;
    const uint64_t again = bytes_read();
    assert_int_equal(weights_load(&c, k, &w, NULL, &w, &why), OK);
    assert_in_range(bytes_read() - again, model_part_bytes(m, 0), model_part_bytes(m, 0) + 4096);
    weights_free(&w);
    k->ops->close(k);
    model_close(m);
    unlink(f.path);
}

static void changed_and_broken_files_are_refused(void **state)
{
    (void)state;
    struct tiny_file f;
    struct model *m = open_tiny(&f);
    struct kernels *k = open_kernels();
    struct weights w;
    struct err_text why;
    struct stage_config c = whole(m);
    FILE *out = fopen(f.path, "r+b");
    const float nan_value = NAN;
    fseek(out, (long)tiny_offset(&f, "blk.2.ffn_up.weight") + 400, SEEK_SET);
    fwrite(&nan_value, 4, 1, out);
    fclose(out);
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "tensor blk.2.ffn_up.weight holds NaN or infinity"));
    c.layer_to = 2; // the bad one is not needed
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), OK);
    weights_free(&w);
    struct stage_load load = {.cancel = true};
    c.load = &load;
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), ERR_CANCELLED);
    c.load = NULL;
    assert_int_equal(truncate(f.path, (off_t)(f.data_from + 64)), 0);
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), ERR_MODEL);
    assert_non_null(strstr(why.s, "has changed"));
    unlink(f.path);
    assert_int_equal(weights_load(&c, k, NULL, NULL, &w, &why), ERR_SYSTEM);
    k->ops->close(k);
    model_close(m);
}

// A model without files: all of it is there, the same from any split.
static void made_up_model(void **state)
{
    (void)state;
    static const char *const names[] = {"shape:smollm2-135m@layers=2",
                                        "shape:qwen3-0.6b:Q4_K@layers=1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct model *m;
        struct err_text why;
        struct weights all, one;
        if (model_open(names[i], &m, &why)) fail_msg("%s", why.s);
        struct kernels *k = open_kernels();
        struct stage_config c = whole(m);
        c.embed = c.head = c.mtp = false; // the tables are large
        if (weights_load(&c, k, NULL, NULL, &all, &why)) fail_msg("%s", why.s);
        c.n_threads = 1;
        c.layer_from = (uint32_t)m->shape.n_layer - 1;
        if (weights_load(&c, k, NULL, NULL, &one, &why)) fail_msg("%s", why.s);
        const struct part *a = weights_part(&all, (int32_t)c.layer_from);
        const struct part *b = weights_part(&one, (int32_t)c.layer_from);
        assert_int_equal(a->mem.bytes, b->mem.bytes);
        assert_memory_equal(a->mem.data, b->mem.data, a->mem.bytes);
        assert_non_null(part_vector(a, SLOT_ATTN_NORM));
        weights_free(&all);
        weights_free(&one);
        k->ops->close(k);
        model_close(m);
    }
}

// -- members --

static struct share share_of_two(enum share_split split, int32_t member)
{
    struct share s = {.split = split, .n_member = 2, .member = member};
    share_parts((double[]){3, 1}, 2, s.part);
    return s;
}

// Matrix `i` of the member's weight (place `at` of its stack) against its rows of the whole one.
// Returns how many rows there are.
static int64_t same_rows(struct kernels *k, const struct weight *whole, const struct weight *mine,
                         int64_t i, int64_t at)
{
    const struct view *a = &whole->view, *b = &mine->view;
    if (a->layout == LAYOUT_ROWS) {
        const int64_t n = b->shape[b->n_dim - 2] * b->shape[b->n_dim - 1];
        const int64_t all = a->shape[a->n_dim - 2] * a->shape[a->n_dim - 1];
        const int64_t rows = mine->rows.to - mine->rows.from, per = n / rows;
        assert_memory_equal((float *)b->data + at * n,
                            (float *)a->data + i * all + mine->rows.from * per,
                            (size_t)n * sizeof(float));
        return rows;
    }
    const struct view x = a->n_dim == 3 ? view_of_stack(a, i) : *a;
    const struct view y = b->n_dim == 3 ? view_of_stack(b, at) : *b;
    float want[1 << 10], got[1 << 10];
    assert_true(x.shape[1] <= 1 << 10 && y.shape[0] == mine->rows.to - mine->rows.from);
    for (int32_t r = 0; r < y.shape[0]; r++) {
        const int32_t from = (int32_t)mine->rows.from + r;
        k->ops->embed(k, &x, &from, 1, want);
        k->ops->embed(k, &y, &r, 1, got);
        assert_memory_equal(got, want, (size_t)x.shape[1] * sizeof(float));
    }
    return y.shape[0];
}

// What weights_each tells must be in `mine`, as in `whole`.
struct told {
    struct kernels *k;
    const struct weights *whole, *mine;
    int64_t n_row;
    uint64_t bytes; // in the file, of plain floats
};

static err_t tell_rows(void *arg, const struct model_weight *w, int64_t i, int64_t row_from,
                       int64_t n_row)
{
    struct told *t = arg;
    const struct part *p = weights_part(t->mine, w->part);
    const struct weight *mine = part_weight(p, w->slot);
    assert_int_equal(mine->rows.from, row_from);
    assert_int_equal(mine->rows.to, row_from + n_row);
    const int64_t at = w->n > 1 && p->place ? p->place[i] : i;
    assert_true(at >= 0);
    t->n_row += same_rows(t->k, part_weight(weights_part(t->whole, w->part), w->slot), mine, i, at);
    t->bytes += (uint64_t)n_row * 4 * (uint64_t)(w->rows > 1 || w->is_matrix ? w->cols : 1);
    return OK;
}

static void members_hold_their_rows_and_no_others(void **state)
{
    (void)state;
    struct tiny_file f;
    struct model *tiny = open_tiny(&f);
    struct made *moe = made_new(MADE_HYBRID);
    struct kernels *k = open_kernels();
    for (int split = SPLIT_TENSOR; split <= SPLIT_EXPERTS; split++)
        for (int which = split == SPLIT_EXPERTS; which < 2; which++) {
            const struct model *m = which ? &moe->model : tiny;
            struct stage_config c = whole(m);
            struct weights all, mine[2], kept;
            struct err_text why;
            c.mtp = false;
            assert_int_equal(weights_load(&c, k, NULL, NULL, &all, &why), OK);
            uint64_t sum = 0;
            for (int32_t i = 0; i < 2; i++) {
                c.share = share_of_two((enum share_split)split, i);
                const uint64_t before = bytes_read();
                assert_int_equal(weights_load(&c, k, NULL, NULL, &mine[i], &why), OK);
                const uint64_t read = bytes_read() - before;
                struct told t = {.k = k, .whole = &all, .mine = &mine[i]};
                assert_int_equal(weights_each(&c, tell_rows, &t), OK);
                assert_true(t.n_row > 0);
                if (!which && read) assert_in_range(read, t.bytes, t.bytes + 4096);
                assert_true(mine[i].bytes < all.bytes);
                sum += mine[i].bytes;
            }
            assert_true(mine[1].bytes < mine[0].bytes);
            assert_true(sum < 2 * all.bytes);
            // What is held for another share is read again, what is the same is taken over.
            c.share = share_of_two((enum share_split)split, 1);
            assert_int_equal(weights_load(&c, k, &mine[0], NULL, &kept, &why), OK);
            struct told t = {.k = k, .whole = &all, .mine = &kept};
            assert_int_equal(weights_each(&c, tell_rows, &t), OK);
            assert_int_equal(kept.bytes, mine[1].bytes);
            const uint64_t before = bytes_read();
            assert_int_equal(weights_load(&c, k, &kept, NULL, &kept, &why), OK);
            assert_true(bytes_read() - before < 4096);
            weights_free(&kept);
            weights_free(&mine[1]);
            weights_free(&all);
        }
    k->ops->close(k);
    model_close(tiny);
    free(moe);
    unlink(f.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dequantised_fixtures),
        cmocka_unit_test(only_what_is_needed_is_read),
        cmocka_unit_test(changed_and_broken_files_are_refused),
        cmocka_unit_test(made_up_model),
        cmocka_unit_test(members_hold_their_rows_and_no_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
