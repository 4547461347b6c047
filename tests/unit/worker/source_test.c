// Every format's values, written by this test's own encoders, come back from source_rows.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/made_file.h"
#include "tests/unit/worker/unpack.h"
#include "worker/source.h"
#include "worker/weights.h"

static uint32_t rnd_state;
static uint32_t rnd(uint32_t n)
{
    rnd_state = rnd_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(rnd_state >> 4) * n >> 28);
}

static const struct model_rows *whole(struct model_weight *w)
{
    const int64_t n = source_n_row(w);
    w->take[0] = (struct model_rows){n, 0, n, n, 1};
    w->n_take = 1;
    return w->take;
}

// Compares all rows of all matrices, read `step` rows at a time, with want (n, rows, cols). Columns
// that come sorted are put back. `factor` multiplies.
struct expect {
    const float *want;
    int64_t step;
    bool is_ordered;
    bool has_factor;
};

static void check(struct made_file *f, const struct model_weight *w, const struct expect *x)
{
    struct err_text why = {0};
    struct source_files files = {.model = &f->model};
    struct source_reader r = {.files = &files};
    if (source_open(&files, w, &why)) fail_msg("%s", why.s);
    const int64_t rows = source_n_row(w), cols = source_n_col(w);
    const uint64_t row_bytes = dtype_row_bytes(w->dtype, (uint64_t)cols);
    int32_t *order = calloc((size_t)cols, sizeof *order);
    assert_int_equal(source_has_factor(w), x->has_factor);
    for (int64_t i = 0; i < w->n; i++) {
        float factor = 1;
        if (x->has_factor && source_factor(&r, w, i, &factor, &why)) fail_msg("%s", why.s);
        for (int64_t from = 0; from < rows; from += x->step) {
            const int64_t n = rows - from < x->step ? rows - from : x->step;
            const struct source_piece p = {w, i, from, n, order};
            const void *got;
            bool is_ordered;
            if (source_rows(&r, &p, &got, &is_ordered, &why)) fail_msg("%s", why.s);
            assert_int_equal(is_ordered, x->is_ordered);
            for (int64_t k = 0; k < n * cols; k++) {
                const int64_t row = k / cols, c = k % cols;
                const float v =
                    unpack_at(w->dtype, (const uint8_t *)got + (uint64_t)row * row_bytes, c);
                const int64_t col = is_ordered ? order[c] : c;
                const float want = x->want[(i * rows + from + row) * cols + col];
                if (v * factor != want)
                    fail_msg("matrix %lld row %lld column %lld: %g, not %g", (long long)i,
                             (long long)(from + row), (long long)col, v * factor, want);
            }
        }
    }
    free(order);
    source_reader_fini(&r);
    source_close(&files);
}

static void refused(struct made_file *f, const struct model_weight *w, const char *sentence)
{
    struct err_text why = {0};
    struct source_files files = {.model = &f->model};
    struct source_reader r = {.files = &files};
    bool is_ordered;
    const void *rows;
    err_t e = source_open(&files, w, &why);
    for (int64_t i = 0; !e && i < w->n; i++)
        e = source_rows(&r, &(struct source_piece){w, i, 0, source_n_row(w), NULL}, &rows,
                        &is_ordered, &why);
    assert_int_equal(e, ERR_MODEL);
    if (!strstr(why.s, sentence)) fail_msg("\"%s\" lacks \"%s\"", why.s, sentence);
    source_reader_fini(&r);
    source_close(&files);
}

// -- plain floats and rows --

static void floats_become_f32(void **state)
{
    (void)state;
    enum { N = 70 };
    float want[N];
    uint16_t half[N], brain[N];
    double wide[N];
    rnd_state = 1;
    for (int i = 0; i < N; i++) {
        want[i] = (float)((int)rnd(255) - 127) / 16;
        half[i] = dtype_f32_to_f16(want[i]);
        uint32_t u;
        memcpy(&u, &want[i], 4);
        brain[i] = (uint16_t)(u >> 16);
        wide[i] = (double)want[i];
    }
    struct made_file f;
    made_open(&f);
    struct model_source s[4] = {{.main = made_add(&f, "a", DT_F32, want, sizeof want)},
                                {.main = made_add(&f, "b", DT_F16, half, sizeof half)},
                                {.main = made_add(&f, "c", DT_BF16, brain, sizeof brain)},
                                {.main = made_add(&f, "d", DT_F64, wide, sizeof wide)}};
    made_write(&f);
    for (int i = 0; i < 4; i++) {
        struct model_weight w = {
            .n = 1, .rows = 1, .cols = N, .dtype = DT_F32, .sources = &s[i], .n_source = 1};
        whole(&w);
        check(&f, &w, &(struct expect){want, 64, false, false});
        float changed[N];
        for (int k = 0; k < N; k++)
            changed[k] = 1 + want[k];
        w.transform = TRANSFORM_PLUS_ONE;
        check(&f, &w, &(struct expect){changed, N, false, false});
        for (int k = 0; k < N; k++)
            changed[k] = -expf(want[k]);
        w.transform = TRANSFORM_NEG_EXP;
        check(&f, &w, &(struct expect){changed, N, false, false});
    }
    struct model_weight m = {.n = 1, .rows = 7, .cols = 10, .is_matrix = true};
    m.sources = &s[2];
    m.n_source = 1;
    whole(&m);
    m.dtype = DT_BF16; // as it is
    check(&f, &m, &(struct expect){want, 64, false, false});
    m.dtype = DT_F16;
    refused(&f, &m, "cannot become F32");
    m.dtype = DT_F32;
    m.rows = 8;
    whole(&m);
    refused(&f, &m, "tensor c has fewer rows");
    m.cols = 11;
    refused(&f, &m, "tensor c does not have the size");
    made_close(&f);
}

// Source rows hold 100 * row + column.
static void rows_are_found(void **state)
{
    (void)state;
    enum { ROWS = 48, COLS = 8 };
    static float source[ROWS][COLS], want[ROWS][COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        source[i / COLS][i % COLS] = (float)(100 * (i / COLS) + i % COLS);
    struct made_file f;
    made_open(&f);
    struct model_source s = {.main = made_add(&f, "a", DT_F32, source, sizeof source)};
    made_write(&f);
    static const struct model_rows takes[][3] = {
        {{24, 24, 24, 24, 1}},                                   // second half
        {{24, 1, 24, 24, 2}},                                    // every other
        {{24, 4, 4, 8, 1}},                                      // second half of each group of 8
        {{4, 0, 1, 12, 1}},                                      // far apart
        {{8, 0, 2, 12, 1}, {8, 2, 2, 12, 1}, {32, 4, 8, 12, 1}}, // three pieces
        {{16, 0, 2, 1, 8}},                                      // not ascending
    };
    static const int n_take[] = {1, 1, 1, 1, 3, 1};
    for (size_t t = 0; t < sizeof takes / sizeof *takes; t++) {
        struct model_weight w = {.n = 1, .cols = COLS, .dtype = DT_F32, .is_matrix = true};
        w.sources = &s;
        w.n_source = 1;
        w.n_take = n_take[t];
        memcpy(w.take, takes[t], sizeof w.take);
        for (int i = 0; i < w.n_take; i++)
            w.rows += takes[t][i].n;
        for (int64_t r = 0; r < w.rows; r++)
            memcpy(want[r], source[model_weight_row(&w, r)], sizeof want[r]);
        check(&f, &w, &(struct expect){want[0], 64, false, false});
        check(&f, &w, &(struct expect){want[0], 5, false, false});
    }
    made_close(&f);
}

// Stacks: in one tensor, one tensor each, heads of one matrix; and each of these turned.
static void stacks_are_taken_apart(void **state)
{
    (void)state;
    enum { N = 3, ROWS = 4, COLS = 6, ALL = N * 2 * ROWS * COLS };
    static float source[ALL], want[N * ROWS * COLS];
    for (int i = 0; i < ALL; i++)
        source[i] = (float)i;
    struct made_file f;
    made_open(&f);
    struct model_source s = {.main = made_add(&f, "a", DT_F32, source, sizeof source)};
    made_write(&f);
    struct model_weight w = {.n = N, .rows = ROWS, .cols = COLS, .dtype = DT_F32};
    w.is_matrix = true;
    w.sources = &s;
    w.n_source = 1;
    w.n_take = 1;
    for (int turn = 0; turn < 4; turn++) {
        for (int k = 0; k < N * ROWS * COLS; k++) {
            const int i = k / (ROWS * COLS), r = k / COLS % ROWS, c = k % COLS;
            const int64_t head = i * 2 * ROWS + ROWS + r; // V_B: second half of each head
            const int64_t key = i * (COLS + 2) + c;       // K_B: the first COLS of COLS + 2
            const int64_t at[] = {(i * 2 * ROWS + 2 * r + 1) * COLS + c,
                                  (i * COLS + c) * 2 * ROWS + 2 * r + 1, head * COLS + c,
                                  key * ROWS + r};
            want[k] = source[at[turn]];
        }
        w.turn = turn == 1 ? TURN_COLUMNS : turn == 3 ? TURN_HEADS : TURN_NONE;
        w.heads_in_rows = turn >= 2;
        w.take[0] = turn < 2    ? (struct model_rows){ROWS, 1, ROWS, ROWS, 2}
                    : turn == 2 ? (struct model_rows){N * ROWS, ROWS, ROWS, 2 * ROWS, 1}
                                : (struct model_rows){N * COLS, 0, COLS, COLS + 2, 1};
        check(&f, &w, &(struct expect){want, turn == 3 ? ROWS : 3, false, false});
    }
    made_close(&f);
}

static void turned_bf16(void **state)
{
    (void)state;
    enum { N = 2, ROWS = 5, COLS = 7 };
    uint16_t source[N * COLS * ROWS];
    float want[N * ROWS * COLS];
    for (int k = 0; k < N * ROWS * COLS; k++) {
        const int i = k / (ROWS * COLS), r = k / COLS % ROWS, c = k % COLS;
        want[k] = (float)(k - 30);
        uint32_t u;
        memcpy(&u, &want[k], 4);
        source[(i * COLS + c) * ROWS + r] = (uint16_t)(u >> 16);
    }
    struct made_file f;
    made_open(&f);
    struct model_source s = {.main = made_add(&f, "a", DT_BF16, source, sizeof source)};
    made_write(&f);
    struct model_weight w = {.n = N, .rows = ROWS, .cols = COLS, .is_matrix = true};
    w.sources = &s;
    w.n_source = 1;
    for (int i = 0; i < 4; i++) {
        w.turn = i % 2 ? TURN_COLUMNS : TURN_HEADS;
        w.dtype = i < 2 ? DT_BF16 : DT_F32;
        w.n_take = 1;
        w.take[0] = i % 2 ? (struct model_rows){ROWS, 0, ROWS, ROWS, 1}
                          : (struct model_rows){N * COLS, 0, COLS, COLS, 1};
        check(&f, &w, &(struct expect){want, ROWS, false, false});
    }
    made_close(&f);
}

// Keys of kv_b_proj in blocks along the rank: what is transposed has none any more, and is F32.
static void turned_blocks(void **state)
{
    (void)state;
    enum { N = 2, ROWS = 64, COLS = 5, VALUES = 3, PER = COLS + VALUES, BLOCKS = ROWS / 32 };
    static uint8_t source[N * PER * BLOCKS * 34];
    static float want[N * ROWS * COLS];
    rnd_state = 5;
    for (int row = 0; row < N * PER; row++)
        for (int b = 0; b < BLOCKS; b++) { // Q8_0: half d, 32 i8
            uint8_t *at = source + (row * BLOCKS + b) * 34;
            const float d = (float)(1 + rnd(8)) / 16;
            const uint16_t half = dtype_f32_to_f16(d);
            memcpy(at, &half, 2);
            for (int i = 0; i < 32; i++) {
                const int8_t q = (int8_t)(rnd(255) - 127);
                at[2 + i] = (uint8_t)q;
                if (row % PER < COLS)
                    want[(row / PER * ROWS + 32 * b + i) * COLS + row % PER] = d * q;
            }
        }
    const float factor = 0.5f;
    struct made_file f;
    made_open(&f);
    struct model_source s = {.main = made_add(&f, "kv_b", DT_Q8_0, source, sizeof source)};
    const struct model_tensor *global = made_add(&f, "kv_b.scale", DT_F32, &factor, 4);
    made_write(&f);
    struct model_weight w = {
        .n = N, .rows = ROWS, .cols = COLS, .dtype = DT_F32, .is_matrix = true};
    w.turn = TURN_HEADS;
    w.heads_in_rows = true;
    w.sources = &s;
    w.n_source = w.n_take = 1;
    w.take[0] = (struct model_rows){N * COLS, 0, COLS, PER, 1};
    check(&f, &w, &(struct expect){want, ROWS, false, false});
    s.global = global;
    for (int i = 0; i < N * ROWS * COLS; i++)
        want[i] *= factor;
    check(&f, &w, &(struct expect){want, ROWS, false, false});
    made_close(&f);
}

// -- integers with scales and zeros --

enum { ROWS = 96, COLS = 128 };

struct ints {
    uint32_t bits, group;
    bool has_zeros, plus_one, shuffle;
    enum source_kind kind;
    enum dtype dtype;
};

static uint32_t codes[ROWS][COLS], zeros[ROWS][COLS];
static uint16_t scales[ROWS][COLS];
static int32_t groups[COLS];
static float values[ROWS][COLS];

static void put_bits(uint32_t *words, int64_t at, uint32_t bits, uint32_t v)
{
    for (uint32_t b = 0; b < bits; b++, at++)
        words[at / 32] |= (v >> b & 1) << at % 32;
}

static void invent_ints(const struct ints *k)
{
    const int n_group = COLS / (int)k->group;
    for (int c = 0; c < COLS; c++)
        groups[c] = c / (int)k->group;
    for (int c = COLS - 1; k->shuffle && c > 0; c--) {
        const uint32_t d = rnd((uint32_t)c + 1);
        const int32_t g = groups[c];
        groups[c] = groups[d];
        groups[d] = g;
    }
    for (int r = 0; r < ROWS; r++) {
        for (int g = 0; g < n_group; g++) {
            zeros[r][g] = k->has_zeros ? rnd(1u << k->bits) + k->plus_one : 1u << (k->bits - 1);
            scales[r][g] = (uint16_t)(0x1800 + rnd(0x1000));
        }
        for (int c = 0; c < COLS; c++) {
            codes[r][c] = rnd(1u << k->bits);
            values[r][c] = (float)((int)codes[r][c] - (int)zeros[r][groups[c]]) *
                           dtype_f16_to_f32(scales[r][groups[c]]);
        }
    }
}

// Tensors as the three kinds keep them.
static struct model_source write_ints(struct made_file *f, const struct ints *k)
{
    static const int nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    static uint32_t main[ROWS * COLS / 4], zero[ROWS * COLS / 4];
    static uint16_t scale[ROWS * COLS];
    const int n_group = COLS / (int)k->group;
    const bool ct = k->kind == SOURCE_CT_INT, awq = k->kind == SOURCE_AWQ;
    const int64_t words = COLS * (int64_t)k->bits / 32;
    memset(main, 0, sizeof main);
    memset(zero, 0, sizeof zero);
    for (int r = 0; r < ROWS; r++) {
        const int bit = awq ? r / 8 * 32 + nibble[r % 8] * 4 : r * (int)k->bits;
        for (int c = 0; c < COLS; c++) {
            uint32_t row[COLS / 4] = {0};
            put_bits(row, c * (int)k->bits, k->bits, codes[r][c]);
            for (int64_t x = 0; x < words; x++)
                if (!awq) main[ct ? r * words + x : x * ROWS + r] |= row[x];
            if (awq) put_bits(main, c * ROWS * 4 + bit, 4, codes[r][c]);
        }
        for (int g = 0; g < n_group; g++) {
            scale[ct ? r * n_group + g : g * ROWS + r] = scales[r][g];
            const uint32_t z = zeros[r][g] - k->plus_one;
            if (ct)
                put_bits(&zero[bit / 32 * n_group + g], bit % 32, k->bits, z);
            else
                put_bits(&zero[g * ROWS * (int)k->bits / 32], bit, k->bits, z);
        }
    }
    struct model_source s = {0};
    s.main = made_add(f, "w.qweight", DT_I32, main, (uint64_t)(ROWS * words * 4));
    s.scale = made_add(f, "w.scales", DT_F16, scale, (uint64_t)(ROWS * n_group * 2));
    if (k->has_zeros || !ct)
        s.zero = made_add(f, "w.qzeros", DT_I32, zero, ROWS * k->bits / 8 * (uint64_t)n_group);
    s.order = made_add(f, "w.g_idx", DT_I32, groups, sizeof groups);
    return s;
}

static void check_ints(const struct ints *k)
{
    struct made_file f;
    made_open(&f);
    invent_ints(k);
    struct model_source s = write_ints(&f, k);
    made_write(&f);
    struct model_weight w = {
        .n = 1, .rows = ROWS, .cols = COLS, .dtype = k->dtype, .kind = k->kind};
    w.is_matrix = true;
    w.bits = (uint8_t)k->bits;
    w.zero_is_plus_one = k->plus_one;
    w.block_cols = (int32_t)k->group;
    w.sources = &s;
    w.n_source = 1;
    whole(&w);
    const bool is_ordered = k->shuffle && k->dtype != DT_F32;
    check(&f, &w, &(struct expect){values[0], 64, is_ordered, false});
    w.block_cols = 0; // from the number of scales
    check(&f, &w, &(struct expect){values[0], ROWS, is_ordered, false});
    // rows from the middle, as of a fused tensor
    w.rows = 20;
    w.take[0] = (struct model_rows){20, 9, 4, 12, 1};
    static float some[20][COLS];
    for (int r = 0; r < 20; r++)
        memcpy(some[r], values[model_weight_row(&w, r)], sizeof some[r]);
    check(&f, &w, &(struct expect){some[0], 64, is_ordered, false});
    // heads, turned: only as floats
    if (k->dtype == DT_F32) {
        static float turned[4][COLS][6];
        w = (struct model_weight){
            .n = 4, .rows = COLS, .cols = 6, .dtype = DT_F32, .kind = k->kind, .bits = w.bits};
        w.is_matrix = true;
        w.zero_is_plus_one = k->plus_one;
        w.turn = TURN_HEADS;
        w.sources = &s;
        w.n_source = 1;
        w.n_take = 1;
        w.take[0] = (struct model_rows){24, 3, 6, 17, 1};
        for (int i = 0; i < 4; i++)
            for (int x = 0; x < 6 * COLS; x++)
                turned[i][x % COLS][x / COLS] = values[3 + 17 * i + x / COLS][x % COLS];
        check(&f, &w, &(struct expect){turned[0][0], COLS, false, false});
    }
    made_close(&f);
}

static void integers(void **state)
{
    (void)state;
    static const struct ints all[] = {
        {4, 32, true, true, false, SOURCE_GPTQ, DT_INT4},
        {4, 64, true, false, false, SOURCE_GPTQ, DT_INT4},
        {4, COLS, true, true, false, SOURCE_GPTQ, DT_F32},
        {4, 64, false, true, false, SOURCE_GPTQ, DT_Q4_0},
        {4, 32, false, true, true, SOURCE_GPTQ, DT_Q4_0},
        {4, 32, true, true, true, SOURCE_GPTQ, DT_INT4},
        {4, 32, true, true, true, SOURCE_GPTQ, DT_F32},
        {4, 16, true, true, true, SOURCE_GPTQ, DT_F32},
        {2, 32, true, true, false, SOURCE_GPTQ, DT_INT4},
        {3, 64, true, true, false, SOURCE_GPTQ, DT_INT4},
        {3, 64, true, true, true, SOURCE_GPTQ, DT_INT4},
        {8, 64, true, true, false, SOURCE_GPTQ, DT_INT8},
        {8, 32, true, true, true, SOURCE_GPTQ, DT_INT8},
        {8, 32, true, false, false, SOURCE_GPTQ, DT_F32},
        {4, 64, true, false, false, SOURCE_AWQ, DT_INT4},
        {4, 32, false, false, false, SOURCE_AWQ, DT_Q4_0},
        {4, 16, true, false, false, SOURCE_AWQ, DT_F32},
        {4, 64, false, false, false, SOURCE_CT_INT, DT_Q4_0},
        {4, 32, true, false, false, SOURCE_CT_INT, DT_INT4},
        {4, COLS, true, false, false, SOURCE_CT_INT, DT_F32},
        {4, 32, true, false, true, SOURCE_CT_INT, DT_INT4},
        {8, 32, true, false, false, SOURCE_CT_INT, DT_INT8},
        {2, 64, true, false, false, SOURCE_CT_INT, DT_INT4},
    };
    rnd_state = 5;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        check_ints(&all[i]);
}

static void bad_integers_are_refused(void **state)
{
    (void)state;
    struct ints k = {4, 32, true, true, true, SOURCE_GPTQ, DT_Q4_0};
    struct made_file f;
    made_open(&f);
    rnd_state = 7;
    invent_ints(&k);
    struct model_source s = write_ints(&f, &k), t = s;
    struct model_weight w = {.n = 1, .rows = ROWS, .cols = COLS, .dtype = k.dtype, .kind = k.kind};
    w.is_matrix = true;
    w.bits = 4;
    w.zero_is_plus_one = true;
    w.sources = &t;
    w.n_source = 1;
    whole(&w);
    groups[3] = 4;
    const struct model_tensor *far = made_add(&f, "w.far", DT_I32, groups, sizeof groups);
    groups[3] = groups[4] = groups[5] = 0;
    const struct model_tensor *uneven = made_add(&f, "w.uneven", DT_I32, groups, sizeof groups);
    uint16_t bad[COLS / 32 * ROWS];
    memcpy(bad, f.bytes + s.scale->offset, sizeof bad);
    bad[17] = 0x7c00;
    const struct model_tensor *infinite = made_add(&f, "w.inf", DT_F16, bad, sizeof bad);
    made_write(&f);
    refused(&f, &w, "w.qzeros has zeros although");
    w.dtype = DT_INT4;
    t.order = far;
    refused(&f, &w, "w.far names a group");
    t.order = uneven;
    refused(&f, &w, "w.uneven has groups of different sizes");
    t.order = s.order;
    t.scale = infinite;
    refused(&f, &w, "holds NaN or infinity");
    t.scale = s.order;
    refused(&f, &w, "w.g_idx does not have one scale");
    t.scale = s.scale;
    t.zero = s.scale;
    refused(&f, &w, "w.scales does not have one zero");
    t.zero = s.zero;
    w.dtype = DT_NVFP4;
    refused(&f, &w, "w.qweight does not fit blocks");
    made_close(&f);
}

// -- bytes --

static void bytes(void **state)
{
    (void)state;
    enum { N = 2, R = 70, C = 96, BR = 32, BC = 64, NR = 3, NC = 2 };
    static uint8_t raw[N * R * C];
    static float scale[N * R], want[N * R * C];
    struct made_file f;
    made_open(&f);
    rnd_state = 9;
    for (int i = 0; i < N * R * C; i++)
        raw[i] = (uint8_t)(rnd(127) | rnd(2) << 7); // no NaN
    for (int i = 0; i < N * R; i++)
        scale[i] = (float)(1 + rnd(1000)) / 4096;
    const struct model_tensor *f8 = made_add(&f, "f8", DT_F8_E4M3, raw, sizeof raw);
    const struct model_tensor *i8 = made_add(&f, "i8", DT_I8, raw, sizeof raw);
    static const struct {
        int count, rows, cols;
    } grids[] = {{1, 0, 0}, {N, 0, 0}, {N * R, 0, 0}, {N * R, 1, 0}, {N * NR * NC, BR, BC}};
    struct model_source s[10];
    for (int g = 0; g < 5; g++) {
        s[2 * g] = (struct model_source){.main = f8};
        s[2 * g].scale = made_add(&f, "s", DT_F32, scale, 4 * (uint64_t)grids[g].count);
        s[2 * g + 1] = (struct model_source){.main = i8, .scale = s[2 * g].scale};
    }
    made_write(&f);
    for (int g = 0; g < 20; g++) {
        const bool is_f8 = g / 2 % 2 == 0;
        const int x = g / 4;
        struct model_weight w = {.n = N, .rows = R, .cols = C, .is_matrix = true};
        w.kind = is_f8 ? SOURCE_FP8 : SOURCE_INT8;
        w.dtype = g % 2 ? DT_F32 : is_f8 ? DT_FP8 : DT_INT8;
        w.block_rows = grids[x].rows;
        w.block_cols = grids[x].cols;
        w.sources = &s[2 * x + !is_f8];
        w.n_source = 1;
        whole(&w);
        for (int k = 0; k < N * R * C; k++) {
            const int i = k / (R * C), r = k / C % R, c = k % C;
            const int at[] = {0, i, i * R + r, i * R + r, (i * NR + r / BR) * NC + c / BC};
            const uint8_t v = raw[k];
            want[k] = (is_f8 ? dtype_f8_to_f32(v) : (float)(int8_t)v) * scale[at[x]];
        }
        check(&f, &w, &(struct expect){want, 64, false, false});
        check(&f, &w, &(struct expect){want, R, false, false});
    }
    struct model_weight w = {.n = N, .rows = R, .cols = C, .dtype = DT_FP8, .is_matrix = true};
    w.kind = SOURCE_FP8;
    w.sources = &s[8];
    w.n_source = 1;
    whole(&w);
    refused(&f, &w, "tensor s does not have one scale for each block");
    made_close(&f);
}

static void nan_bytes_are_refused(void **state)
{
    (void)state;
    enum { R = 3, C = 64 };
    uint8_t raw[R][C] = {0};
    const float one = 1;
    raw[1][33] = 0xff;
    struct made_file f;
    made_open(&f);
    struct model_source s = {.main = made_add(&f, "x.weight", DT_F8_E4M3, raw, sizeof raw)};
    s.scale = made_add(&f, "x.scale", DT_F32, &one, 4);
    made_write(&f);
    struct model_weight w = {.n = 1, .rows = R, .cols = C, .dtype = DT_FP8, .is_matrix = true};
    w.kind = SOURCE_FP8;
    w.sources = &s;
    w.n_source = 1;
    whole(&w);
    refused(&f, &w, "tensor x.weight holds NaN or infinity");
    w.dtype = DT_F32;
    refused(&f, &w, "tensor x.weight holds NaN or infinity");
    f.file.bytes++;
    refused(&f, &w, "model file has changed");
    made_close(&f);
}

// -- fp4 --

static void fp4(void **state)
{
    (void)state;
    enum { N = 2, R = 66, C = 128 };
    static uint8_t raw[N * R * C / 2], s8[N * R * C / 16];
    static float want[N * R * C];
    const float globals[N] = {.25f, 8};
    struct made_file f;
    made_open(&f);
    rnd_state = 11;
    for (int i = 0; i < N * R * C / 2; i++)
        raw[i] = (uint8_t)rnd(256);
    for (int i = 0; i < N * R * C / 16; i++)
        s8[i] = (uint8_t)(40 + rnd(80));
    struct model_source s = {.main = made_add(&f, "w", DT_U8, raw, sizeof raw)};
    s.scale = made_add(&f, "s", DT_F8_E4M3, s8, sizeof s8);
    s.global = made_add(&f, "g", DT_F32, globals, sizeof globals);
    struct model_source mx = {.main = s.main};
    mx.scale = made_add(&f, "e", DT_U8, s8, sizeof s8 / 2);
    struct model_source bad = s;
    uint8_t minus = 0x81;
    bad.scale = made_add(&f, "m", DT_F8_E4M3, s8, sizeof s8);
    f.bytes[bad.scale->offset + 5] = minus;
    made_write(&f);
    for (int k = 0; k < 6; k++) {
        struct model_weight w = {.n = N, .rows = R, .cols = C, .is_matrix = true};
        const bool is_nv = k < 4;
        w.kind = is_nv ? SOURCE_NVFP4 : SOURCE_MXFP4;
        w.dtype = k % 2 ? DT_F32 : is_nv ? DT_NVFP4 : DT_MXFP4;
        w.global_divides = k / 2 == 1;
        w.sources = is_nv ? &s : &mx;
        w.n_source = 1;
        whole(&w);
        for (int x = 0; x < N * R * C; x++) {
            const int i = x / (R * C), c = x % C;
            const float v = unpack_fp4(raw[x / 2] >> (c % 2 ? 4 : 0) & 15);
            const float g = w.global_divides ? 1 / globals[i] : globals[i];
            want[x] = is_nv ? v * dtype_f8_to_f32(s8[x / 16]) * g : v * ldexpf(1, s8[x / 32] - 127);
        }
        check(&f, &w, &(struct expect){want, 64, false, is_nv && w.dtype != DT_F32});
        w.sources = &bad;
        if (k == 0) refused(&f, &w, "tensor m holds a negative scale");
    }
    made_close(&f);
}

// -- made up --

// The same bytes however they are cut, finite, and of the size that was meant.
static void made_up(void **state)
{
    (void)state;
    static const enum dtype sized[] = {DT_F32,  DT_F16, DT_BF16,  DT_Q4_0, DT_INT4,
                                       DT_INT8, DT_FP8, DT_NVFP4, DT_MXFP4};
    struct model m = {0};
    struct source_files files = {.model = &m};
    struct source_reader all = {.files = &files}, some = {.files = &files};
    for (enum dtype t = DT_NONE + 1; t < DT_COUNT; t++) {
        if (!dtype_is_weight(t)) continue;
        struct model_weight w = {.n = 2, .rows = 130, .cols = 1024, .dtype = t, .is_matrix = true};
        w.kind = SOURCE_MADE;
        w.part = 3;
        w.slot = SLOT_FFN_UP;
        struct err_text why;
        bool is_ordered;
        const void *a, *b;
        float factor = 1;
        const uint64_t row = dtype_row_bytes(t, 1024);
        assert_int_equal(
            source_rows(&all, &(struct source_piece){&w, 1, 0, 130, NULL}, &a, &is_ordered, &why),
            OK);
        assert_int_equal(
            source_rows(&some, &(struct source_piece){&w, 1, 64, 66, NULL}, &b, &is_ordered, &why),
            OK);
        assert_memory_equal((const char *)a + 64 * row, b, 66 * row);
        if (!weights_are_finite(t, a, 130 * row)) fail_msg("%s", dtype_info(t)->name);
        source_rows(&some, &(struct source_piece){&w, 0, 64, 66, NULL}, &b, &is_ordered, &why);
        assert_true(memcmp((const char *)a + 64 * row, b, 66 * row) != 0);
        if (source_has_factor(&w)) assert_int_equal(source_factor(&all, &w, 1, &factor, &why), OK);
        for (size_t i = 0; i < sizeof sized / sizeof *sized; i++) {
            double sum = 0;
            for (int64_t k = 0; sized[i] == t && k < 130 * 1024; k++) {
                const double v =
                    (double)(factor * unpack_at(t, (const uint8_t *)a + (uint64_t)(k / 1024) * row,
                                                k % 1024));
                sum += v * v;
            }
            if (sized[i] == t && fabs(sqrt(sum / 130) - 1) > .45)
                fail_msg("%s has a size of %g", dtype_info(t)->name, sqrt(sum / 130));
        }
    }
    source_reader_fini(&all);
    source_reader_fini(&some);
}

// -- past the page cache --

// Places and sizes that no disk reads at once, the file's end among them.
static void direct_reads_bring_the_same(void **state)
{
    (void)state;
    enum { N_ROW = 700, N_COL = 256, STEP = 256 };
    uint16_t *half = malloc(sizeof *half * N_ROW * N_COL);
    assert_non_null(half);
    for (int i = 0; i < N_ROW * N_COL; i++)
        half[i] = dtype_f32_to_f16((float)(i % 4093) / 64);
    struct made_file f;
    made_open(&f);
    made_add(&f, "before", DT_F16, half, 1111);
    struct model_source src = {.main =
                                   made_add(&f, "w", DT_F16, half, sizeof *half * N_ROW * N_COL)};
    f.n_bytes -= 3; // nothing behind it
    made_write(&f);
    struct model_weight w = {.kind = SOURCE_ROWS,
                             .dtype = DT_F16,
                             .is_matrix = true,
                             .n = 1,
                             .rows = N_ROW,
                             .cols = N_COL,
                             .n_source = 1,
                             .sources = &src};
    whole(&w);
    struct source_files files = {.model = &f.model, .is_direct = true, .drops = true};
    struct source_reader r = {.files = &files};
    struct err_text why = {0};
    assert_int_equal(source_open(&files, &w, &why), OK);
    if (files.direct_fds[0] < 0) print_message("the usual reads: there are no direct ones here\n");
    for (int64_t from = 0; from < N_ROW; from += STEP) {
        const int64_t n = N_ROW - from < STEP ? N_ROW - from : STEP;
        const void *got;
        bool is_ordered;
        if (source_rows(&r, &(struct source_piece){&w, 0, from, n, NULL}, &got, &is_ordered, &why))
            fail_msg("%s", why.s);
        assert_memory_equal(got, half + from * N_COL, (size_t)(n * N_COL) * sizeof *half);
    }
    source_reader_fini(&r);
    source_close(&files);
    made_close(&f);
    free(half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_become_f32),
        cmocka_unit_test(rows_are_found),
        cmocka_unit_test(stacks_are_taken_apart),
        cmocka_unit_test(turned_bf16),
        cmocka_unit_test(turned_blocks),
        cmocka_unit_test(integers),
        cmocka_unit_test(bad_integers_are_refused),
        cmocka_unit_test(bytes),
        cmocka_unit_test(nan_bytes_are_refused),
        cmocka_unit_test(fp4),
        cmocka_unit_test(made_up),
        cmocka_unit_test(direct_reads_bring_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
