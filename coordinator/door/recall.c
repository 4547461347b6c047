#include "coordinator/door/recall.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST = 16 }; // tokens in common; less is another kind of request

struct history {
    char id[48];
    uint64_t tenant, session;
    int32_t *ids; // NULL: none
    uint32_t n, n_prompt;
};

struct recall {
    pthread_mutex_t lock;
    struct history histories[RECALL_HISTORIES];
    uint32_t next;
    uint64_t n_token; // in all
};

struct recall *recall_new(void)
{
    struct recall *r = calloc(1, sizeof *r);
    if (r) pthread_mutex_init(&r->lock, NULL);
    return r;
}

static void forget(struct recall *r, struct history *h)
{
    r->n_token -= h->n;
    free(h->ids);
    *h = (struct history){.ids = NULL};
}

void recall_free(struct recall *r)
{
    if (!r) return;
    for (int i = 0; i < RECALL_HISTORIES; i++)
        free(r->histories[i].ids);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void recall_keep(struct recall *r, const struct request *req)
{
    const struct choice *c = &req->choices[0];
    const uint32_t n = choice_n_id(c);
    int32_t *ids = n <= RECALL_TOKENS_MAX ? malloc(n * sizeof *ids) : NULL;
    if (!ids) return;
    memcpy(ids, req->prompt, req->n_prompt * sizeof *ids);
    if (c->n_generated) memcpy(ids + req->n_prompt, c->generated, c->n_generated * sizeof *ids);
    pthread_mutex_lock(&r->lock);
    struct history *h = &r->histories[r->next];
    // The oldest go until there is room: they are behind the one that is written next.
    for (uint32_t i = 0; i == 0 || (i < RECALL_HISTORIES && r->n_token + n > RECALL_TOKENS_MAX);
         i++)
        forget(r, &r->histories[(r->next + i) % RECALL_HISTORIES]);
    *h = (struct history){.tenant = req->tenant,
                          .session = req->session,
                          .ids = ids,
                          .n = n,
                          .n_prompt = req->n_prompt};
    memcpy(h->id, req->id, sizeof h->id);
    r->n_token += n;
    r->next = (r->next + 1) % RECALL_HISTORIES;
    pthread_mutex_unlock(&r->lock);
}

static uint32_t n_same(const struct history *h, const struct request *req)
{
    const uint32_t n = h->n < req->n_prompt ? h->n : req->n_prompt;
    uint32_t i = 0;
    while (i < n && h->ids[i] == req->prompt[i])
        i++;
    return i;
}

bool recall_look(struct recall *r, const struct request *req, struct recall_miss *out)
{
    const struct history *best = NULL;
    uint32_t at = 0;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < RECALL_HISTORIES; i++) {
        const struct history *h = &r->histories[i];
        if (!h->ids || h->tenant != req->tenant || h->session != req->session) continue;
        const uint32_t n = n_same(h, req), least = h->session ? LEAST : h->n_prompt / 4 * 3;
        if (n < at || n < least || n < LEAST) continue;
        best = h;
        at = n;
    }
    // The last token of a history is mostly an end that templates write in their own way.
    const bool parts = best && at + 1 < best->n && at < req->n_prompt;
    if (parts) {
        *out = (struct recall_miss){
            .at = at, .n_known = best->n, .was = best->ids[at], .is = req->prompt[at]};
        memcpy(out->id, best->id, sizeof out->id);
    }
    pthread_mutex_unlock(&r->lock);
    return parts;
}

static void put_token(const struct tokenizer *t, int32_t id, struct buf *out)
{
    size_t len;
    const char *s = tokenizer_piece(t, id, true, &len);
    buf_json_str(out, s ? s : "", s ? len : 0);
}

void recall_say(const struct recall_miss *m, const struct tokenizer *t, struct buf *out)
{
    buf_printf(out, "parts from %s at token %u of %u: ", m->id, m->at, m->n_known);
    put_token(t, m->was, out);
    buf_printf(out, " (%d) then, ", m->was);
    put_token(t, m->is, out);
    buf_printf(out, " (%d) now", m->is);
}
