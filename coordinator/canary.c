#include "coordinator/canary.h"
#include "proto/base/log.h"
#include <stdio.h>

enum { REQUEST_BYTES_MAX = 64 << 10 };

static void on_token(struct request *r, struct choice *c, const struct step_item *item)
{
    (void)r, (void)c, (void)item;
}

static void on_scores(struct request *r, const float *scores, uint32_t from, uint32_t n)
{
    (void)r, (void)scores, (void)from, (void)n;
}

static void on_finish(struct request *r, struct choice *c, bool is_last)
{
    (void)c;
    struct flow_lane *owner = r->owner;
    if (!is_last) return;
    owner->has_canary = false;
    request_free(r);
}

static void on_error(struct request *r, err_t code, const char *sentence, uint32_t retry_after_s)
{
    (void)retry_after_s;
    struct flow_lane *owner = r->owner;
    log_warn("the canary token failed (%s): %s", err_name(code), sentence);
    owner->has_canary = false;
    request_free(r);
}

const struct engine_listener canary_listener = {
    .on_token = on_token, .on_scores = on_scores, .on_finish = on_finish, .on_error = on_error};

static struct request *make(struct flow_lane *l)
{
    const struct coordinator *c = l->owner;
    struct request *r = request_new(REQUEST_BYTES_MAX);
    int32_t *prompt = r ? arena_take(&r->arena, sizeof *prompt) : NULL;
    if (!prompt) {
        request_free(r);
        return NULL;
    }
    int32_t bos = tokenizer_bos(c->tokenizer);
    *prompt = bos >= 0 && bos < c->n_vocab ? bos : 0;
    snprintf(r->id, sizeof r->id, "canary");
    r->sampling.temperature = 0;
    r->prompt = prompt;
    r->n_prompt = r->max_tokens = 1;
    r->tenant = UINT64_MAX; // nobody's
    r->owner = l;
    if (request_init_choices(r, 1) == OK) return r;
    request_free(r);
    return NULL;
}

// True: one was sent.
static bool tick(struct flow_lane *l, int64_t now_us)
{
    struct coordinator *c = l->owner;
    if (l->has_canary || !l->is_serving || !flow_lane_is_idle(l) ||
        now_us - l->result_us < (int64_t)c->config.canary_ms * 1000)
        return false;
    struct request *r = make(l);
    if (!r) return false; // no memory now: the next tick tries again
    l->has_canary = flow_submit_to(l, r, &canary_listener, NULL) == OK;
    if (!l->has_canary) request_free(r);
    return l->has_canary;
}

void canary_tick(struct coordinator *c, int64_t now_us)
{
    if (c->is_draining) return;
    bool any = false;
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++)
        any |= tick(&c->lanes[i], now_us);
    if (any) flow_go_on(c);
}
