#include "coordinator/door/history.h"
#include "coordinator/door/api.h"
#include "coordinator/door/tree.h"
#include "proto/base/fnv.h"

#include <stdlib.h>
#include <string.h>

// -- before the template --

enum { SHORT_ID = 9 };

static bool is_short_id(const struct json *id)
{
    bool ok = id->str.len == SHORT_ID;
    for (size_t i = 0; ok && i < SHORT_ID; i++) {
        const char c = id->str.s[i];
        ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    }
    return ok;
}

// The same nine letters for the same id, so that results find their calls.
static struct json short_id(struct tree *t, const struct json *id)
{
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint64_t h = fnv_add(FNV_BEGIN, id->str.s, id->str.len);
    char s[SHORT_ID];
    h ^= h >> 32; // the high bits know of all letters
    for (size_t i = 0; i < SHORT_ID; i++, h /= 62)
        s[i] = letters[h % 62];
    return tree_copy(t, s, SHORT_ID);
}

// A copy of the object with room for `more` members; `without` (or NULL) is left out.
static struct json copy_object(struct tree *t, const struct json *j, const char *without,
                               size_t more)
{
    struct json copy = tree_object(t, j->obj.n + more);
    for (size_t i = 0; i < j->obj.n; i++)
        if (!without || strcmp(j->obj.members[i].key, without) != 0)
            tree_put(&copy, j->obj.members[i].key, j->obj.members[i].value);
    return copy;
}

// Ids that a model wrote itself, beside those that its caller knows: the results of calls that will
// stand in the prompt as it wrote them have to name them.
struct own_ids {
    struct own_id {
        const struct json *known;
        struct json own;
    } ids[REPLAY_CALLS_MAX]; // of the last turn that wrote any
    size_t n;
};

static void shorten(struct tree *t, const struct own_ids *own, struct json *message,
                    const char *key)
{
    const struct json *id = json_get(message, key);
    if (!id || id->kind != J_STR) return;
    struct json to = *id;
    for (size_t i = 0; i < own->n; i++)
        if (json_is(own->ids[i].known, id->str.s)) to = own->ids[i].own;
    if (!is_short_id(&to)) to = short_id(t, id);
    struct json copy = copy_object(t, message, key, 1);
    tree_put(&copy, key, to);
    *message = copy;
}

// One for each call, or none at all.
static void read_own_ids(struct tree *t, const struct tokenizer *tok,
                         const struct replay_turn *turn, const struct json *calls,
                         struct own_ids *own)
{
    static const char mark[] = "[CALL_ID]";
    struct buf text = {0};
    size_t len, n = 0;
    for (uint32_t i = 0; i < turn->n_id; i++) {
        const char *piece = tokenizer_piece(tok, turn->ids[i], true, &len);
        if (piece) buf_add(&text, piece, len);
    }
    for (const char *at = text.data; at && n < turn->n_call && (at = strstr(at, mark));) {
        at += sizeof mark - 1;
        const struct json id = tree_copy(t, at, strcspn(at, "[{ "));
        if (!is_short_id(&id)) break;
        own->ids[n].known = json_get(&calls->arr.items[n], "id");
        own->ids[n++].own = id;
    }
    own->n = n == turn->n_call ? n : 0;
    buf_fini(&text);
}

static void shorten_calls(struct tree *t, const struct tokenizer *tok,
                          const struct replay_turn *turn, struct own_ids *own, struct json *message)
{
    const struct json *calls = json_get(message, "tool_calls");
    if (!calls || calls->kind != J_ARR) return;
    struct json list = tree_list(t, calls->arr.n);
    own->n = 0;
    if (turn) read_own_ids(t, tok, turn, calls, own);
    for (size_t i = 0; i < calls->arr.n; i++) {
        struct json call = calls->arr.items[i];
        shorten(t, own, &call, "id");
        tree_add(&list, call);
    }
    struct json copy = copy_object(t, message, "tool_calls", 1);
    tree_put(&copy, "tool_calls", list);
    *message = copy;
}

// Thoughts that the caller left out, and for harmony's template under the name it knows; it takes
// them beside calls only, and only without a text.
static void add_thoughts(struct tree *t, const struct turn_format *f,
                         const struct replay_turn *turn, struct json *message)
{
    const struct json *given = json_get(message, "reasoning_content");
    const struct json *content = json_get(message, "content");
    if (!given && turn && turn->reasoning.len) {
        const struct json thoughts = tree_text(turn->reasoning.s, turn->reasoning.len);
        struct json copy = copy_object(t, message, NULL, 2);
        tree_put(&copy, "reasoning_content", thoughts);
        tree_put(&copy, "reasoning", thoughts);
        *message = copy;
        given = json_get(message, "reasoning_content");
    }
    const bool is_bare = !content || content->kind != J_STR || !content->str.len;
    if (!given || f->name_kind != TURN_NAME_HEADER || !is_bare) return;
    struct json copy = copy_object(t, message, NULL, 1);
    tree_put(&copy, "thinking", *given);
    *message = copy;
}

err_t history_adapt(struct prepare *p, struct history *h, struct refusal *no)
{
    const struct turn_format *f = p->in->model->format;
    const struct json *messages = p->messages;
    struct tree t = {.arena = &p->scratch};
    struct own_ids own = {.n = 0};
    *h = (struct history){.n = messages->arr.n};
    h->turns = arena_take_n(&p->scratch, h->n, sizeof *h->turns);
    struct json list = tree_list(&t, h->n);
    for (size_t i = 0; i < h->n && h->turns && !t.broken; i++) {
        struct json m = messages->arr.items[i];
        if (json_get(&m, "tool_calls")) {
            if (p->in->replay)
                h->turns[i] = replay_find(p->in->replay, p->in->tenant, &m, &p->scratch);
            h->n_found += h->turns[i] != NULL;
            add_thoughts(&t, f, h->turns[i], &m);
            if (f->short_ids) shorten_calls(&t, p->in->model->tokenizer, h->turns[i], &own, &m);
        } else if (f->short_ids) {
            shorten(&t, &own, &m, "tool_call_id");
        }
        tree_add(&list, m);
    }
    p->messages = tree_keep(&t, list);
    if (h->turns && !t.broken) return OK;
    return refusal_set(no, 400, "json_too_large", "the messages need too much memory");
}

// -- after it --

// A turn in the rendered text: bytes [from, to).
struct place {
    const struct replay_turn *turn;
    size_t from, to;
    size_t next; // where the next message's content begins
};

enum { STEM = 16, MARK = STEM + 4 };

static void make_mark(const char *stem, size_t i, char out[MARK])
{
    memcpy(out, stem, STEM);
    for (size_t k = 0; k < MARK - STEM; k++, i /= 26)
        out[STEM + k] = (char)('a' + i % 26);
}

// The conversation with a mark before the content of each message that follows a turn; behind its
// first white space, which templates take away.
static const struct json *mark_next(const struct history *h, const struct json *messages,
                                    const char *stem, struct arena *a)
{
    struct tree t = {.arena = a};
    struct json list = tree_list(&t, h->n);
    char mark[MARK];
    for (size_t i = 0, k = 0; i < h->n && !t.broken; i++) {
        struct json m = messages->arr.items[i];
        const struct json *content = json_get(&m, "content");
        if (i && h->turns[i - 1] && content && content->kind == J_STR) {
            const struct replay_text all = {content->str.s, content->str.len};
            const struct replay_text rest = replay_trim(all);
            const size_t n_space = rest.len ? (size_t)(rest.s - all.s) : 0;
            struct buf text = {0};
            make_mark(stem, k++, mark);
            buf_add(&text, all.s, n_space);
            buf_add(&text, mark, MARK);
            buf_add(&text, all.s + n_space, all.len - n_space);
            struct json copy = copy_object(&t, &m, "content", 1);
            tree_put(&copy, "content", tree_copy(&t, text.data, text.len));
            t.broken |= !buf_ok(&text);
            buf_fini(&text);
            m = copy;
        }
        tree_add(&list, m);
    }
    return tree_keep(&t, list);
}

// The marks come back whole, once each and in order, and nothing else has changed.
static bool find_marks(const struct buf *marked, const struct buf *text, const char *stem,
                       struct place *places, size_t n)
{
    size_t at = 0, k = 0;
    char mark[MARK];
    for (size_t from = 0; from < marked->len;) {
        const char *s = marked->data + from;
        const char *hit = memmem(s, marked->len - from, stem, STEM);
        const size_t same = hit ? (size_t)(hit - s) : marked->len - from;
        if (same > text->len - at || memcmp(s, text->data + at, same) != 0) return false;
        at += same;
        from += same;
        if (!hit) break;
        make_mark(stem, k, mark);
        if (k == n || marked->len - from < MARK || memcmp(hit, mark, MARK) != 0) return false;
        places[k++].next = at;
        from += MARK;
    }
    return at == text->len && k == n;
}

static bool is_plain(const struct template_output *text, size_t from, size_t to)
{
    size_t lo = 0, hi = text->n_plain;
    while (lo < hi) { // first span that ends behind `from`
        const size_t mid = (lo + hi) / 2;
        if (text->plain[mid].to <= from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < text->n_plain && text->plain[lo].from < to;
}

// End tokens that the template wrote in [from, to), and where the last of them is.
static size_t count_ends(const struct engine_model *m, const char *s, size_t from, size_t to,
                         const struct template_output *text, size_t *last)
{
    size_t n = 0;
    *last = from;
    for (uint32_t i = 0; i < m->n_end; i++) {
        size_t len;
        const char *mark = tokenizer_piece(m->tokenizer, m->end_ids[i], true, &len), *hit;
        for (size_t at = from; len && (hit = memmem(s + at, to - at, mark, len)); at += len) {
            at = (size_t)(hit - s);
            if (text && is_plain(text, at, at + len)) continue;
            if (at > *last) *last = at;
            n++;
        }
    }
    return n;
}

static bool holds(const char *s, size_t len, struct replay_text t)
{
    return !t.len || memmem(s, len, t.s, t.len);
}

// Fills from and to. `done`: bytes of the text that are in `hash`; turns are in order.
static bool find_place(const struct prepare *p, const struct template_output *text, struct place *x,
                       size_t *done, uint64_t *hash)
{
    const struct replay_turn *t = x->turn;
    const char *s = text->text.data;
    size_t last;
    if (t->before < *done || t->before > x->next) return false;
    *hash = fnv_add(*hash, s + *done, t->before - *done);
    *done = t->before;
    if (*hash != t->before_hash) return false;
    const struct engine_model *m = p->in->model;
    const size_t n_before = count_ends(m, t->tail.s, 0, t->tail.len, NULL, &last);
    if (count_ends(m, s, t->before, x->next, text, &last) <= n_before) return false;
    x->from = t->before;
    x->to = last;
    const size_t len = last - x->from;
    return holds(s + x->from, len, t->calls[0].name) &&
           holds(s + x->from, len, replay_trim(t->reasoning));
}

// A message that is such a turn, known by where its members lie.
struct known {
    const struct json_member *members;
    const struct replay_turn *turn;
};

static int by_members(const void *a, const void *b)
{
    const struct known *x = a, *y = b;
    return (x->members > y->members) - (x->members < y->members);
}

// The turns among the messages that were rendered: where they were repaired, those that were not
// touched. False: no memory.
static bool follow_repairs(const struct prepare *p, const struct json *messages, struct history *h)
{
    const struct json *adapted = p->messages;
    const size_t n = messages->arr.n;
    if (messages == adapted) return true;
    const struct replay_turn **turns = calloc(n + 1, sizeof *turns);
    struct known *known = calloc(h->n_found + 1, sizeof *known);
    const bool ok = turns && known;
    size_t n_known = 0;
    for (size_t i = 0; ok && i < h->n; i++)
        if (h->turns[i])
            known[n_known++] = (struct known){adapted->arr.items[i].obj.members, h->turns[i]};
    if (ok) qsort(known, n_known, sizeof *known, by_members);
    for (size_t i = 0; ok && i < n; i++) {
        const struct known key = {.members = messages->arr.items[i].obj.members};
        const struct known *hit = bsearch(&key, known, n_known, sizeof *known, by_members);
        if (hit) turns[i] = hit->turn;
    }
    free(known);
    if (!ok) free(turns);
    *h = (struct history){.turns = ok ? turns : NULL, .n = n, .n_found = h->n_found};
    return ok;
}

static size_t list_places(const struct history *h, struct place *places)
{
    size_t n = 0;
    for (size_t i = 0; i + 1 < h->n; i++)
        if (h->turns[i]) places[n++].turn = h->turns[i];
    return n;
}

// Those of the turns whose places are certain stay in `places`; their number.
static size_t find_places(const struct prepare *p, const struct history *h,
                          const struct template_input *in, const struct template_output *text,
                          struct place *places, size_t n)
{
    struct template_input marked_in = *in;
    struct template_output marked = {0};
    struct arena a;
    char stem[PREPARE_ID_MAX];
    size_t n_kept = 0, done = 0;
    uint64_t hash = FNV_BEGIN;
    prepare_id("", stem);
    arena_init(&a, PREPARE_TREE_BYTES);
    marked_in.messages = mark_next(h, in->messages, stem, &a);
    const bool found = marked_in.messages &&
                       template_render(p->in->model->template, &marked_in, &marked, NULL) == OK &&
                       find_marks(&marked.text, &text->text, stem, places, n);
    for (size_t i = 0; found && i < n; i++) {
        const size_t after = n_kept ? places[n_kept - 1].to : 0;
        struct place x = places[i];
        if (find_place(p, text, &x, &done, &hash) && x.from >= after) places[n_kept++] = x;
    }
    template_output_fini(&marked);
    arena_fini(&a);
    return n_kept;
}

// Bytes [from, to) of the text, and a turn's tail.
static err_t encode_piece(const struct prepare *p, const struct template_output *text, size_t from,
                          size_t to, struct replay_text tail, struct ids *out)
{
    struct buf piece = {0};
    struct text_span *plain = calloc(text->n_plain + 1, sizeof *plain);
    size_t n = 0;
    if (to > from) buf_add(&piece, text->text.data + from, to - from);
    buf_add(&piece, tail.s, tail.len);
    for (size_t i = 0; plain && i < text->n_plain && text->plain[i].from < to; i++) {
        const struct text_span s = text->plain[i];
        if (s.to <= from) continue;
        plain[n++] = (struct text_span){.from = s.from > from ? s.from - from : 0,
                                        .to = (s.to < to ? s.to : to) - from};
    }
    err_t err = plain && buf_ok(&piece) ? OK : ERR_MEMORY;
    // No token is shorter than a byte, so the true length is always found.
    if (!err)
        err = tokenizer_encode(p->in->model->tokenizer, piece.data ? piece.data : "", piece.len,
                               TOKENIZER_SPECIAL, plain, n, out->n + piece.len + 64, out);
    free(plain);
    buf_fini(&piece);
    return err;
}

// The places that are certain, to be freed; NULL with ERR_MEMORY.
static err_t certain_places(const struct prepare *p, const struct history *known,
                            const struct template_input *in, const struct template_output *text,
                            struct place **out, size_t *n_place)
{
    struct history h = *known;
    struct place *places = calloc(h.n_found + 1, sizeof *places);
    const bool ok = places && follow_repairs(p, in->messages, &h);
    const size_t n = ok ? list_places(&h, places) : 0;
    if (n) *n_place = find_places(p, &h, in, text, places, n);
    if (h.turns != known->turns) free(h.turns);
    if (ok && !p->in->api->count)
        replay_count(p->in->replay, (uint32_t)*n_place, (uint32_t)(h.n_found - *n_place));
    *out = places;
    return ok ? OK : ERR_MEMORY;
}

err_t history_encode(const struct prepare *p, const struct history *h,
                     const struct template_input *in, const struct template_output *text,
                     struct ids *out)
{
    static const struct replay_text none = {"", 0};
    struct place *places = NULL;
    size_t n_place = 0, at = 0;
    err_t err = h->n_found ? certain_places(p, h, in, text, &places, &n_place) : OK;
    for (size_t i = 0; i < n_place && !err; i++) {
        const struct replay_turn *t = places[i].turn;
        err = encode_piece(p, text, at, places[i].from, t->tail, out);
        for (uint32_t k = 0; k < t->n_id && !err; k++)
            if (!ids_add(out, t->ids[k])) err = ERR_MEMORY;
        at = places[i].to;
    }
    if (!err) err = encode_piece(p, text, at, text->text.len, none, out);
    free(places);
    return err;
}
