#include "worker/state.h"

static uint64_t align_64(uint64_t n)
{
    return (n + 63) & ~(uint64_t)63;
}

// Everything but the memory.
static void lay_out(struct state *st, const struct state_config *c)
{
    const struct model_delta *d = &c->shape->delta;
    const uint64_t k = (uint64_t)d->n_head_k * (uint64_t)d->dim_k;
    const uint64_t v = (uint64_t)d->n_head_v * (uint64_t)d->dim_v;
    int16_t n = 0;
    for (uint32_t i = c->layer_from; i < c->layer_to; i++)
        st->nth[i - c->layer_from] = c->shape->layers[i].mixer == MIXER_DELTA ? n++ : -1;
    st->n_slot = c->settings->n_slot;
    st->n_snapshot = c->settings->n_snapshot;
    st->conv_bytes = st->layer_bytes = st->place_bytes = 0;
    if (!n) return;
    st->conv_bytes = align_64((uint64_t)(d->n_tap - 1) * (2 * k + v) * sizeof(float));
    st->layer_bytes = st->conv_bytes + align_64(v * (uint64_t)d->dim_k * sizeof(float));
    st->place_bytes = st->layer_bytes * (uint64_t)n;
}

static uint64_t all_bytes(const struct state *st)
{
    return st->place_bytes * ((uint64_t)st->n_slot + st->n_snapshot);
}

uint64_t state_bytes(const struct state_config *c)
{
    struct state st;
    lay_out(&st, c);
    return all_bytes(&st);
}

err_t state_open(struct state *st, const struct state_config *c, struct err_text *why)
{
    lay_out(st, c);
    st->k = c->kernels;
    st->places = (struct mem){0};
    if (!st->place_bytes) return OK;
    return mem_take_of(c->kernels, all_bytes(st), "recurrent state", &st->places, why);
}

void state_close(struct state *st)
{
    mem_give(&st->places);
}

static char *slot_place(const struct state *st, uint32_t slot)
{
    return (char *)st->places.data + slot * st->place_bytes;
}

static char *snapshot_place(const struct state *st, uint32_t snapshot)
{
    return slot_place(st, st->n_slot + snapshot - 1);
}

float *state_conv(const struct state *st, int32_t index, uint32_t slot)
{
    BUG_ON(st->nth[index] < 0);
    return (float *)(slot_place(st, slot) + (uint64_t)st->nth[index] * st->layer_bytes);
}

float *state_delta(const struct state *st, int32_t index, uint32_t slot)
{
    return state_conv(st, index, slot) + st->conv_bytes / sizeof(float);
}

static void copy_place(const struct state *st, char *to, const char *from)
{
    const int64_t n = state_ld(st);
    st->k->ops->copy(st->k, (float *)(void *)to, n, (const float *)(const void *)from, n, 1, n);
}

static err_t check_snapshot(const struct state *st, uint32_t slot, uint32_t snapshot,
                            struct err_text *why)
{
    if (snapshot <= st->n_snapshot) return OK;
    return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u names snapshot %u of %u", slot, snapshot,
                   st->n_snapshot);
}

err_t state_check_row(const struct state *st, const struct step_row *r,
                      const struct step_bind *bind, struct err_text *why)
{
    err_t e = check_snapshot(st, r->slot, r->snapshot, why);
    if (e || !bind) return e;
    e = check_snapshot(st, r->slot, bind->snapshot, why);
    if (e || !st->place_bytes || !r->pos == !bind->snapshot) return e;
    return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u begins at position %u with snapshot %u",
                   r->slot, r->pos, bind->snapshot);
}

void state_bind(struct state *st, const struct step_bind *b)
{
    if (!st->place_bytes) return;
    char *to = slot_place(st, b->slot);
    if (b->snapshot)
        copy_place(st, to, snapshot_place(st, b->snapshot));
    else
        st->k->ops->zero(st->k, to, st->place_bytes);
}

void state_save(struct state *st, const struct step_row *r)
{
    if (st->place_bytes && r->snapshot)
        copy_place(st, snapshot_place(st, r->snapshot), slot_place(st, r->slot));
}
