#include "proto/wire/wire_priv.h"

#include <math.h>
#include <string.h>

// -- columns --

static uint32_t at32(const uint32_t *col, size_t n, size_t i)
{
    return n ? col[i] : 0;
}

static bool any32(const uint32_t *v, size_t n)
{
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++)
        all |= v[i];
    return all != 0;
}

// True if every value is below the power of two `end`.
static bool below(const uint32_t *v, size_t n, uint32_t end)
{
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++)
        all |= v[i];
    return all < end;
}

static const uint32_t ID_END = UINT32_C(1) << 31; // ids are non-negative int32

static bool finite_all(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

static bool within(float v, float lo, float hi)
{
    return v >= lo && v <= hi; // false for NaN
}

struct seen {
    uint64_t bits[STEP_SLOTS_MAX / 64];
};

static bool seen_before(struct seen *s, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << (i % 64);
    bool was = s->bits[i / 64] & bit;
    s->bits[i / 64] |= bit;
    return was;
}

// -- step, in --

static err_t sampling_in(struct wire_in *in, const Trireme__Bind *b, struct sampling *out)
{
    WIRE_NEED(in, within(b->temperature, 0, 2), "step: temperature is not within 0 to 2");
    WIRE_NEED(in, b->top_p > 0 && b->top_p <= 1, "step: top_p is not above 0 and at most 1");
    WIRE_NEED(in, within(b->min_p, 0, 1), "step: min_p is not within 0 to 1");
    WIRE_NEED(in, b->top_k < ID_END, "step: top_k %u is too large", b->top_k);
    WIRE_NEED(in, within(b->presence, -2, 2), "step: presence penalty is not within -2 to 2");
    WIRE_NEED(in, within(b->frequency, -2, 2), "step: frequency penalty is not within -2 to 2");
    WIRE_NEED(in, b->repetition > 0 && isfinite(b->repetition),
              "step: repetition penalty is not above 0");
    WIRE_NEED(in, b->logprobs <= STEP_LOGPROBS_MAX + 1, "step: more than %d logprobs asked",
              STEP_LOGPROBS_MAX);
    WIRE_NEED(in, b->n_bias == b->n_bias_id && b->n_bias <= STEP_BIAS_MAX,
              "step: %zu logit biases for %zu ids, limit %d", b->n_bias, b->n_bias_id,
              STEP_BIAS_MAX);
    WIRE_NEED(in, below(b->bias_id, b->n_bias_id, ID_END) && finite_all(b->bias, b->n_bias),
              "step: logit bias with a negative id or a value that is not finite");
    struct logit_bias *bias = NULL;
    if (b->n_bias) {
        bias = arena_take_n(in->arena, b->n_bias, sizeof *bias);
        if (!bias) return err_say(in->why, ERR_MEMORY, "step: no memory for logit biases");
        for (size_t i = 0; i < b->n_bias; i++)
            bias[i] = (struct logit_bias){(int32_t)b->bias_id[i], b->bias[i]};
    }
    *out = (struct sampling){
        .temperature = b->temperature,
        .top_p = b->top_p,
        .min_p = b->min_p,
        .top_k = (int32_t)b->top_k,
        .presence = b->presence,
        .frequency = b->frequency,
        .repetition = b->repetition,
        .seed = b->seed,
        .choice = b->choice,
        .n_logprobs = (int32_t)b->logprobs - 1,
        .digest = b->digest,
        .bias = bias,
        .n_bias = (uint32_t)b->n_bias,
    };
    return OK;
}

static err_t binds_in(struct wire_in *in, const Trireme__Step *s, struct step_bind *out)
{
    struct seen slots = {0};
    for (size_t i = 0; i < s->n_binds; i++) {
        const Trireme__Bind *b = s->binds[i];
        WIRE_NEED(in, b->slot < STEP_SLOTS_MAX, "step: bind of slot %u, limit %d", b->slot,
                  STEP_SLOTS_MAX);
        WIRE_NEED(in, !seen_before(&slots, b->slot), "step: slot %u is bound twice", b->slot);
        WIRE_NEED(in, below(b->history, b->n_history, ID_END), "step: history holds a negative id");
        WIRE_NEED(in, b->n_prompt < ID_END, "step: prompt of %u tokens", b->n_prompt);
        WIRE_NEED(in, b->snapshot <= STEP_SNAPSHOTS_MAX, "step: bind to snapshot %u, limit %d",
                  b->snapshot, STEP_SNAPSHOTS_MAX);
        WIRE_NEED(in, b->pooling < POOLINGS, "step: unknown pooling %u", b->pooling);
        out[i].slot = b->slot;
        out[i].history = b->n_history ? (const int32_t *)b->history : NULL;
        out[i].n_history = (uint32_t)b->n_history;
        out[i].n_prompt = b->n_prompt;
        out[i].snapshot = b->snapshot;
        out[i].pooling = (enum pooling)b->pooling;
        err_t e = sampling_in(in, b, &out[i].sampling);
        if (e) return e;
    }
    return OK;
}

static err_t row_in(struct wire_in *in, const Trireme__Step *s, size_t i, struct step_row *out)
{
    size_t n = s->n_slot;
    uint32_t pos = at32(s->pos, s->n_pos, i), n_tok = at32(s->n_tok, s->n_n_tok, i);
    uint32_t page_from = at32(s->page_from, s->n_page_from, i);
    uint32_t n_page = at32(s->n_page, s->n_n_page, i);
    uint32_t local_from = at32(s->local_from, s->n_local_from, i);
    uint32_t n_local = at32(s->n_local, s->n_n_local, i);
    uint32_t snapshot = at32(s->snapshot, s->n_snapshot, i);
    uint32_t flags = at32(s->flags, s->n_flags, i), next = at32(s->next_id, s->n_next_id, i);
    uint64_t chain = s->n_chain ? s->chain[i] : 0;
    bool is_chain = flags & ROW_CHAIN;

    WIRE_NEED(in, s->slot[i] < STEP_SLOTS_MAX, "step: row %zu of %zu in slot %u, limit %d", i, n,
              s->slot[i], STEP_SLOTS_MAX);
    WIRE_NEED(in, !(flags & ~(uint32_t)(ROW_SAMPLE | ROW_SCORE | ROW_CHAIN)) || flags == ROW_POOL,
              "step: row %zu has unknown flags 0x%x", i, flags);
    WIRE_NEED(in, n_tok >= 1 && n_tok <= STEP_TOKENS_MAX, "step: row %zu has %u tokens", i, n_tok);
    WIRE_NEED(in, pos <= INT32_MAX - n_tok, "step: row %zu starts at position %u", i, pos);
    WIRE_NEED(in, n_page <= STEP_PAGES_MAX && page_from <= STEP_PAGES_MAX - n_page,
              "step: row %zu sets page entries from %u, %u of them", i, page_from, n_page);
    WIRE_NEED(in, n_local <= STEP_PAGES_MAX && local_from <= STEP_PAGES_MAX - n_local,
              "step: row %zu sets local page entries from %u, %u of them", i, local_from, n_local);
    WIRE_NEED(in, snapshot <= STEP_SNAPSHOTS_MAX, "step: row %zu saves snapshot %u, limit %d", i,
              snapshot, STEP_SNAPSHOTS_MAX);
    WIRE_NEED(in, next <= ID_END, "step: row %zu has a negative next id", i);
    WIRE_NEED(in, !is_chain || n_tok == 1, "step: row %zu chains %u tokens", i, n_tok);
    WIRE_NEED(in, is_chain ? chain > 0 && chain < s->number : chain == 0,
              "step: row %zu chains to no earlier step", i);
    *out = (struct step_row){
        .slot = s->slot[i],
        .flags = flags,
        .pos = pos,
        .n_tok = n_tok,
        .next_id = (int32_t)((int64_t)next - 1),
        .from_step = is_chain ? s->number - chain : 0,
        .page_from = page_from,
        .n_page = n_page,
        .local_from = local_from,
        .n_local = n_local,
        .snapshot = snapshot,
    };
    return OK;
}

static err_t rows_in(struct wire_in *in, const Trireme__Step *s, struct step_row *out)
{
    struct seen slots = {0};
    size_t n = s->n_slot, n_tok = 0, id_at = 0, page_at = 0, local_at = 0;
    for (size_t i = 0; i < n; i++) {
        struct step_row *r = &out[i];
        err_t e = row_in(in, s, i, r);
        if (e) return e;
        WIRE_NEED(in, !seen_before(&slots, r->slot), "step: two rows in slot %u", r->slot);
        n_tok += r->n_tok;
        WIRE_NEED(in, n_tok <= STEP_TOKENS_MAX, "step: more than %d tokens", STEP_TOKENS_MAX);
        if (!(r->flags & ROW_CHAIN)) {
            WIRE_NEED(in, r->n_tok <= s->n_ids - id_at, "step: ids of row %zu are missing", i);
            r->ids = (const int32_t *)s->ids + id_at;
            id_at += r->n_tok;
        }
        if (r->n_page) {
            WIRE_NEED(in, r->n_page <= s->n_pages - page_at, "step: pages of row %zu are missing",
                      i);
            r->pages = s->pages + page_at;
            page_at += r->n_page;
        }
        if (r->n_local) {
            WIRE_NEED(in, r->n_local <= s->n_locals - local_at,
                      "step: local pages of row %zu are missing", i);
            r->locals = s->locals + local_at;
            local_at += r->n_local;
        }
    }
    WIRE_NEED(in, id_at == s->n_ids && page_at == s->n_pages && local_at == s->n_locals,
              "step: ids or pages that belong to no row");
    WIRE_NEED(in, below(s->ids, s->n_ids, ID_END), "step: a token id is negative");
    WIRE_NEED(in,
              below(s->pages, s->n_pages, STEP_PAGES_MAX) &&
                  below(s->locals, s->n_locals, STEP_PAGES_MAX),
              "step: a page number is over %d", STEP_PAGES_MAX - 1);
    return OK;
}

static err_t masks_in(struct wire_in *in, const Trireme__Step *s, struct step_row *out)
{
    size_t at = 0;
    for (size_t i = 0; i < s->n_n_mask; i++) {
        const uint32_t n = s->n_mask[i];
        const bool draws = (out[i].flags & (ROW_SAMPLE | ROW_CHAIN)) == ROW_SAMPLE;
        if (n == 0) continue;
        WIRE_NEED(in, draws && n <= s->masks.len - at && idset_ok(s->masks.data + at, n, ID_END),
                  "step: bad mask of row %zu", i);
        out[i].mask = s->masks.data + at;
        out[i].n_mask = n;
        at += n;
    }
    WIRE_NEED(in, at == s->masks.len && at <= STEP_MASKS_MAX,
              "step: masks that belong to no row, or more than %d bytes of them", STEP_MASKS_MAX);
    return OK;
}

static bool column_ok(size_t n_col, size_t n)
{
    return n_col == 0 || n_col == n;
}

err_t wire_step_in(struct wire_in *in, const Trireme__Step *s, struct step *out)
{
    size_t n = s->n_slot;
    WIRE_NEED(in, s->epoch && s->number, "step: epoch and number start at 1");
    WIRE_NEED(in, n <= STEP_ROWS_MAX, "step: %zu rows, limit %d", n, STEP_ROWS_MAX);
    WIRE_NEED(in, s->n_binds <= STEP_SLOTS_MAX, "step: %zu binds, limit %d", s->n_binds,
              STEP_SLOTS_MAX);
    WIRE_NEED(in,
              column_ok(s->n_flags, n) && column_ok(s->n_pos, n) && column_ok(s->n_n_tok, n) &&
                  column_ok(s->n_next_id, n) && column_ok(s->n_chain, n) &&
                  column_ok(s->n_page_from, n) && column_ok(s->n_n_page, n) &&
                  column_ok(s->n_local_from, n) && column_ok(s->n_n_local, n) &&
                  column_ok(s->n_snapshot, n) && column_ok(s->n_n_mask, n),
              "step: a column does not have one entry per row");
    struct step_bind *binds = arena_take_n(in->arena, s->n_binds, sizeof *binds);
    struct step_row *rows = arena_take_n(in->arena, n, sizeof *rows);
    if (!binds || !rows) return err_say(in->why, ERR_MEMORY, "step: no memory for its rows");
    err_t e = binds_in(in, s, binds);
    if (!e) e = rows_in(in, s, rows);
    if (!e) e = masks_in(in, s, rows);
    if (e) return e;
    *out = (struct step){.epoch = s->epoch,
                         .number = s->number,
                         .binds = binds,
                         .n_bind = (uint32_t)s->n_binds,
                         .rows = rows,
                         .n_row = (uint32_t)n};
    return OK;
}

// -- step, out --

static bool bind_out(struct arena *a, const struct step_bind *b, Trireme__Bind *out)
{
    const struct sampling *s = &b->sampling;
    trireme__bind__init(out);
    out->slot = b->slot;
    out->temperature = s->temperature;
    out->top_p = s->top_p;
    out->min_p = s->min_p;
    out->top_k = (uint32_t)s->top_k;
    out->presence = s->presence;
    out->frequency = s->frequency;
    out->repetition = s->repetition;
    out->seed = s->seed;
    out->choice = s->choice;
    out->logprobs = (uint32_t)(s->n_logprobs + 1);
    out->digest = s->digest;
    out->n_history = b->n_history;
    out->history = (uint32_t *)b->history;
    out->n_prompt = b->n_prompt;
    out->snapshot = b->snapshot;
    out->pooling = (uint32_t)b->pooling;
    out->n_bias = out->n_bias_id = s->n_bias;
    out->bias = arena_take_n(a, s->n_bias, sizeof *out->bias);
    out->bias_id = arena_take_n(a, s->n_bias, sizeof *out->bias_id);
    if (!out->bias || !out->bias_id) return false;
    for (uint32_t i = 0; i < s->n_bias; i++) {
        out->bias[i] = s->bias[i].bias;
        out->bias_id[i] = (uint32_t)s->bias[i].id;
    }
    return true;
}

static bool binds_out(struct arena *a, const struct step *s, Trireme__Step *out)
{
    out->binds = arena_take_n(a, s->n_bind, sizeof *out->binds);
    Trireme__Bind *binds = arena_take_n(a, s->n_bind, sizeof *binds);
    if (!out->binds || !binds) return false;
    out->n_binds = s->n_bind;
    for (uint32_t i = 0; i < s->n_bind; i++) {
        out->binds[i] = &binds[i];
        if (!bind_out(a, &s->binds[i], &binds[i])) return false;
    }
    return true;
}

static void rows_fill(const struct step *s, Trireme__Step *out)
{
    for (uint32_t i = 0; i < s->n_row; i++) {
        const struct step_row *r = &s->rows[i];
        out->slot[i] = r->slot;
        out->flags[i] = r->flags;
        out->pos[i] = r->pos;
        out->n_tok[i] = r->n_tok;
        out->next_id[i] = (uint32_t)r->next_id + 1;
        out->chain[i] = r->flags & ROW_CHAIN ? s->number - r->from_step : 0;
        out->page_from[i] = r->page_from;
        out->n_page[i] = r->n_page;
        out->local_from[i] = r->local_from;
        out->n_local[i] = r->n_local;
        out->snapshot[i] = r->snapshot;
        if (!(r->flags & ROW_CHAIN)) {
            memcpy(out->ids + out->n_ids, r->ids, r->n_tok * sizeof *r->ids);
            out->n_ids += r->n_tok;
        }
        if (r->n_page) memcpy(out->pages + out->n_pages, r->pages, r->n_page * sizeof *r->pages);
        out->n_pages += r->n_page;
        if (r->n_local)
            memcpy(out->locals + out->n_locals, r->locals, r->n_local * sizeof *r->locals);
        out->n_locals += r->n_local;
    }
}

// Nothing of it where no row has one.
static bool masks_out(struct arena *a, const struct step *s, Trireme__Step *out)
{
    size_t len = 0;
    for (uint32_t i = 0; i < s->n_row; i++)
        len += s->rows[i].n_mask;
    if (!len) return true;
    out->n_mask = arena_take_n(a, s->n_row, sizeof *out->n_mask);
    out->masks.data = arena_take(a, len);
    if (!out->n_mask || !out->masks.data) return false;
    out->n_n_mask = s->n_row;
    for (uint32_t i = 0; i < s->n_row; i++) {
        const struct step_row *r = &s->rows[i];
        out->n_mask[i] = r->n_mask;
        if (r->n_mask) memcpy(out->masks.data + out->masks.len, r->mask, r->n_mask);
        out->masks.len += r->n_mask;
    }
    return true;
}

bool wire_step_out(struct arena *a, const struct step *s, Trireme__Step *out)
{
    size_t n = s->n_row, n_id = 0, n_page = 0, n_local = 0;
    bool has_chain = false;
    for (size_t i = 0; i < n; i++) {
        bool is_chain = s->rows[i].flags & ROW_CHAIN;
        n_id += is_chain ? 0 : s->rows[i].n_tok;
        n_page += s->rows[i].n_page;
        n_local += s->rows[i].n_local;
        has_chain |= is_chain;
    }
    trireme__step__init(out);
    out->epoch = s->epoch;
    out->number = s->number;
    if (!binds_out(a, s, out)) return false;
    uint32_t **const cols[] = {&out->slot,    &out->flags,     &out->pos,    &out->n_tok,
                               &out->next_id, &out->page_from, &out->n_page, &out->local_from,
                               &out->n_local, &out->snapshot};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
        if (!(*cols[c] = arena_take_n(a, n, sizeof(uint32_t)))) return false;
    out->chain = arena_take_n(a, n, sizeof *out->chain);
    out->ids = arena_take_n(a, n_id, sizeof *out->ids);
    out->pages = arena_take_n(a, n_page, sizeof *out->pages);
    out->locals = arena_take_n(a, n_local, sizeof *out->locals);
    if (!out->chain || !out->ids || !out->pages || !out->locals) return false;
    rows_fill(s, out);
    if (!masks_out(a, s, out)) return false;
    out->n_slot = n;
    out->n_flags = any32(out->flags, n) ? n : 0;
    out->n_pos = any32(out->pos, n) ? n : 0;
    out->n_n_tok = n;
    out->n_next_id = any32(out->next_id, n) ? n : 0;
    out->n_chain = has_chain ? n : 0;
    out->n_page_from = any32(out->page_from, n) ? n : 0;
    out->n_n_page = any32(out->n_page, n) ? n : 0;
    out->n_local_from = any32(out->local_from, n) ? n : 0;
    out->n_n_local = any32(out->n_local, n) ? n : 0;
    out->n_snapshot = any32(out->snapshot, n) ? n : 0;
    return true;
}

// -- result, in --

static err_t items_in(struct wire_in *in, const Trireme__Result *r, struct step_item *out,
                      struct token_prob *top)
{
    struct seen rows = {0};
    size_t n = r->n_row, top_at = 0, score_at = 0, vector_at = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t slot = at32(r->slot, r->n_slot, i), id = at32(r->id, r->n_id, i);
        uint32_t n_top = at32(r->n_top, r->n_n_top, i), n_score = at32(r->n_score, r->n_n_score, i);
        uint32_t n_vector = at32(r->n_vector, r->n_n_vector, i);
        WIRE_NEED(in, r->row[i] < STEP_ROWS_MAX && slot < STEP_SLOTS_MAX,
                  "result: item for row %u, slot %u", r->row[i], slot);
        WIRE_NEED(in, !seen_before(&rows, r->row[i]), "result: row %u answered twice", r->row[i]);
        WIRE_NEED(in, id <= ID_END, "result: row %u drew a negative id", r->row[i]);
        WIRE_NEED(in, n_top <= STEP_LOGPROBS_MAX && n_top <= r->n_top_id - top_at,
                  "result: row %u has %u logprobs", r->row[i], n_top);
        WIRE_NEED(in, n_score <= r->n_scores - score_at, "result: scores of row %u are missing",
                  r->row[i]);
        WIRE_NEED(in, n_vector <= r->n_vectors - vector_at,
                  "result: the vector of row %u is missing", r->row[i]);
        out[i] = (struct step_item){
            .row = r->row[i],
            .slot = slot,
            .id = (int32_t)((int64_t)id - 1),
            .logprob = r->n_logprob ? r->logprob[i] : 0,
            .nonfinite = r->n_nonfinite ? r->nonfinite[i] : false,
            .digest = r->n_digest ? r->digest[i] : 0,
            .top = n_top ? top + top_at : NULL,
            .n_top = n_top,
            .scores = n_score ? r->scores + score_at : NULL,
            .n_score = n_score,
            .vector = n_vector ? r->vectors + vector_at : NULL,
            .n_vector = n_vector,
        };
        top_at += n_top;
        score_at += n_score;
        vector_at += n_vector;
    }
    WIRE_NEED(in, top_at == r->n_top_id && score_at == r->n_scores && vector_at == r->n_vectors,
              "result: logprobs, scores or vectors that belong to no row");
    return OK;
}

err_t wire_step_result_in(struct wire_in *in, const Trireme__Result *r, struct step_result *out)
{
    size_t n = r->n_row;
    WIRE_NEED(in, r->epoch && r->number, "result: epoch and number start at 1");
    WIRE_NEED(in, n <= STEP_ROWS_MAX, "result: %zu items, limit %d", n, STEP_ROWS_MAX);
    WIRE_NEED(in,
              column_ok(r->n_slot, n) && column_ok(r->n_id, n) && column_ok(r->n_logprob, n) &&
                  column_ok(r->n_nonfinite, n) && column_ok(r->n_digest, n) &&
                  column_ok(r->n_n_top, n) && column_ok(r->n_n_score, n) &&
                  column_ok(r->n_n_vector, n),
              "result: a column does not have one entry per item");
    WIRE_NEED(in,
              r->n_top_id == r->n_top_logprob && r->n_top_id <= n * STEP_LOGPROBS_MAX &&
                  r->n_scores <= STEP_TOKENS_MAX && r->n_vectors <= STEP_VECTORS_MAX,
              "result: %zu logprobs for %zu ids, %zu scores, %zu numbers of vectors",
              r->n_top_logprob, r->n_top_id, r->n_scores, r->n_vectors);
    WIRE_NEED(in, below(r->top_id, r->n_top_id, ID_END), "result: a logprob's id is negative");
    WIRE_NEED(in,
              finite_all(r->logprob, r->n_logprob) &&
                  finite_all(r->top_logprob, r->n_top_logprob) &&
                  finite_all(r->scores, r->n_scores) && finite_all(r->vectors, r->n_vectors),
              "result: a log probability or a vector is not finite");
    struct step_item *items = arena_take_n(in->arena, n, sizeof *items);
    struct token_prob *top = arena_take_n(in->arena, r->n_top_id, sizeof *top);
    if (!items || !top) return err_say(in->why, ERR_MEMORY, "result: no memory for its items");
    for (size_t i = 0; i < r->n_top_id; i++)
        top[i] = (struct token_prob){(int32_t)r->top_id[i], r->top_logprob[i]};
    err_t e = items_in(in, r, items, top);
    if (e) return e;
    *out = (struct step_result){.epoch = r->epoch,
                                .number = r->number,
                                .compute_us = r->compute_us,
                                .items = items,
                                .n_item = (uint32_t)n};
    return OK;
}

// -- result, out --

static void items_fill(const struct step_result *r, Trireme__Result *out)
{
    for (uint32_t i = 0; i < r->n_item; i++) {
        const struct step_item *it = &r->items[i];
        out->row[i] = it->row;
        out->slot[i] = it->slot;
        out->id[i] = (uint32_t)it->id + 1;
        out->logprob[i] = it->logprob;
        out->nonfinite[i] = it->nonfinite;
        out->digest[i] = it->digest;
        out->n_top[i] = it->n_top;
        out->n_score[i] = it->n_score;
        if (it->logprob != 0) out->n_logprob = r->n_item;
        if (it->nonfinite) out->n_nonfinite = r->n_item;
        if (it->digest) out->n_digest = r->n_item;
        for (uint32_t k = 0; k < it->n_top; k++) {
            out->top_id[out->n_top_id++] = (uint32_t)it->top[k].id;
            out->top_logprob[out->n_top_logprob++] = it->top[k].logprob;
        }
        if (it->n_score)
            memcpy(out->scores + out->n_scores, it->scores, it->n_score * sizeof *it->scores);
        out->n_scores += it->n_score;
        out->n_vector[i] = it->n_vector;
        if (it->n_vector)
            memcpy(out->vectors + out->n_vectors, it->vector, it->n_vector * sizeof *it->vector);
        out->n_vectors += it->n_vector;
    }
}

bool wire_step_result_out(struct arena *a, const struct step_result *r, Trireme__Result *out)
{
    size_t n = r->n_item, n_top = 0, n_score = 0, n_vector = 0;
    for (size_t i = 0; i < n; i++) {
        n_top += r->items[i].n_top;
        n_score += r->items[i].n_score;
        n_vector += r->items[i].n_vector;
    }
    trireme__result__init(out);
    out->epoch = r->epoch;
    out->number = r->number;
    out->compute_us = r->compute_us;
    uint32_t **const cols[] = {&out->row,   &out->slot,    &out->id,
                               &out->n_top, &out->n_score, &out->n_vector};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
        if (!(*cols[c] = arena_take_n(a, n, sizeof(uint32_t)))) return false;
    out->logprob = arena_take_n(a, n, sizeof *out->logprob);
    out->nonfinite = arena_take_n(a, n, sizeof *out->nonfinite);
    out->digest = arena_take_n(a, n, sizeof *out->digest);
    out->top_id = arena_take_n(a, n_top, sizeof *out->top_id);
    out->top_logprob = arena_take_n(a, n_top, sizeof *out->top_logprob);
    out->scores = arena_take_n(a, n_score, sizeof *out->scores);
    out->vectors = arena_take_n(a, n_vector, sizeof *out->vectors);
    if (!out->logprob || !out->nonfinite || !out->digest || !out->top_id || !out->top_logprob ||
        !out->scores || !out->vectors)
        return false;
    items_fill(r, out);
    out->n_row = n;
    out->n_slot = any32(out->slot, n) ? n : 0;
    out->n_id = any32(out->id, n) ? n : 0;
    out->n_n_top = any32(out->n_top, n) ? n : 0;
    out->n_n_score = any32(out->n_score, n) ? n : 0;
    out->n_n_vector = any32(out->n_vector, n) ? n : 0;
    return true;
}
