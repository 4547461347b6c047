#include "deploy/simulate.h"

#include "coordinator/fleet/place.h"
#include "coordinator/schedule/sched.h"
#include "coordinator/steer.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAGE_TOK = 32,
    N_VOCAB = 1 << 20,
    ASK_ALL_LANES = 64, // with more lanes only a conversation's own is asked what it knows
    MEMO = 1 << 12,
    DEPTH_STEP = 256, // depths are rounded to this
    FAR_US = 10000,
};

// -- what a step takes --

// Times of all stages of one plan for steps of one shape.
struct memo {
    struct cost_step shape; // rows 0: empty
    int64_t stage_ns[CLUSTER_DEVICES_MAX], hop_ns[CLUSTER_DEVICES_MAX];
};

struct timing {
    const struct plan *plan;
    struct cost_group groups[CLUSTER_DEVICES_MAX];
    struct cluster_link next[CLUSTER_DEVICES_MAX]; // to the next stage; of the last: to the first
    uint32_t in_flight;                            // steps at once
    uint32_t piece_tok;                            // of a prompt, at least
    int64_t control_ns;                            // from the coordinator to a stage, or back
    struct place_speed speed;                      // what requests are dealt by
    struct memo *memos;
};

// The coordinator runs where the first device is.
static int64_t control_ns(const struct cluster *c, const struct plan *p)
{
    double most = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        const int32_t d = p->stages[i].members[0].device;
        if (d && c->links[0][d].latency_us > most) most = c->links[0][d].latency_us;
    }
    return (int64_t)(most * 1e3);
}

static struct cluster_link slowest(const struct cluster *c, const struct plan_stage *s)
{
    struct cluster_link worst = {0};
    for (int32_t a = 0; a < s->n_member; a++)
        for (int32_t b = 0; b < s->n_member; b++) {
            const struct cluster_link *l = &c->links[s->members[a].device][s->members[b].device];
            if (a == b || (s->split == SPLIT_EXPERTS && a && b)) continue;
            if (l->latency_us > worst.latency_us) worst = *l;
        }
    return worst;
}

static uint32_t steps_in_flight(const struct simulate_ask *a, const struct timing *t)
{
    const struct cost_step row = {
        .rows = 1, .n_seq = 1, .logit_rows = 1, .depth = a->ctx / 2, .kv_elem_bits = 16};
    const struct plan *p = t->plan;
    double slowest_us = 1, road_us = 0;
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *s = &p->stages[i];
        const int64_t ns =
            cost_time_of(a->model, &t->groups[i], &row, s->layer_from, s->layer_to).ns;
        if ((double)ns / 1e3 > slowest_us) slowest_us = (double)ns / 1e3;
        if (p->n_stage > 1) road_us += t->next[i].latency_us;
    }
    return plan_steps_in_flight((uint32_t)p->n_stage, slowest_us, road_us);
}

static err_t timing_open(struct timing *t, const struct simulate_ask *a, const struct plan *p)
{
    const struct cluster *c = a->cluster;
    *t = (struct timing){.plan = p, .control_ns = control_ns(c, p)};
    t->memos = calloc(MEMO, sizeof *t->memos);
    if (!t->memos) return ERR_MEMORY;
    for (int32_t i = 0; i < p->n_stage; i++) {
        const struct plan_stage *s = &p->stages[i];
        const struct plan_stage *next = &p->stages[(i + 1) % p->n_stage];
        struct cost_group *g = &t->groups[i];
        g->share = (struct share){.split = s->split, .n_member = s->n_member};
        for (int32_t k = 0; k < s->n_member; k++) {
            g->share.part[k] = s->members[k].part;
            g->devices[k] = &c->devices[s->members[k].device];
        }
        g->link = slowest(c, s);
        t->next[i] = c->links[s->members[0].device][next->members[0].device];
    }
    bool has_gpu = false;
    for (int32_t i = 0; i < p->n_stage; i++)
        has_gpu |= t->groups[i].devices[0]->kind != CLUSTER_CPU;
    t->in_flight = steps_in_flight(a, t);
    t->piece_tok = plan_piece_tok(a->model, has_gpu);
    return OK;
}

static const struct memo *time_of(struct timing *t, const struct cost_model *m,
                                  const struct cost_step *shape)
{
    uint64_t h = (uint64_t)shape->rows * 0x9e3779b97f4a7c15 + (uint64_t)shape->n_seq * 0x85ebca6b +
                 (uint64_t)shape->logit_rows * 0xc2b2ae35 + (uint64_t)shape->depth;
    struct memo *memo = &t->memos[(h ^ h >> 29) % MEMO];
    if (!memcmp(&memo->shape, shape, sizeof *shape)) return memo;
    memo->shape = *shape;
    for (int32_t i = 0; i < t->plan->n_stage; i++) {
        const struct plan_stage *s = &t->plan->stages[i];
        memo->stage_ns[i] = cost_time_of(m, &t->groups[i], shape, s->layer_from, s->layer_to).ns;
        memo->hop_ns[i] = i + 1 < t->plan->n_stage ? cost_hop_ns(m, &t->next[i], shape) : 0;
    }
    return memo;
}

static double pass_us(const struct timing *t, const struct memo *m, double *longest_us)
{
    double sum_us = 0;
    *longest_us = 0;
    for (int32_t i = 0; i < t->plan->n_stage; i++) {
        const double us = (double)m->stage_ns[i] / 1e3;
        sum_us += us + (double)m->hop_ns[i] / 1e3;
        if (us > *longest_us) *longest_us = us;
    }
    return sum_us;
}

// As coordinator/fleet/place predicts it.
static struct place_speed speed_of(struct timing *t, const struct simulate_ask *a)
{
    const int32_t n = t->plan->n_stage, n_slot = (int32_t)a->n_slot, rows = (n_slot + n - 1) / n;
    struct cost_step s = {
        .rows = 1, .n_seq = 1, .logit_rows = 1, .depth = a->ctx / 4, .kv_elem_bits = 16};
    double longest_us;
    const double one_us = pass_us(t, time_of(t, a->model, &s), &longest_us);
    s.rows = s.n_seq = s.logit_rows = rows;
    double all_us = pass_us(t, time_of(t, a->model, &s), &longest_us);
    if (all_us < n * longest_us) all_us = n * longest_us;
    s.rows = (int32_t)a->max_tok;
    s.n_seq = s.logit_rows = 1;
    pass_us(t, time_of(t, a->model, &s), &longest_us);
    const double row_us = n_slot > 1 && all_us > one_us ? (all_us - one_us) / (n_slot - 1) : 0;
    return (struct place_speed){.step_us = one_us > row_us ? one_us - row_us : 1e-3,
                                .row_us = row_us,
                                .prompt_us = longest_us / s.rows};
}

// Rows of all kinds as one step of the cost model: the mean depth of its tokens.
static struct cost_step shape_of(const struct step *st)
{
    struct cost_step shape;
    double depth = 0;
    memset(&shape, 0, sizeof shape);
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        shape.rows += (int32_t)r->n_tok;
        shape.n_seq++;
        shape.logit_rows += (r->flags & ROW_SAMPLE) != 0;
        depth += (double)r->n_tok * r->pos;
    }
    depth /= shape.rows;
    shape.depth = ((int64_t)depth + DEPTH_STEP / 2) / DEPTH_STEP * DEPTH_STEP;
    shape.kv_elem_bits = 16;
    return shape;
}

// -- the world --

// A request on its way.
struct job {
    const struct trace_request *asked;
    struct request *req; // NULL: not there
    int64_t arrived_ns, first_ns, last_ns;
    double worst_itl_s;
};

// A step on its way back.
struct flight {
    uint64_t number;
    int64_t done_ns; // when the last stage drew
    struct step_item *items;
    uint32_t n_item;
};

struct sim_lane {
    struct timing *timing;
    struct sched *sched;
    struct flight *flights; // (in_flight) ring
    uint32_t head, n_flight, in_flight;
    uint32_t *owner; // (n_slot) job of each slot
    int64_t free_ns[CLUSTER_DEVICES_MAX], busy_ns[CLUSTER_DEVICES_MAX];
    int64_t active_ns, since_ns;
    uint32_t n_request;
    bool is_far;
};

struct event {
    int64_t at_ns;
    uint32_t lane;
};

struct list_of {
    float *at;
    size_t n, cap;
};

struct world {
    const struct simulate_ask *ask;
    struct timing *timings;
    struct sim_lane *lanes;
    uint32_t n_lane;
    struct event *heap;
    uint32_t n_event;
    struct job *jobs;
    struct steer steer;
    struct steer_lane *figures;
    int64_t now_ns;
    struct list_of ttft, itl, e2e;
    struct simulate_result *out;
    err_t err;
    struct err_text *why;
};

static void fail(struct world *w, err_t e, const char *what)
{
    if (!w->err) w->err = err_say(w->why, e, "%s", what);
}

static void note(struct world *w, struct list_of *l, double v)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 4096;
        float *more = realloc(l->at, cap * sizeof *more);
        if (!more) {
            fail(w, ERR_MEMORY, "no memory for the simulation's times");
            return;
        }
        l->at = more;
        l->cap = cap;
    }
    l->at[l->n++] = (float)v;
}

static void heap_push(struct world *w, struct event e)
{
    uint32_t i = w->n_event++;
    for (; i && w->heap[(i - 1) / 2].at_ns > e.at_ns; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

static struct event heap_pop(struct world *w)
{
    const struct event first = w->heap[0], last = w->heap[--w->n_event];
    uint32_t i = 0;
    for (uint32_t k = 1; k < w->n_event; k = 2 * i + 1) {
        k += k + 1 < w->n_event && w->heap[k + 1].at_ns < w->heap[k].at_ns;
        if (w->heap[k].at_ns >= last.at_ns) break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = last;
    return first;
}

// A conversation is one endless sequence of ids; whoever shares a beginning shares its ids.
static int32_t id_at(const struct trace_request *r, uint64_t job, uint32_t pos)
{
    uint64_t h = pos < r->n_common ? 0 : r->session ? r->session : job + ((uint64_t)1 << 40);
    h = (h + pos * 0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd;
    return (int32_t)((h ^ h >> 31) % N_VOCAB);
}

// -- steps --

static bool is_chained(const struct step_row *r)
{
    return r->flags & ROW_CHAIN;
}

// When the first stage can begin: the step is there, and so are the ids its rows go on from.
static int64_t can_begin(const struct sim_lane *l, const struct step *st, int64_t now_ns)
{
    int64_t at = now_ns + l->timing->control_ns;
    const int32_t last = l->timing->plan->n_stage - 1;
    const int64_t back = last ? (int64_t)(l->timing->next[last].latency_us * 1e3) : 0;
    for (uint32_t i = 0; i < st->n_row; i++) {
        if (!is_chained(&st->rows[i])) continue;
        for (uint32_t k = 0; k < l->n_flight; k++) {
            const struct flight *f = &l->flights[(l->head + k) % l->in_flight];
            if (f->number == st->rows[i].from_step && f->done_ns + back > at)
                at = f->done_ns + back;
        }
    }
    return at;
}

static int64_t pass_stages(struct world *w, struct sim_lane *l, const struct step *st)
{
    const struct cost_step shape = shape_of(st);
    const struct memo *m = time_of(l->timing, w->ask->model, &shape);
    int64_t at = can_begin(l, st, w->now_ns);
    for (int32_t i = 0; i < l->timing->plan->n_stage; i++) {
        if (l->free_ns[i] > at) at = l->free_ns[i];
        at += m->stage_ns[i];
        l->busy_ns[i] += m->stage_ns[i];
        l->free_ns[i] = at;
        at += m->hop_ns[i];
    }
    return at;
}

static bool draw(struct world *w, struct sim_lane *l, const struct step *st, struct flight *f)
{
    for (uint32_t i = 0; i < st->n_bind; i++)
        l->owner[st->binds[i].slot] = (uint32_t)st->binds[i].sampling.seed;
    f->items = calloc(st->n_row, sizeof *f->items);
    if (!f->items) return false;
    for (uint32_t i = 0; i < st->n_row; i++) {
        const struct step_row *r = &st->rows[i];
        const uint32_t job = l->owner[r->slot];
        if (!(r->flags & ROW_SAMPLE)) continue;
        f->items[f->n_item++] = (struct step_item){
            .row = i, .slot = r->slot, .id = id_at(w->jobs[job].asked, job, r->pos + r->n_tok)};
    }
    return true;
}

static void pump(struct world *w, uint32_t lane)
{
    struct sim_lane *l = &w->lanes[lane];
    struct step st;
    while (!w->err && l->n_flight < l->in_flight && sched_next(l->sched, w->now_ns / 1000, &st)) {
        struct flight f = {.number = st.number};
        if (!l->n_flight) l->since_ns = w->now_ns;
        f.done_ns = pass_stages(w, l, &st);
        if (!draw(w, l, &st, &f)) fail(w, ERR_MEMORY, "no memory for a step");
        l->flights[(l->head + l->n_flight++) % l->in_flight] = f;
        heap_push(w, (struct event){.at_ns = f.done_ns + l->timing->control_ns, .lane = lane});
    }
}

// -- what comes back --

static void end_job(struct world *w, struct job *j)
{
    const double ttft = (double)(j->first_ns - j->arrived_ns) / 1e9;
    w->out->n_done++;
    w->out->prompt_tokens += j->req->n_prompt;
    w->out->cached_tokens += j->req->n_cached;
    w->out->n_good += ttft <= w->ask->ttft_s && j->worst_itl_s <= w->ask->itl_s;
    note(w, &w->e2e, (double)(w->now_ns - j->arrived_ns) / 1e9);
    request_free(j->req);
    j->req = NULL;
}

static void take_events(struct world *w, struct sim_lane *l)
{
    uint32_t n;
    const struct sched_event *events = sched_events(l->sched, &n);
    for (uint32_t i = 0; i < n; i++) {
        struct job *j = events[i].choice->req->owner;
        if (events[i].kind == EVENT_TOKEN) {
            w->out->output_tokens++;
            if (!j->first_ns) {
                j->first_ns = w->now_ns;
                note(w, &w->ttft, (double)(w->now_ns - j->arrived_ns) / 1e9);
            } else {
                const double itl = (double)(w->now_ns - j->last_ns) / 1e9;
                if (itl > j->worst_itl_s) j->worst_itl_s = itl;
                note(w, &w->itl, itl);
            }
            j->last_ns = w->now_ns;
        } else if (events[i].kind == EVENT_FINISH && events[i].request_done) {
            end_job(w, j);
        }
    }
}

static void on_result(struct world *w, uint32_t lane)
{
    struct sim_lane *l = &w->lanes[lane];
    struct flight *f = &l->flights[l->head];
    const struct step_result r = {
        .epoch = 1, .number = f->number, .items = f->items, .n_item = f->n_item};
    l->head = (l->head + 1) % l->in_flight;
    l->n_flight--;
    err_t e = sched_commit(l->sched, &r, N_VOCAB, w->now_ns / 1000, w->why);
    if (e && !w->err) w->err = e;
    take_events(w, l);
    free(f->items);
    f->items = NULL;
    pump(w, lane);
    if (!l->n_flight) l->active_ns += w->now_ns - l->since_ns;
}

// -- what arrives --

static struct request *make_request(struct world *w, uint32_t number)
{
    const struct trace_request *a = w->jobs[number].asked;
    const uint64_t pages = (uint64_t)(a->n_prompt + a->n_output) / PAGE_TOK + 64;
    struct request *r = request_new(8192 + 8 * (uint64_t)(a->n_prompt + a->n_output) + 16 * pages +
                                    8 * (uint64_t)w->ask->ctx);
    if (!r) return NULL;
    int32_t *ids = arena_take_n(&r->arena, a->n_prompt, sizeof *ids);
    for (uint32_t i = 0; ids && i < a->n_prompt; i++)
        ids[i] = id_at(a, number, i);
    r->prompt = ids;
    r->n_prompt = a->n_prompt;
    r->max_tokens = a->n_output;
    r->session = a->session;
    r->sampling.seed = number;
    r->owner = &w->jobs[number];
    if (ids && request_init_choices(r, 1) == OK) return r;
    request_free(r);
    return NULL;
}

static uint32_t choose_lane(struct world *w, const struct request *r)
{
    const uint32_t home = steer_home(&w->steer, r->session);
    for (uint32_t i = 0; i < w->n_lane; i++) {
        const struct sim_lane *l = &w->lanes[i];
        const struct sched_stats s = sched_stats_get(l->sched);
        w->figures[i] = (struct steer_lane){
            .is_open = true,
            .is_far = l->is_far,
            .n_slot = s.n_slot,
            .n_running = s.n_running,
            .n_waiting = s.n_waiting,
            .n_page_room = s.n_page - s.n_page_used,
            .n_page = sched_pages(l->sched, r),
            .n_known = w->n_lane <= ASK_ALL_LANES || i == home ? sched_known(l->sched, r) : 0,
            .step_us = l->timing->speed.step_us,
            .row_us = l->timing->speed.row_us,
            .prompt_us = l->timing->speed.prompt_us,
        };
    }
    const struct steer_ask ask = {
        .session = r->session, .n_choice = 1, .n_prompt = r->n_prompt, .n_output = r->max_tokens};
    return steer_choose(&w->steer, w->figures, w->n_lane, &ask);
}

static void arrive(struct world *w, uint32_t number)
{
    struct job *j = &w->jobs[number];
    struct err_text why;
    j->asked = &w->ask->trace->requests[number];
    j->arrived_ns = w->now_ns;
    const bool fits = (uint64_t)j->asked->n_prompt + j->asked->n_output <= w->ask->ctx;
    j->req = fits ? make_request(w, number) : NULL;
    if (fits && !j->req) fail(w, ERR_MEMORY, "no memory for a request");
    const uint32_t lane = j->req ? choose_lane(w, j->req) : STEER_NONE;
    if (lane == STEER_NONE ||
        sched_submit(w->lanes[lane].sched, j->req, w->now_ns / 1000, &why) != OK) {
        w->out->n_refused++;
        request_free(j->req);
        j->req = NULL;
        return;
    }
    steer_remember(&w->steer, j->asked->session, lane);
    w->lanes[lane].n_request++;
    pump(w, lane);
}

// -- the whole --

static err_t open_lane(struct world *w, uint32_t i)
{
    const struct simulate_ask *a = w->ask;
    struct sim_lane *l = &w->lanes[i];
    l->timing = &w->timings[i % a->n_lane];
    if (a->kv_tokens / PAGE_TOK > STEP_PAGES_MAX)
        return err_say(w->why, ERR_CONFIG, "a lane keeps %llu tokens, at most %llu are allowed",
                       (unsigned long long)a->kv_tokens,
                       (unsigned long long)STEP_PAGES_MAX * PAGE_TOK);
    const struct sched_config c = {
        .epoch = 1,
        .n_stage = l->timing->in_flight - 1,
        .in_flight = l->timing->in_flight,
        .n_slot = a->n_slot,
        .n_page = (uint32_t)(a->kv_tokens / PAGE_TOK),
        .page_tok = PAGE_TOK,
        .max_tok = a->max_tok,
        .piece_tok = l->timing->piece_tok,
        .max_rows = a->n_slot < 2               ? 2
                    : a->n_slot < STEP_ROWS_MAX ? a->n_slot
                                                : STEP_ROWS_MAX,
        .ctx = a->ctx,
        .queue_max = a->queue_max,
        .prefix_cache = true,
        .chain = true,
    };
    l->in_flight = c.in_flight;
    l->is_far = l->timing->control_ns > FAR_US * 1000;
    l->sched = sched_new(a->queue_max);
    l->flights = calloc(l->in_flight, sizeof *l->flights);
    l->owner = calloc(a->n_slot, sizeof *l->owner);
    if (!l->sched || !l->flights || !l->owner)
        return err_say(w->why, ERR_MEMORY, "no memory for lane %u", i);
    err_t e = sched_configure(l->sched, &c);
    return e ? err_say(w->why, e, "lane %u cannot be scheduled: %s", i, err_name(e)) : OK;
}

static err_t open_world(struct world *w)
{
    const struct simulate_ask *a = w->ask;
    w->n_lane = a->n_copy * a->n_lane;
    w->timings = calloc(a->n_lane, sizeof *w->timings);
    w->lanes = calloc(w->n_lane, sizeof *w->lanes);
    w->figures = calloc(w->n_lane, sizeof *w->figures);
    w->jobs = calloc(a->trace->n, sizeof *w->jobs);
    // Each lane has as many results on their way as steps.
    w->heap = calloc((size_t)w->n_lane * (CLUSTER_DEVICES_MAX + 1 + PLAN_ROAD_STEPS_MAX),
                     sizeof *w->heap);
    w->out->lanes = calloc(w->n_lane, sizeof *w->out->lanes);
    if (!w->timings || !w->lanes || !w->figures || !w->jobs || !w->heap || !w->out->lanes)
        return err_say(w->why, ERR_MEMORY, "no memory for the simulation");
    err_t e = OK;
    for (uint32_t i = 0; i < a->n_lane && !e; i++) {
        e = timing_open(&w->timings[i], a, &a->lanes[i]);
        if (!e) w->timings[i].speed = speed_of(&w->timings[i], a);
    }
    for (uint32_t i = 0; i < w->n_lane && !e; i++)
        e = open_lane(w, i);
    return e;
}

static void close_world(struct world *w)
{
    for (uint32_t i = 0; i < w->ask->trace->n && w->jobs; i++)
        if (w->jobs[i].req) request_free(w->jobs[i].req);
    for (uint32_t i = 0; i < w->n_lane && w->lanes; i++) {
        struct sim_lane *l = &w->lanes[i];
        for (uint32_t k = 0; k < l->n_flight; k++)
            free(l->flights[(l->head + k) % l->in_flight].items);
        if (l->sched) sched_free(l->sched);
        free(l->flights);
        free(l->owner);
    }
    for (uint32_t i = 0; i < w->ask->n_lane && w->timings; i++)
        free(w->timings[i].memos);
    free(w->timings);
    free(w->lanes);
    free(w->figures);
    free(w->jobs);
    free(w->heap);
    free(w->ttft.at);
    free(w->itl.at);
    free(w->e2e.at);
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static struct simulate_times times_of(struct list_of *l)
{
    struct simulate_times t = {0};
    if (!l->n) return t;
    qsort(l->at, l->n, sizeof *l->at, by_size);
    for (size_t i = 0; i < l->n; i++)
        t.mean += (double)l->at[i] / (double)l->n;
    t.p50 = (double)l->at[l->n / 2];
    t.p90 = (double)l->at[l->n * 9 / 10];
    t.p99 = (double)l->at[l->n * 99 / 100];
    t.most = (double)l->at[l->n - 1];
    return t;
}

static void fill_result(struct world *w)
{
    struct simulate_result *out = w->out;
    for (uint32_t i = 0; i < w->n_lane; i++) {
        const struct sim_lane *l = &w->lanes[i];
        const struct sched_stats s = sched_stats_get(l->sched);
        out->lanes[i].n_request = l->n_request;
        out->steps += s.steps;
        out->preemptions += s.preemptions;
        for (int32_t k = 0; k < l->timing->plan->n_stage && l->active_ns; k++)
            out->lanes[i].busy[k] = (double)l->busy_ns[k] / (double)l->active_ns;
    }
    const double from = w->ask->trace->requests[0].at_s;
    out->seconds = (double)w->now_ns / 1e9 - from;
    out->ttft = times_of(&w->ttft);
    out->itl = times_of(&w->itl);
    out->end_to_end = times_of(&w->e2e);
}

err_t simulate(const struct simulate_ask *ask, struct simulate_result *out, struct err_text *why)
{
    struct world *w = calloc(1, sizeof *w);
    if (!w) return err_say(why, ERR_MEMORY, "no memory for the simulation");
    *out = (struct simulate_result){0};
    w->ask = ask;
    w->out = out;
    w->why = why;
    w->err = open_world(w);
    const struct trace *t = ask->trace;
    uint32_t next = 0;
    while (!w->err && (next < t->n || w->n_event)) {
        const int64_t at = next < t->n ? (int64_t)(t->requests[next].at_s * 1e9) : INT64_MAX;
        if (w->n_event && w->heap[0].at_ns <= at) {
            const struct event e = heap_pop(w);
            w->now_ns = e.at_ns;
            on_result(w, e.lane);
        } else {
            w->now_ns = at;
            arrive(w, next++);
        }
    }
    const err_t e = w->err;
    if (!e) fill_result(w);
    close_world(w);
    free(w);
    if (e) {
        free(out->lanes);
        out->lanes = NULL;
    }
    return e;
}
