#include "worker/compute_priv.h"
#include "proto/base/clock.h"

#include <string.h>

// A frame is late when the stages before us cannot still be computing it: ten seconds, and what the
// step's tokens may take on a slow machine, where each costs a pass over as many weights as ours.
enum { SLOW_BYTES_PER_US = 10000 };

int64_t compute_patience_us(const struct compute *c, uint32_t n_tok)
{
    return COMPUTE_STEP_WAIT_US + (int64_t)(c->step_bytes / SLOW_BYTES_PER_US * n_tok);
}

static struct compute_wait wait_for(const struct compute *c, uint32_t n_tok, const char *what)
{
    const int64_t now = clock_now_us();
    return (struct compute_wait){
        .spin_until_us = now + COMPUTE_SPIN_US,
        .deadline_us = now + compute_patience_us(c, n_tok),
        .what = what,
    };
}

static err_t wait_frame(struct compute *c, enum frame_kind kind, uint64_t step,
                        const struct compute_wait *wait, struct frame **out, struct err_text *why)
{
    for (;;) {
        err_t e = compute_progress(c, why);
        if (e) return e;
        *out = port_find(c->port, kind, step);
        if (*out) return OK;
        e = compute_rest(c, wait, why);
        if (e) return e;
    }
}

static err_t send_to(struct compute *c, uint32_t peer, const struct frame *f, uint32_t n_tok,
                     struct err_text *why)
{
    const struct compute_wait wait = wait_for(c, n_tok, "sending a frame");
    for (;;) {
        err_t e = port_send(c->port, peer, f);
        if (e == OK) return OK;
        if (e != ERR_AGAIN)
            return err_say(why, e, "cannot send step %llu to worker %u of the lane",
                           (unsigned long long)f->step, peer);
        e = compute_progress(c, why);
        if (!e) e = compute_rest(c, &wait, why);
        if (e) return e;
    }
}

// A large frame is asked for by its receiver. If that one waits for it, it is on its way in no more
// time than this; if not, it goes between the layers of the next step (compute_tick).
static err_t see_off(struct compute *c, const struct frame *f, struct err_text *why)
{
    enum { ASK_US = 200, BYTES_PER_US = 1000 };
    const int64_t until = clock_now_us() + ASK_US + (int64_t)(f->bytes / BYTES_PER_US);
    err_t e = OK;
    while (!e && c->n_target && port_is_sending(c->port) && clock_now_us() < until)
        e = compute_progress(c, why);
    return e;
}

static err_t send_frame(struct compute *c, const struct frame *f, uint32_t n_tok,
                        struct err_text *why)
{
    err_t e = OK;
    for (uint32_t i = 0; !e && i < c->n_target; i++)
        e = send_to(c, c->targets[i], f, n_tok, why);
    return e ? e : see_off(c, f, why);
}

// -- drawn ids: from the last stage to the members of the first --

static bool samples(const struct step *st)
{
    for (uint32_t i = 0; i < st->n_row; i++)
        if (st->rows[i].flags & ROW_SAMPLE) return true;
    return false;
}

static err_t enter_ids(struct compute *c, const struct frame *f, struct err_text *why)
{
    const struct plan_settings *s = &c->config.plan.settings;
    const int32_t n_vocab = c->held.model->shape.n_vocab;
    const int32_t *pairs = f->payload; // (n_row, 2)
    if (f->dtype != DT_I32 || f->n_col != 2 || f->n_row > s->max_rows ||
        f->stage + 1 != c->config.plan.n_stage)
        return err_say(why, ERR_LINK_PROTOCOL, "ids of step %llu: %u rows of %u from stage %u",
                       (unsigned long long)f->step, f->n_row, f->n_col, f->stage);
    for (uint32_t i = 0; i < f->n_row; i++) {
        const int32_t slot = pairs[2 * i], id = pairs[2 * i + 1];
        if (slot < 0 || (uint32_t)slot >= s->n_slot || id < 0 || id >= n_vocab)
            return err_say(why, ERR_LINK_PROTOCOL, "ids of step %llu: id %d for slot %d",
                           (unsigned long long)f->step, id, slot);
        c->draws[slot] = (struct compute_draw){.step = f->step, .id = id};
    }
    return OK;
}

static err_t take_ids(struct compute *c, struct frame *f, struct err_text *why)
{
    err_t e = enter_ids(c, f, why);
    port_give(c->port, f);
    c->n_undrawn--;
    memmove(c->undrawn, c->undrawn + 1, c->n_undrawn * sizeof *c->undrawn);
    return e;
}

// The ids of the oldest step that still owes them.
static err_t wait_ids(struct compute *c, struct err_text *why)
{
    const struct compute_wait wait =
        wait_for(c, c->config.plan.settings.max_tok, "drawn ids of the last stage");
    struct frame *f;
    const int64_t from = clock_now_us();
    err_t e = wait_frame(c, FRAME_IDS, c->undrawn[0], &wait, &f, why);
    atomic_fetch_add(&c->wait_us, (uint64_t)(clock_now_us() - from));
    return e ? e : take_ids(c, f, why);
}

// Takes in what has come, so that the frames are free again, and notes that this step will owe ids.
static err_t note_step(struct compute *c, const struct step *st, struct err_text *why)
{
    struct frame *f;
    err_t e = OK;
    while (!e && c->n_undrawn && (f = port_find(c->port, FRAME_IDS, c->undrawn[0])))
        e = take_ids(c, f, why);
    if (!e && c->n_undrawn == WIRE_IN_FLIGHT_MAX) e = wait_ids(c, why);
    if (!e && samples(st)) c->undrawn[c->n_undrawn++] = st->number;
    return e;
}

// Ids of the step's chained rows, in row order. The last stage sends them before it does anything
// else, so mostly they are here already.
static err_t gather_chained(struct compute *c, const struct step *st, struct err_text *why)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        if (!(r->flags & ROW_CHAIN)) continue;
        while (c->n_undrawn && c->undrawn[0] <= r->from_step) {
            err_t e = wait_ids(c, why);
            if (e) return e;
        }
        const struct compute_draw *d = &c->draws[r->slot];
        if (d->step != r->from_step)
            return err_say(why, ERR_LINK_PROTOCOL, "step: slot %u drew nothing in step %llu",
                           r->slot, (unsigned long long)r->from_step);
        c->chained[n++] = d->id;
    }
    return OK;
}

static err_t give_ids(struct compute *c, const struct step_result *r, struct err_text *why)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_item; i++) {
        const struct step_item *item = &r->items[i];
        if (item->id < 0) continue;
        if (c->draws)
            c->draws[item->slot] = (struct compute_draw){.step = r->number, .id = item->id};
        c->pairs[2 * n] = (int32_t)item->slot;
        c->pairs[2 * n++ + 1] = item->id;
    }
    if (n == 0) return OK;
    const struct frame f = {.kind = FRAME_IDS,
                            .dtype = DT_I32,
                            .epoch = r->epoch,
                            .step = r->number,
                            .stage = c->config.plan.stage,
                            .n_row = n,
                            .n_col = 2,
                            .bytes = (uint64_t)n * 2 * sizeof *c->pairs,
                            .payload = c->pairs};
    return send_frame(c, &f, n, why);
}

// -- a step --

static err_t take_activations(struct compute *c, const struct step *st, struct frame **out,
                              struct err_text *why)
{
    const uint32_t n_tok = stage_n_tok(st), dim = (uint32_t)c->held.model->shape.dim;
    const struct compute_wait wait = wait_for(c, n_tok, "activations of the stage before");
    struct frame *f;
    const int64_t from = clock_now_us();
    err_t e = wait_frame(c, FRAME_ACTIVATIONS, st->number, &wait, &f, why);
    atomic_fetch_add(&c->wait_us, (uint64_t)(clock_now_us() - from));
    if (e) return e;
    if (f->dtype == DT_F32 && f->n_row == n_tok && f->n_col == dim &&
        f->stage + 1 == c->config.plan.stage) {
        *out = f;
        return OK;
    }
    e = err_say(why, ERR_LINK_PROTOCOL,
                "activations of step %llu: %u rows of %u from stage %u, expected %u of %u",
                (unsigned long long)st->number, f->n_row, f->n_col, f->stage, n_tok, dim);
    port_give(c->port, f);
    return e;
}

// The same from device to device: the device waits for them, so that the step is there when they
// come.
static void take_near(struct compute *c, const struct step *st)
{
    struct kernels_group *before = c->near[NEAR_BEFORE].inner;
    before->ops->take(before, stage_x(c->held.stage), stage_n_tok(st), c->held.model->shape.dim);
}

// Hands on what is good, and waits once for all of the step that is the device's.
static err_t settle_near(struct compute *c, const struct step *st, bool is_good)
{
    struct kernels_group *before = c->near[NEAR_BEFORE].inner, *after = c->near[NEAR_AFTER].inner;
    err_t e = OK;
    if (after && is_good)
        after->ops->give(after, stage_x(c->held.stage), stage_n_tok(st), c->held.model->shape.dim);
    if (after) e = after->ops->status(after, NULL);
    if (before && !e) e = before->ops->status(before, NULL);
    return e;
}

static err_t pass_on(struct compute *c, const struct step *st, float *x, struct err_text *why)
{
    if (c->near[NEAR_AFTER].inner) return OK; // it has gone
    const uint32_t n_tok = stage_n_tok(st), dim = (uint32_t)c->held.model->shape.dim;
    const struct frame f = {.kind = FRAME_ACTIVATIONS,
                            .dtype = DT_F32,
                            .epoch = st->epoch,
                            .step = st->number,
                            .stage = c->config.plan.stage,
                            .n_row = n_tok,
                            .n_col = dim,
                            .bytes = (uint64_t)n_tok * dim * sizeof *x,
                            .payload = x};
    return send_frame(c, &f, n_tok, why);
}

static err_t report(struct compute *c, struct step_result *r, uint64_t took_us,
                    struct err_text *why)
{
    err_t e = give_ids(c, r, why);
    if (e) return e;
    r->compute_us = (uint32_t)took_us;
    const struct msg m = {.kind = MSG_RESULT, .result = *r};
    return compute_post(c, &m, why);
}

static err_t say_run_failed(struct compute *c, const struct step *st, err_t e, struct err_text *why)
{
    struct err_text said = {0};
    struct group *group = compute_group_now(c);
    if (group && group->ops->status(group, &said)) return err_say(why, e, "%s", said.s);
    if (compute_near_progress(c, &said)) return err_say(why, e, "%s", said.s);
    if (stage_status(c->held.stage, &said)) return err_say(why, e, "%s", said.s);
    return err_say(why, e, "step %llu: %s", (unsigned long long)st->number,
                   e == ERR_MEMORY ? "no memory for its result" : err_name(e));
}

// The stage on x, and what follows from it: the leads' business.
static err_t run(struct compute *c, const struct step *st, float *x, struct err_text *why)
{
    struct step_result result = {0};
    const int64_t from = clock_now_us();
    arena_reset(&c->arena);
    err_t e = stage_run(c->held.stage, st, x, c->chained, &c->arena, &result);
    const err_t near_err = settle_near(c, st, !e);
    if (near_err) e = near_err; // which the other one follows from
    const uint64_t all_us = (uint64_t)(clock_now_us() - from);
    const uint64_t near_us = e ? 0 : compute_near_wait_us(c);
    const uint64_t took_us = all_us > near_us ? all_us - near_us : 0;
    atomic_fetch_add(&c->wait_us, near_us);
    atomic_fetch_add(&c->busy_us, took_us);
    struct group *group = compute_group_now(c);
    if (group) atomic_store(&c->exchange_us, group->ops->wait_us(group));
    if (e) return say_run_failed(c, st, e, why);
    if (!compute_is_lead(c)) return OK;
    return compute_is_last(c) ? report(c, &result, took_us, why) : pass_on(c, st, x, why);
}

// What a member needs before its first layer: ids that were drawn elsewhere, or activations.
static err_t take_input(struct compute *c, const struct step *st, struct frame **out,
                        struct err_text *why)
{
    if (!compute_is_dense(c)) return OK;
    if (c->near[NEAR_BEFORE].inner) {
        take_near(c, st);
        return OK;
    }
    if (!compute_is_first(c)) return take_activations(c, st, out, why);
    err_t e = gather_chained(c, st, why);
    return !e && c->port && !compute_draws(c) ? note_step(c, st, why) : e;
}

err_t compute_step(struct compute *c, const struct step *st, struct err_text *why)
{
    if (st->number != atomic_load(&c->step_done) + 1)
        return err_say(why, ERR_LINK_PROTOCOL, "step %llu after step %llu",
                       (unsigned long long)st->number,
                       (unsigned long long)atomic_load(&c->step_done));
    atomic_store(&c->step_now, st->number);
    struct frame *f = NULL;
    err_t e = stage_check(c->held.stage, st, why);
    if (!e) e = take_input(c, st, &f, why);
    if (!e) e = run(c, st, f ? f->payload : c->x, why);
    if (f) port_give(c->port, f);
    atomic_store(&c->step_now, 0);
    if (!e) atomic_store(&c->step_done, st->number);
    return e;
}
