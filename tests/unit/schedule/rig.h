// rig: a scheduler and a lane in lockstep, for tests that look at single steps.
#pragma once
#include "tests/unit/schedule/sim.h"

enum { JOBS = 128 };

struct rig {
    struct sched *s;
    struct lane lane;
    struct job *jobs[JOBS];
    uint32_t n_job;
    uint32_t n_event;
    struct step st; // the last one sent
};

static const struct sched_config plain = {.epoch = 1,
                                          .n_stage = 1,
                                          .in_flight = 2,
                                          .n_slot = 16,
                                          .n_page = 1000,
                                          .page_tok = 16,
                                          .max_tok = 256,
                                          .max_rows = 16,
                                          .ctx = 8192,
                                          .queue_max = 64,
                                          .prefix_cache = true,
                                          .chain = true};

static inline void open_rig(struct rig *g, struct sched_config c)
{
    *g = (struct rig){.s = sched_new(64)};
    assert_int_equal(sched_configure(g->s, &c), OK);
    lane_init(&g->lane, &c, g->jobs);
}

static inline void close_rig(struct rig *g)
{
    assert_null(sched_check(g->s));
    sched_free(g->s);
    lane_fini(&g->lane);
    for (uint32_t i = 0; i < g->n_job; i++)
        job_free(g->jobs[i]);
}

// A job whose prompt starts as those with the same `kind`.
static inline struct job *make(struct rig *g, int32_t kind, uint32_t n_prompt, uint32_t max_tokens,
                               uint32_t n_choice)
{
    int32_t *ids = calloc(n_prompt, sizeof *ids);
    for (uint32_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)((uint32_t)kind + i * 13) % SIM_VOCAB;
    struct job *j = job_new(g->n_job + 1, ids, n_prompt, max_tokens, n_choice);
    free(ids);
    g->jobs[g->n_job++] = j;
    job_request(j);
    return j;
}

static inline struct job *submit(struct rig *g, int32_t kind, uint32_t n_prompt,
                                 uint32_t max_tokens, uint32_t n_choice)
{
    struct job *j = make(g, kind, n_prompt, max_tokens, n_choice);
    assert_int_equal(sched_submit(g->s, j->req, 10, NULL), OK);
    return j;
}

static inline bool send_one(struct rig *g)
{
    if (!sched_next(g->s, 20, &g->st)) return false;
    lane_send(&g->lane, &g->st);
    assert_null(sched_check(g->s));
    return true;
}

// Streams are checked token by token; done requests are freed.
static inline uint32_t drain(struct rig *g)
{
    uint32_t n;
    const struct sched_event *e = sched_events(g->s, &n);
    for (uint32_t i = 0; i < n; i++) {
        struct job *j = e[i].choice->req->owner;
        uint32_t k = e[i].choice->index;
        if (e[i].kind == EVENT_TOKEN) {
            assert_int_equal(e[i].item->id, j->ids[k][j->n_prompt + j->n_seen[k]]);
            j->n_seen[k]++;
        } else if (e[i].kind == EVENT_FINISH) {
            j->is_over[k] = true;
            if (!e[i].request_done) continue;
            request_free(j->req);
            j->req = NULL;
        }
    }
    g->n_event += n;
    return n;
}

static inline void bring_one(struct rig *g)
{
    struct step_result r = lane_run(&g->lane);
    struct err_text why;
    if (sched_commit(g->s, &r, SIM_VOCAB, 30, &why)) fail_msg("%s", why.s);
    drain(g);
}

static inline void run_out(struct rig *g)
{
    for (uint32_t i = 0; i < 100000; i++) {
        while (send_one(g))
            ;
        if (!g->lane.n_queue) return;
        bring_one(g);
    }
    fail_msg("no end");
}
