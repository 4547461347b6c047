#include "coordinator/text/grammar.h"
#include "coordinator/text/lexicon.h"
#include "proto/base/clock.h"
#include "proto/base/idset.h"
#include "proto/base/list.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// The tokens that may come in a state; shared by all texts that are there.
struct mask {
    uint32_t refs; // under the grammar's lock
    uint32_t len;
    bool ends;  // nothing but the end may come
    bool stuck; // not even that
    uint8_t set[];
};

struct grammar {
    atomic_uint refs;
    struct grammar_book *book;
    uint8_t key[32];
    struct list node; // of the book, most recently opened first; under the book's lock
    bool is_listed;   // the book has a reference; under the book's lock
    atomic_size_t bytes;
    struct nfa nfa;

    pthread_mutex_t lock; // of all below
    bool runs;            // the machine was made
    struct machine machine;
    struct list states; // that are somewhere in the machine
    size_t mask_bytes;  // of masks that the machine's states have
};

struct grammar_book {
    const struct tokenizer *tok;
    pthread_mutex_t lock;
    struct lexicon *lexicon; // NULL: not made yet
    struct list grammars;
    uint32_t n_grammar;
    atomic_size_t bytes; // of all grammars, listed or not
    atomic_ullong n_found, n_compiled, n_known, n_made, make_us;
};

struct grammar_state {
    struct grammar *g;
    struct list node;
    uint32_t at;
    bool tight;   // at the front of a text whose first space is not seen
    bool is_over; // its end came
    struct mask *mask;
};

// -- books --

struct grammar_book *grammar_book_new(const struct tokenizer *t)
{
    struct grammar_book *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->tok = t;
    list_init(&b->grammars);
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

static void account(struct grammar *g, size_t bytes)
{
    const size_t was = atomic_exchange(&g->bytes, bytes);
    atomic_fetch_add(&g->book->bytes, bytes - was);
}

// Takes the least recently opened grammars out of the list until the rest is within bounds; the
// caller gives them back when it has left the lock.
static void evict(struct grammar_book *b, struct list *out)
{
    size_t bytes = 0;
    list_each(it, &b->grammars)
    {
        bytes += atomic_load(&list_item(it, struct grammar, node)->bytes);
    }
    while (b->n_grammar > 1 && (bytes > GRAMMAR_CACHE_BYTES || b->n_grammar > GRAMMAR_CACHE_MAX)) {
        struct grammar *g = list_item(b->grammars.prev, struct grammar, node);
        bytes -= atomic_load(&g->bytes);
        g->is_listed = false;
        b->n_grammar--;
        list_remove(&g->node);
        list_push_back(out, &g->node);
    }
}

static void give_all(struct list *l)
{
    list_each(it, l)
    {
        list_remove(it);
        grammar_give(list_item(it, struct grammar, node));
    }
}

void grammar_book_free(struct grammar_book *b)
{
    if (!b) return;
    give_all(&b->grammars);
    BUG_ON(atomic_load(&b->bytes));
    lexicon_close(b->lexicon);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

size_t grammar_book_bytes(struct grammar_book *b, uint32_t *n_grammar)
{
    pthread_mutex_lock(&b->lock);
    *n_grammar = b->n_grammar;
    pthread_mutex_unlock(&b->lock);
    return atomic_load(&b->bytes);
}

struct grammar_stats grammar_book_stats(struct grammar_book *b)
{
    return (struct grammar_stats){.n_found = atomic_load(&b->n_found),
                                  .n_compiled = atomic_load(&b->n_compiled),
                                  .n_known = atomic_load(&b->n_known),
                                  .n_made = atomic_load(&b->n_made),
                                  .make_us = atomic_load(&b->make_us)};
}

static struct grammar *find(struct grammar_book *b, const uint8_t key[32])
{
    list_each(it, &b->grammars)
    {
        struct grammar *g = list_item(it, struct grammar, node);
        if (memcmp(g->key, key, sizeof g->key) != 0) continue;
        list_remove(it);
        list_push_front(&b->grammars, it);
        return grammar_take(g);
    }
    return NULL;
}

static err_t open_lexicon(struct grammar_book *b, struct err_text *why)
{
    const err_t err = b->lexicon ? OK : lexicon_open(b->tok, &b->lexicon);
    if (err == ERR_UNSUPPORTED)
        return err_say(why, err, "constrained output is for vocabularies of at most %d tokens",
                       IDSET_IDS_MAX);
    return err ? err_say(why, err, "no memory for the vocabulary") : OK;
}

static err_t compile(struct grammar_book *b, const struct grammar_spec *spec, const uint8_t key[32],
                     struct grammar **out, struct err_text *why)
{
    struct grammar *g = calloc(1, sizeof *g);
    if (!g) return err_say(why, ERR_MEMORY, "no memory for a grammar");
    const err_t err = grammar_spec_compile(spec, &g->nfa, why);
    if (err) {
        nfa_fini(&g->nfa);
        free(g);
        return err;
    }
    g->book = b;
    memcpy(g->key, key, sizeof g->key);
    atomic_init(&g->refs, 1);
    atomic_init(&g->bytes, 0);
    list_init(&g->node);
    list_init(&g->states);
    pthread_mutex_init(&g->lock, NULL);
    account(g, sizeof *g + nfa_bytes(&g->nfa));
    *out = g;
    return OK;
}

err_t grammar_open(struct grammar_book *b, const struct grammar_spec *spec, struct grammar **out,
                   struct err_text *why)
{
    uint8_t key[32];
    err_t err = grammar_spec_key(spec, key, why);
    if (err) return err;
    pthread_mutex_lock(&b->lock);
    err = open_lexicon(b, why);
    struct grammar *g = err ? NULL : find(b, key), *made = NULL;
    pthread_mutex_unlock(&b->lock);
    if (!err && !g) err = compile(b, spec, key, &made, why);
    if (err) return err;
    atomic_fetch_add(g ? &b->n_found : &b->n_compiled, 1);
    if (!g) {
        struct list gone;
        list_init(&gone);
        pthread_mutex_lock(&b->lock);
        g = find(b, key); // somebody else may have made it meanwhile
        if (!g) {
            g = grammar_take(made);
            g->is_listed = true;
            list_push_front(&b->grammars, &g->node);
            b->n_grammar++;
        } else {
            list_push_back(&gone, &made->node);
        }
        evict(b, &gone);
        pthread_mutex_unlock(&b->lock);
        give_all(&gone);
    }
    *out = g;
    return OK;
}

struct grammar *grammar_take(struct grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

static void drop_mask(struct mask *m)
{
    if (m && --m->refs == 0) free(m);
}

// Takes the masks from the machine's states.
static void drop_masks(struct grammar *g)
{
    for (uint32_t i = 0; g->runs && i < g->machine.n_state; i++) {
        drop_mask(g->machine.states[i].mask);
        g->machine.states[i].mask = NULL;
    }
    g->mask_bytes = 0;
}

void grammar_give(struct grammar *g)
{
    if (!g || atomic_fetch_sub(&g->refs, 1) != 1) return;
    drop_masks(g);
    if (g->runs) machine_fini(&g->machine);
    nfa_fini(&g->nfa);
    account(g, 0);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

// -- states --

static err_t over(struct grammar *g, struct err_text *why)
{
    const err_t err = g->machine.err;
    return err_say(why, err,
                   err == ERR_MEMORY ? "no memory to follow the output's grammar"
                                     : "the output's grammar is too ambiguous to follow");
}

// Bounds what the machine holds: beyond it, all but the states that texts are in is forgotten.
static void tidy(struct grammar *g)
{
    enum { CROWDED_BYTES = 1 << 20 };
    const bool crowded = atomic_load(&g->book->bytes) > GRAMMAR_CACHE_BYTES;
    const size_t held = machine_bytes(&g->machine) + g->mask_bytes;
    uint32_t n = 0;
    account(g, sizeof *g + nfa_bytes(&g->nfa) + held);
    if (held <= (crowded ? CROWDED_BYTES : MACHINE_BYTES_SOFT)) return;
    list_each(it, &g->states) n++;
    uint32_t **live = malloc((n + 1) * sizeof *live);
    if (!live) return;
    n = 0;
    list_each(it, &g->states) live[n++] = &list_item(it, struct grammar_state, node)->at;
    drop_masks(g);
    machine_begin(&g->machine);
    machine_renew(&g->machine, live, n);
    free(live);
    account(g, sizeof *g + nfa_bytes(&g->nfa) + machine_bytes(&g->machine));
}

struct grammar_state *grammar_begin(struct grammar *g, bool tight_start)
{
    struct grammar_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    pthread_mutex_lock(&g->lock);
    if (!g->runs) g->runs = machine_init(&g->machine, &g->nfa, g->book->lexicon->longest) == OK;
    if (g->runs) {
        machine_begin(&g->machine);
        s->at = machine_start(&g->machine);
    }
    if (s->at) list_push_back(&g->states, &s->node);
    pthread_mutex_unlock(&g->lock);
    if (!s->at) {
        free(s);
        return NULL;
    }
    s->g = grammar_take(g);
    s->tight = tight_start;
    return s;
}

void grammar_end(struct grammar_state *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->g->lock);
    list_remove(&s->node);
    drop_mask(s->mask);
    pthread_mutex_unlock(&s->g->lock);
    grammar_give(s->g);
    free(s);
}

bool grammar_may_end(struct grammar_state *s)
{
    pthread_mutex_lock(&s->g->lock);
    const bool may = s->g->machine.states[s->at].accepts;
    pthread_mutex_unlock(&s->g->lock);
    return may;
}

// Where the token leads; MACHINE_DEAD: it may not come.
static uint32_t follow(const struct grammar_state *s, int32_t id)
{
    const struct lexicon *x = s->g->book->lexicon;
    struct machine *m = &s->g->machine;
    size_t len;
    const char *piece = tokenizer_piece(x->tok, id, false, &len);
    uint32_t at = s->at;
    if (!piece || !len) return machine_step_token(m, at, id);
    if (len > LEXICON_PIECE_MAX) return MACHINE_DEAD;
    for (size_t i = s->tight && piece[0] == ' '; i < len && at; i++)
        at = machine_step(m, at, (uint8_t)piece[i]);
    return at;
}

err_t grammar_advance(struct grammar_state *s, int32_t id, struct err_text *why)
{
    struct grammar *g = s->g;
    const struct lexicon *x = g->book->lexicon;
    err_t err = OK;
    if (id < 0 || id >= (int32_t)x->n_vocab || s->is_over)
        return err_say(why, ERR_INVALID, "token %d may not come here", id);
    pthread_mutex_lock(&g->lock);
    machine_begin(&g->machine);
    const bool is_end = lexicon_has(x->end_bits, id);
    const bool ends = is_end && g->machine.states[s->at].accepts;
    const uint32_t to = is_end ? MACHINE_DEAD : follow(s, id);
    if (g->machine.err)
        err = over(g, why);
    else if (!to && !ends)
        err = err_say(why, ERR_INVALID, "token %d may not come here", id);
    if (!err) {
        s->at = ends ? s->at : to;
        s->tight = false;
        s->is_over = ends;
        drop_mask(s->mask);
        s->mask = NULL;
        tidy(g);
    }
    pthread_mutex_unlock(&g->lock);
    return err ? err : ends ? ERR_END : OK;
}

static bool any_bit(const uint64_t *bits, uint32_t n_word)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < n_word; i++)
        all |= bits[i];
    return all;
}

// Walks the vocabulary. NULL: over a budget.
static struct mask *walk_mask(struct grammar *g, uint32_t state, bool tight)
{
    const struct lexicon *x = g->book->lexicon;
    struct machine *m = &g->machine;
    uint64_t *bits = calloc(x->n_word, sizeof *bits);
    struct mask *mask = malloc(sizeof *mask + idset_bound(x->n_vocab));
    if (bits && mask) {
        const bool accepts = m->states[state].accepts;
        lexicon_mask(x, m, state, tight, bits);
        const bool goes_on = any_bit(bits, x->n_word);
        for (uint32_t i = 0; accepts && i < x->n_word; i++)
            bits[i] |= x->end_bits[i];
        *mask =
            (struct mask){.refs = 1, .ends = accepts && !goes_on, .stuck = !accepts && !goes_on};
        mask->len = (uint32_t)idset_pack(bits, x->n_vocab, mask->set);
        struct mask *exact = realloc(mask, sizeof *mask + mask->len);
        if (exact) mask = exact;
    } else {
        m->err = ERR_MEMORY;
    }
    free(bits);
    if (!m->err) return mask;
    free(mask);
    return NULL;
}

static struct mask *make_mask(struct grammar *g, uint32_t state, bool tight)
{
    const int64_t begun_us = clock_now_us();
    struct mask *mask = walk_mask(g, state, tight);
    atomic_fetch_add(&g->book->n_made, 1);
    atomic_fetch_add(&g->book->make_us, (unsigned long long)(clock_now_us() - begun_us));
    return mask;
}

// A reference to the mask of where the text is; NULL: over a budget.
static struct mask *find_mask(struct grammar *g, const struct grammar_state *s)
{
    struct machine *m = &g->machine;
    if (s->tight) return make_mask(g, s->at, true); // only once for a text
    const uint32_t alike = machine_alike(m, s->at);
    if (m->err) return NULL;
    if (!m->states[alike].mask) {
        struct mask *made = make_mask(g, alike, false);
        if (!made) return NULL;
        m->states[alike].mask = made;
        g->mask_bytes += sizeof *made + made->len;
    } else {
        atomic_fetch_add(&g->book->n_known, 1);
    }
    struct mask *mask = m->states[alike].mask;
    mask->refs++;
    return mask;
}

err_t grammar_mask(struct grammar_state *s, const uint8_t **set, size_t *len, struct err_text *why)
{
    struct grammar *g = s->g;
    err_t err = OK;
    pthread_mutex_lock(&g->lock);
    if (!s->mask && !s->is_over) {
        machine_begin(&g->machine);
        s->mask = find_mask(g, s);
        if (!s->mask) err = over(g, why);
        tidy(g);
    }
    pthread_mutex_unlock(&g->lock);
    if (err) return err;
    if (s->is_over || s->mask->ends) return ERR_END;
    if (s->mask->stuck)
        return err_say(why, ERR_UNSUPPORTED,
                       "no token of the vocabulary continues as the output's grammar demands");
    *set = s->mask->set;
    *len = s->mask->len;
    return OK;
}
