// wire_survey: how links between workers are measured while no plan runs.
#include "proto/wire/wire_priv.h"

#include <string.h>

// -- in --

err_t wire_survey_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Survey *s = env->survey;
    WIRE_NEED(in, s->round, "survey: rounds start at 1");
    const bool is_end = s->road == 0 && s->n_targets == 0;
    WIRE_NEED(in, is_end || s->road == ROAD_LOCAL || s->road == ROAD_UCX, "survey: unknown road %u",
              s->road);
    WIRE_NEED(in, s->key.len == 16, "survey: key of %zu bytes instead of 16", s->key.len);
    WIRE_NEED(in, s->n_targets <= WIRE_SURVEY_MAX, "survey: %zu targets, limit %d", s->n_targets,
              WIRE_SURVEY_MAX);
    struct msg_target *to = arena_take_n(in->arena, s->n_targets, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "survey: no memory for its targets");
    for (size_t i = 0; i < s->n_targets; i++) {
        const Trireme__Target *t = s->targets[i];
        WIRE_NEED(in, t->address.len >= 1 && t->address.len <= WIRE_ADDRESS_MAX,
                  "survey: address of %zu bytes, must be 1 to %d", t->address.len,
                  WIRE_ADDRESS_MAX);
        for (size_t k = 0; k < i; k++)
            WIRE_NEED(in, to[k].worker != t->worker, "survey: worker %u is named twice", t->worker);
        to[i] = (struct msg_target){t->worker, t->address.data, (uint32_t)t->address.len};
    }
    out->survey = (struct msg_survey){
        .round = s->round, .road = s->road, .targets = to, .n_target = (uint32_t)s->n_targets};
    memcpy(out->survey.key, s->key.data, sizeof out->survey.key);
    return OK;
}

err_t wire_surveyed_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Surveyed *s = env->surveyed;
    WIRE_NEED(in, s->round, "surveyed: rounds start at 1");
    WIRE_NEED(in, s->address.len <= WIRE_ADDRESS_MAX, "surveyed: address of %zu bytes, limit %d",
              s->address.len, WIRE_ADDRESS_MAX);
    WIRE_NEED(in, s->n_paths <= WIRE_SURVEY_MAX, "surveyed: %zu paths, limit %d", s->n_paths,
              WIRE_SURVEY_MAX);
    struct msg_path *to = arena_take_n(in->arena, s->n_paths, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "surveyed: no memory for its paths");
    for (size_t i = 0; i < s->n_paths; i++) {
        const Trireme__Path *p = s->paths[i];
        WIRE_NEED(in, wire_speed_ok(p->latency_us) && wire_speed_ok(p->bytes_per_s),
                  "surveyed: a latency or speed that is negative or not finite");
        WIRE_NEED(in,
                  wire_text_ok(p->transport, WIRE_LABEL_BYTES_MAX, WIRE_ONE_LINE) &&
                      wire_text_ok(p->why, sizeof in->why->s, WIRE_ONE_LINE),
                  "surveyed: bad transport name or text");
        to[i] = (struct msg_path){
            .worker = p->worker,
            .latency_us = p->latency_us,
            .bytes_per_s = p->bytes_per_s,
            .transport = p->transport,
            .code = p->code,
            .why = p->why,
        };
    }
    out->surveyed = (struct msg_surveyed){
        .round = s->round,
        .address = s->address.data,
        .n_address = (uint32_t)s->address.len,
        .paths = to,
        .n_path = (uint32_t)s->n_paths,
    };
    return OK;
}

// -- out --

bool wire_survey_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_survey *s = &m->survey;
    Trireme__Survey *out = env->survey;
    Trireme__Target *to = arena_take_n(a, s->n_target, sizeof *to);
    out->targets = arena_take_n(a, s->n_target, sizeof *out->targets);
    if (!to || !out->targets) return false;
    out->round = s->round;
    out->road = s->road;
    out->key = wire_bytes_out(s->key, sizeof s->key);
    out->n_targets = s->n_target;
    for (uint32_t i = 0; i < s->n_target; i++) {
        trireme__target__init(out->targets[i] = &to[i]);
        to[i].worker = s->targets[i].worker;
        to[i].address = wire_bytes_out(s->targets[i].address, s->targets[i].n_address);
    }
    return true;
}

bool wire_surveyed_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_surveyed *s = &m->surveyed;
    Trireme__Surveyed *out = env->surveyed;
    Trireme__Path *to = arena_take_n(a, s->n_path, sizeof *to);
    out->paths = arena_take_n(a, s->n_path, sizeof *out->paths);
    if (!to || !out->paths) return false;
    out->round = s->round;
    out->address = wire_bytes_out(s->address, s->n_address);
    out->n_paths = s->n_path;
    for (uint32_t i = 0; i < s->n_path; i++) {
        const struct msg_path *p = &s->paths[i];
        trireme__path__init(out->paths[i] = &to[i]);
        to[i].worker = p->worker;
        to[i].latency_us = p->latency_us;
        to[i].bytes_per_s = p->bytes_per_s;
        to[i].transport = wire_text_out(p->transport);
        to[i].code = p->code;
        to[i].why = wire_text_out(p->why);
    }
    return true;
}
