#include "coordinator/text/lexicon.h"
#include "proto/base/idset.h"
#include "proto/base/utf8.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    const char *s;
    uint32_t len;
    int32_t id;
};

static void set_bit(uint64_t *bits, int32_t id)
{
    bits[id / 64] |= UINT64_C(1) << (id % 64);
}

static int by_bytes(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    const int c = memcmp(a->s, b->s, a->len < b->len ? a->len : b->len);
    if (c) return c;
    if (a->len != b->len) return a->len < b->len ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static bool is_plain(const char *s, size_t len)
{
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_len(s + i, len - i);
        if (n == 0 || (n == 1 && !nfa_plain((uint8_t)s[i]))) return false;
    }
    return true;
}

static uint32_t common(const struct entry *a, const struct entry *b)
{
    uint32_t n = 0;
    while (n < a->len && n < b->len && a->s[n] == b->s[n])
        n++;
    return n;
}

// A trie, in the order in which a walk goes through it.
static bool build(struct lexicon *x, struct lexicon_trie *t, struct entry *list, uint32_t n)
{
    size_t n_node = 0;
    uint32_t open[LEXICON_PIECE_MAX], depth = 0;
    qsort(list, n, sizeof *list, by_bytes);
    for (uint32_t i = 0; i < n; i++)
        n_node += list[i].len - (i ? common(&list[i - 1], &list[i]) : 0);
    t->nodes = malloc((n_node + 1) * sizeof *t->nodes);
    if (!t->nodes) return false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i ? common(&list[i - 1], &list[i]) : 0;
        if (at == list[i].len) { // the same bytes
            x->twins[x->n_twin++] = (struct lexicon_twin){t->nodes[t->n - 1].id, list[i].id};
            continue;
        }
        while (depth > at)
            t->nodes[open[--depth]].past = t->n;
        for (; at < list[i].len; at++) {
            open[depth++] = t->n;
            t->nodes[t->n++] = (struct lexicon_node){
                .id = -1, .byte = (uint8_t)list[i].s[at], .depth = (uint16_t)at};
        }
        t->nodes[t->n - 1].id = list[i].id;
    }
    while (depth > 0)
        t->nodes[open[--depth]].past = t->n;
    return true;
}

// Sorts the vocabulary into plain tokens (from the front of the list), others (from its end), and
// control tokens.
static void collect(struct lexicon *x, struct entry *list, uint32_t *n_plain, uint32_t *n_other)
{
    *n_plain = *n_other = 0;
    for (int32_t id = 0; id < (int32_t)x->n_vocab; id++) {
        size_t len, shown;
        const char *s = tokenizer_piece(x->tok, id, false, &len);
        if (tokenizer_is_end(x->tok, id)) {
            set_bit(x->end_bits, id);
        } else if (s && len) {
            if (len > LEXICON_PIECE_MAX) continue;
            if (len > x->longest) x->longest = (uint32_t)len;
            const struct entry e = {s, (uint32_t)len, id};
            const bool plain = is_plain(s, len);
            if (plain) set_bit(x->plain_bits, id);
            list[plain ? (*n_plain)++ : x->n_vocab - ++*n_other] = e;
        } else if (tokenizer_piece(x->tok, id, true, &shown) && shown) {
            set_bit(x->control_bits, id);
        }
    }
}

err_t lexicon_open(const struct tokenizer *t, struct lexicon **out)
{
    const int32_t n_vocab = tokenizer_n_vocab(t);
    if (n_vocab < 1 || n_vocab > IDSET_IDS_MAX) return ERR_UNSUPPORTED;
    struct lexicon *x = calloc(1, sizeof *x);
    if (!x) return ERR_MEMORY;
    x->tok = t;
    x->n_vocab = (uint32_t)n_vocab;
    x->n_word = (x->n_vocab + 63) / 64;
    struct entry *list = malloc(x->n_vocab * sizeof *list);
    x->plain_bits = calloc(x->n_word, sizeof(uint64_t));
    x->control_bits = calloc(x->n_word, sizeof(uint64_t));
    x->end_bits = calloc(x->n_word, sizeof(uint64_t));
    x->twins = malloc(x->n_vocab * sizeof *x->twins);
    bool ok = list && x->plain_bits && x->control_bits && x->end_bits && x->twins;
    if (ok) {
        uint32_t n_plain, n_other;
        collect(x, list, &n_plain, &n_other);
        ok = build(x, &x->plain, list, n_plain) &&
             build(x, &x->other, list + x->n_vocab - n_other, n_other);
    }
    free(list);
    if (!ok) {
        lexicon_close(x);
        return ERR_MEMORY;
    }
    *out = x;
    return OK;
}

void lexicon_close(struct lexicon *x)
{
    if (!x) return;
    free(x->plain.nodes);
    free(x->other.nodes);
    free(x->plain_bits);
    free(x->control_bits);
    free(x->end_bits);
    free(x->twins);
    free(x);
}

static void walk(const struct lexicon_trie *t, struct machine *m, uint32_t state, bool tight_start,
                 uint64_t *bits)
{
    uint32_t at[LEXICON_PIECE_MAX + 1];
    at[0] = state;
    for (uint32_t i = 0; i < t->n;) {
        const struct lexicon_node *n = &t->nodes[i];
        const bool is_free = tight_start && n->depth == 0 && n->byte == ' ';
        const uint32_t to = is_free ? state : machine_step(m, at[n->depth], n->byte);
        if (to == MACHINE_DEAD) {
            i = n->past;
            continue;
        }
        at[n->depth + 1] = to;
        if (n->id >= 0) set_bit(bits, n->id);
        i++;
    }
}

struct control {
    const struct lexicon *x;
    uint64_t *bits;
};

static void add_control(void *arg, int32_t id, bool any_but)
{
    struct control *c = arg;
    const bool is_known = id >= 0 && id < (int32_t)c->x->n_vocab;
    if (!any_but) {
        if (is_known) set_bit(c->bits, id);
        return;
    }
    const bool had = is_known && lexicon_has(c->bits, id);
    for (uint32_t w = 0; w < c->x->n_word; w++)
        c->bits[w] |= c->x->control_bits[w];
    if (is_known && !had) c->bits[id / 64] &= ~(UINT64_C(1) << (id % 64));
}

void lexicon_mask(const struct lexicon *x, struct machine *m, uint32_t state, bool tight_start,
                  uint64_t *bits)
{
    const struct machine_state *s = &m->states[state];
    const bool plain = s->plain, has_token = s->has_token;
    if (plain)
        memcpy(bits, x->plain_bits, x->n_word * sizeof *bits);
    else
        walk(&x->plain, m, state, tight_start, bits);
    walk(&x->other, m, state, tight_start, bits);
    for (uint32_t i = 0; i < x->n_twin; i++)
        if (lexicon_has(bits, x->twins[i].id)) set_bit(bits, x->twins[i].twin);
    if (!has_token) return;
    struct control c = {.x = x, .bits = bits};
    machine_tokens(m, state, add_control, &c);
}
