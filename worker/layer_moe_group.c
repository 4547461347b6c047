// A block of rows goes from the lead to an owner: each row the inputs of its token (dim), then the
// token's experts that this owner is to compute, -1 where another one does. Back comes a row for
// each product, by expert and then by row: the order in which the lead has them. Between devices
// the experts go over the host and the inputs from device to device.
#include "worker/layer_moe.h"

#include "proto/base/log.h"

#include <string.h>

// Appends a row of product inputs; returns its ids.
static int32_t *add_row(struct pass *p, const float *x, int32_t at)
{
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    float *row = p->moe.host.block + (int64_t)at * (dim + n_used);
    memcpy(row, x, (size_t)dim * sizeof *x);
    int32_t *ids = (int32_t *)(void *)(row + dim);
    for (int32_t j = 0; j < n_used; j++)
        ids[j] = -1;
    return ids;
}

// The rows that chose experts of `member`, each once; where inputs are weighed, one for each
// product. x: all inputs, on the host.
static int32_t fill_block(struct pass *p, const float *x, int32_t member)
{
    const struct moe_sorting *b = &p->moe.host;
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    int32_t n = 0;
    for (int32_t t = 0; t < p->n_tok; t++) {
        int32_t *ids = NULL;
        for (int32_t j = 0; j < n_used; j++) {
            const int32_t at = b->at[t * n_used + j];
            if (b->member[at] != member) continue;
            if (p->moe.x)
                ids = add_row(p, x + (int64_t)at * dim, n++);
            else if (!ids)
                ids = add_row(p, x + (int64_t)t * dim, n++);
            ids[j] = b->expert[at];
        }
    }
    return n;
}

// The same as fill_block, as a list: of each row its number among all inputs.
static int32_t list_block(struct pass *p, int32_t *row, int32_t member)
{
    const struct moe_sorting *b = &p->moe.host;
    const int32_t n_used = p->shape->moe.n_used;
    int32_t n = 0;
    for (int32_t t = 0; t < p->n_tok; t++) {
        int32_t *ids = NULL;
        for (int32_t j = 0; j < n_used; j++) {
            const int32_t at = b->at[t * n_used + j];
            if (b->member[at] != member) continue;
            if (!ids || p->moe.x) {
                ids = b->block_ids + (int64_t)n * n_used;
                for (int32_t i = 0; i < n_used; i++)
                    ids[i] = -1;
                row[n++] = p->moe.x ? at : t;
            }
            ids[j] = b->expert[at];
        }
    }
    return n;
}

static void send_near(struct pass *p)
{
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    struct group *g = p->group;
    int32_t *row = (int32_t *)(void *)p->moe.host.block;
    for (int32_t i = 1; i < p->share->n_member; i++) {
        const int32_t n = list_block(p, row, i);
        g->side->ops->send(g->side, i, p->moe.host.block_ids, n, n_used);
        if (n) g->ops->send_rows(g, i, p->moe.x ? p->moe.x : p->h, row, n, dim);
    }
}

void moe_send(struct pass *p)
{
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    if (p->group->on_device) {
        send_near(p);
        return;
    }
    const int64_t n_tok = p->n_tok;
    const float *x = p->moe.x ? layer_fetch(p, p->moe.x, n_tok * n_used * dim)
                              : layer_fetch(p, p->h, n_tok * dim);
    for (int32_t i = 1; i < p->share->n_member; i++) {
        const int32_t n = fill_block(p, x, i);
        p->group->ops->send(p->group, i, p->moe.host.block, n, dim + n_used);
    }
}

void moe_receive(struct pass *p)
{
    const struct moe_work *b = &p->moe;
    const int32_t dim = p->shape->dim;
    for (int32_t i = 1; i < p->share->n_member; i++) {
        const int32_t from = b->first[i], n = b->first[i + 1] - from;
        float *y = b->y + (int64_t)from * dim;
        if (n == 0) continue;
        p->group->ops->recv(p->group, i, pass_road(p, y), n, dim, n);
        layer_return(p, y, (int64_t)n * dim);
    }
}

// -- the owner --

// Rows come, with their experts on the host. Returns how many.
static int64_t take_block(struct pass *p, int64_t most)
{
    const struct moe_sorting *b = &p->moe.host;
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    struct group *g = p->group;
    if (!g->on_device) return g->ops->recv(g, 0, b->block, -1, dim + n_used, most);
    const int64_t n = g->side->ops->recv(g->side, 0, b->block_ids, -1, n_used, most);
    if (n > 0) g->ops->recv(g, 0, p->moe.given, n, dim, n);
    return n;
}

// Takes the rows' ids from behind them: given (n, dim) and block_ids (n, n_used) remain.
static void part_block(struct pass *p, int32_t n)
{
    const struct moe_sorting *b = &p->moe.host;
    const int32_t dim = p->shape->dim, n_used = p->shape->moe.n_used;
    for (int32_t i = 0; i < n; i++) {
        const float *row = b->block + (int64_t)i * (dim + n_used);
        memcpy(b->block_ids + (int64_t)i * n_used, row + dim, (size_t)n_used * sizeof(float));
        memmove(b->block + (int64_t)i * dim, row, (size_t)dim * sizeof *row);
    }
    if (!p->k->is_host)
        p->k->ops->put(p->k, p->moe.given, b->block, (uint64_t)n * (uint64_t)dim * sizeof(float));
}

// Counts the rows of each of my experts. False: the ids are not such that the lead can mean them.
static bool count_rows(const struct pass *p, const struct part *w, int32_t n)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_sorting *b = &p->moe.host;
    int32_t last = -1;
    int64_t sum = 0;
    memset(b->count, 0, ((size_t)m->n_expert + 1) * sizeof *b->count);
    for (int64_t i = 0; i < (int64_t)n * m->n_used; i++) {
        const int32_t e = b->block_ids[i];
        if (i % m->n_used == 0) last = -1;
        if (e == -1) continue;
        if (e <= last || e >= m->n_expert || w->place[e] < 0 || ++sum > p->moe.most) return false;
        last = e;
        b->count[e + 1]++;
    }
    for (int32_t e = 0; e < m->n_expert; e++)
        b->count[e + 1] += b->count[e];
    return true;
}

// By expert, then by row. Returns how many products there are.
static int32_t list_products(const struct pass *p, const struct part *w, int32_t n)
{
    const struct model_moe *m = &p->shape->moe;
    const struct moe_sorting *b = &p->moe.host;
    for (int64_t i = 0; i < (int64_t)n * m->n_used; i++) {
        const int32_t e = b->block_ids[i];
        if (e == -1) continue;
        const int32_t at = b->count[e]++;
        b->row[at] = (int32_t)(i / m->n_used);
        b->expert[at] = w->place[e];
    }
    const int32_t sum = b->count[m->n_expert];
    if (!p->k->is_host) {
        p->k->ops->put(p->k, p->moe.row, b->row, (uint64_t)sum * sizeof *b->row);
        p->k->ops->put(p->k, p->moe.expert, b->expert, (uint64_t)sum * sizeof *b->expert);
    }
    return sum;
}

void layer_moe_serve(struct pass *p, const struct part *w, int32_t index,
                     const struct model_layer *kind)
{
    (void)index; // no state of its own
    (void)kind;  // all layers alike
    const struct model_moe *m = &p->shape->moe;
    const struct moe_work *b = &p->moe;
    const int32_t dim = p->shape->dim, most = p->n_tok * (m->weigh_input ? m->n_used : 1);
    const int64_t n = take_block(p, most);
    if (n <= 0 || p->err) return;
    if (!p->group->on_device) part_block(p, (int32_t)n);
    if (!count_rows(p, w, (int32_t)n)) {
        p->err = ERR_LINK_PROTOCOL;
        log_error("layer %d: the lead asks for experts that member %d does not hold", w->id,
                  p->share->member);
        return;
    }
    const struct moe_products mine = {
        .x = b->given,
        .n_x = (int32_t)n,
        .n = list_products(p, w, (int32_t)n),
        .row = b->row,
        .place = b->expert,
        .y = b->y,
    };
    moe_compute(p, w, &mine);
    p->group->ops->send(p->group, 0, layer_fetch(p, b->y, (int64_t)mine.n * dim), mine.n, dim);
}
