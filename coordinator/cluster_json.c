#include "coordinator/cluster_json.h"
#include "coordinator/pairs_json.h"
#include "proto/base/hex.h"
#include <math.h>
#include <string.h>
#include <time.h>

enum { REQUESTS_MAX = 256 };

static void str(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_str(b, value, strlen(value));
}

static void hex(struct buf *b, const char *key, const uint8_t hash[32])
{
    char text[65];
    hex_write(hash, 32, text);
    str(b, key, text);
}

static void num(struct buf *b, const char *key, double value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_num(b, value);
}

static void whole(struct buf *b, const char *key, uint64_t value)
{
    buf_printf(b, "\"%s\":%llu", key, (unsigned long long)value);
}

static void boolean(struct buf *b, const char *key, bool value)
{
    buf_printf(b, "\"%s\":%s", key, value ? "true" : "false");
}

// The list's items separate themselves: a comma before each but the first.
static void comma(struct buf *b, bool *is_first)
{
    if (!*is_first) buf_char(b, ',');
    *is_first = false;
}

static void write_model(const struct cluster_json *c, struct buf *b)
{
    const struct model *m = c->model;
    uint64_t bytes = 0;
    for (int32_t i = 0; i < m->n_weight; i++)
        bytes += m->weights[i].bytes;
    buf_str(b, "\"model\":{");
    str(b, "id", c->view.model), buf_char(b, ',');
    str(b, "name", m->shape.name), buf_char(b, ',');
    str(b, "arch", m->shape.arch), buf_char(b, ',');
    hex(b, "hash", m->hash), buf_char(b, ',');
    whole(b, "ctx", c->ctx), buf_char(b, ',');
    whole(b, "n_layer", (uint64_t)m->shape.n_layer), buf_char(b, ',');
    str(b, "quant", m->quant), buf_char(b, ',');
    whole(b, "n_vocab", (uint64_t)m->shape.n_vocab), buf_char(b, ',');
    whole(b, "weight_bytes", bytes), buf_char(b, '}');
}

static void write_bytes(struct buf *b, const char *key, uint64_t weight, uint64_t kv, uint64_t work)
{
    buf_printf(b, "\"%s\":{", key);
    whole(b, "weight_bytes", weight), buf_char(b, ',');
    whole(b, "kv_bytes", kv), buf_char(b, ',');
    whole(b, "work_bytes", work), buf_char(b, '}');
}

static void write_member(const struct fleet_lane *fl, const struct place_member *m, struct buf *b)
{
    const struct lane *l = &fl->lane;
    const struct fleet_worker *w = fleet_worker(fl->fleet, m->worker);
    const struct msg_heartbeat none = {0};
    const struct msg_heartbeat *beat = w && w->beat.epoch == l->epoch ? &w->beat : &none;
    bool is_loaded = w && l->workers[m->worker].role >= LANE_PREPARED;
    uint64_t span = beat->busy_us + beat->wait_us;
    str(b, "worker", w ? w->hello.name : ""), buf_char(b, ',');
    num(b, "part", (double)m->part / SHARE_TOTAL), buf_char(b, ',');
    write_bytes(b, "planned", m->weight_bytes, m->kv_bytes, m->work_bytes), buf_char(b, ',');
    if (is_loaded)
        write_bytes(b, "used", w->weight_bytes, w->kv_bytes, w->work_bytes);
    else
        write_bytes(b, "used", 0, 0, 0);
    buf_char(b, ',');
    num(b, "busy_share", span ? (double)beat->busy_us / (double)span : 0), buf_char(b, ',');
    num(b, "exchange_share", span ? (double)beat->exchange_us / (double)span : 0);
    buf_char(b, ',');
    num(b, "bubble_share", w ? fleet_worker_bubble(w) : 0);
    buf_char(b, ',');
    whole(b, "step_done", beat->step_done), buf_char(b, ',');
    num(b, "step_ms", beat->step_done ? (double)beat->busy_us / 1e3 / (double)beat->step_done : 0);
    buf_char(b, ',');
    whole(b, "load_ms", is_loaded ? w->load_ms : 0);
}

// What is said of the lead, then of every member: a stage of one worker reads as it always did.
static void write_stage(const struct fleet_lane *fl, const struct place_stage *s, struct buf *b)
{
    const struct place *p = &fl->lane.place;
    buf_char(b, '{');
    buf_printf(b, "\"layers\":[%u,%u],", s->layer_from, s->layer_to);
    boolean(b, "embed", s->embed), buf_char(b, ',');
    boolean(b, "head", s->head), buf_char(b, ',');
    str(b, "split", share_split_name(s->split)), buf_char(b, ',');
    num(b, "decode_us_predicted", s->decode_us), buf_char(b, ',');
    write_member(fl, &p->members[s->first], b);
    buf_str(b, ",\"members\":[");
    for (uint32_t i = 0; i < s->n_member; i++) {
        buf_str(b, i ? ",{" : "{");
        write_member(fl, &p->members[s->first + i], b);
        buf_char(b, '}');
    }
    buf_str(b, "]}");
}

static void write_settings(const struct plan_settings *s, struct buf *b)
{
    buf_str(b, "\"settings\":{");
    whole(b, "ctx", s->ctx), buf_char(b, ',');
    whole(b, "page_tok", s->page_tok), buf_char(b, ',');
    whole(b, "n_page", s->n_page), buf_char(b, ',');
    whole(b, "n_page_local", s->n_page_local), buf_char(b, ',');
    whole(b, "n_snapshot", s->n_snapshot), buf_char(b, ',');
    whole(b, "n_slot", s->n_slot), buf_char(b, ',');
    whole(b, "max_tok", s->max_tok), buf_char(b, ',');
    whole(b, "max_rows", s->max_rows), buf_char(b, ',');
    whole(b, "in_flight", s->in_flight), buf_char(b, ',');
    str(b, "kv_dtype", dtype_info(s->kv_dtype)->name), buf_char(b, ',');
    whole(b, "precision", s->precision), buf_char(b, '}');
}

static void write_lane(const struct cluster_json *c, const struct fleet_lane *fl, struct buf *b)
{
    const struct lane *l = &fl->lane;
    const struct sched_stats s = sched_stats_get(c->view.scheds[fl->number]);
    struct err_text now;
    lane_describe(l, &now);
    buf_char(b, '{');
    str(b, "name", fl->name), buf_char(b, ',');
    str(b, "state", lane_state_name(l->state)), buf_char(b, ',');
    str(b, "reason", now.s), buf_char(b, ',');
    boolean(b, "draining", fl->is_draining), buf_char(b, ',');
    boolean(b, "far", fleet_lane_is_far(fl)), buf_char(b, ',');
    whole(b, "epoch", l->epoch), buf_char(b, ',');
    whole(b, "n_stage_wanted", fl->want.n_stage), buf_char(b, ',');
    whole(b, "n_worker_wanted", l->config.n_wanted), buf_char(b, ',');
    whole(b, "running", s.n_running), buf_char(b, ',');
    whole(b, "waiting", s.n_waiting), buf_char(b, ',');
    whole(b, "steps", s.steps), buf_char(b, ',');
    whole(b, "pages_used", s.n_page_used), buf_char(b, ',');
    if (l->place.n_stage) {
        hex(b, "plan", l->place.hash), buf_char(b, ',');
        str(b, "road", l->place.road == ROAD_LOCAL ? "local" : "ucx"), buf_char(b, ',');
        write_settings(&l->place.settings, b), buf_char(b, ',');
    }
    buf_str(b, "\"stages\":[");
    for (uint32_t i = 0; i < l->place.n_stage; i++) {
        if (i) buf_char(b, ',');
        write_stage(fl, &l->place.stages[i], b);
    }
    buf_str(b, "]}");
}

static void write_lanes(const struct cluster_json *c, struct buf *b)
{
    bool is_first = true;
    buf_str(b, "\"lanes\":[");
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->view.fleet, i);
        if (!fl) continue;
        comma(b, &is_first);
        write_lane(c, fl, b);
    }
    buf_char(b, ']');
}

static void write_device(const struct msg_device *d, struct buf *b)
{
    buf_str(b, "\"device\":{");
    str(b, "name", d->name), buf_char(b, ',');
    str(b, "kind", d->kind), buf_char(b, ',');
    str(b, "isa", d->isa), buf_char(b, ',');
    whole(b, "threads", d->threads), buf_char(b, ',');
    num(b, "read_bytes_per_s", d->read_bytes_per_s), buf_char(b, ',');
    num(b, "int8_ops_per_s", d->int8_ops_per_s), buf_char(b, ',');
    num(b, "f32_flops_per_s", d->f32_flops_per_s), buf_char(b, ',');
    boolean(b, "unified", d->unified), buf_char(b, ',');
    whole(b, "n_core", d->n_core), buf_char(b, ',');
    whole(b, "n_numa", d->n_numa), buf_char(b, ',');
    whole(b, "l2_bytes", d->l2_bytes), buf_char(b, ',');
    whole(b, "l3_bytes", d->l3_bytes), buf_char(b, ',');
    num(b, "host_read_bytes_per_s", d->host_read_bytes_per_s), buf_char(b, '}');
}

static void write_worker(const struct cluster_json *c, const struct fleet_worker *w, struct buf *b)
{
    const struct fleet_lane *fl = fleet_lane(c->view.fleet, w->lane);
    const int64_t expires_s = w->tether->link ? w->tether->link->expires_s : 0;
    buf_char(b, '{');
    str(b, "name", w->hello.name), buf_char(b, ',');
    whole(b, "number", w->number), buf_char(b, ',');
    str(b, "host", w->hello.host), buf_char(b, ',');
    whole(b, "pid", w->hello.pid), buf_char(b, ',');
    str(b, "build", w->hello.build), buf_char(b, ',');
    str(b, "lane", fl ? fl->name : ""), buf_char(b, ',');
    str(b, "state", fleet_worker_state(w)), buf_char(b, ',');
    boolean(b, "has_model", w->has_model), buf_char(b, ',');
    write_device(&w->hello.devices[0], b), buf_char(b, ',');
    num(b, "disk_bytes_per_s", w->hello.disk_bytes_per_s), buf_char(b, ',');
    buf_str(b, "\"mem\":{");
    whole(b, "total_bytes", w->hello.devices[0].mem_bytes), buf_char(b, ',');
    whole(b, "usable_bytes", w->hello.devices[0].mem_free_bytes), buf_char(b, ',');
    whole(b, "used_bytes", w->beat.mem_used_bytes), buf_char(b, ',');
    whole(b, "free_bytes", w->beat.mem_free_bytes), buf_str(b, "},");
    num(b, "heartbeat_age_ms", (double)(c->now_us - w->beat_us) / 1e3), buf_char(b, ',');
    num(b, "connected_s", (double)(c->now_us - w->joined_us) / 1e6), buf_char(b, ',');
    whole(b, "fetched_bytes", w->beat.fetched_bytes), buf_char(b, ',');
    whole(b, "fetch_bytes", w->beat.fetch_bytes), buf_char(b, ',');
    num(b, "trip_ms", w->n_trip ? (double)w->trip_us / 1e3 : NAN), buf_char(b, ',');
    num(b, "slow_factor", w->slow_factor), buf_char(b, ',');
    num(b, "certificate_s", expires_s ? (double)(expires_s - time(NULL)) : NAN), buf_char(b, ',');
    str(b, "road", w->transport), buf_char(b, ','); // to the next stage, or within its own
    whole(b, "failures", fl ? fl->lane.workers[w->number].n_strike : 0), buf_char(b, '}');
}

static void write_workers(const struct cluster_json *c, struct buf *b)
{
    bool is_first = true;
    buf_str(b, "\"workers\":[");
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        const struct fleet_worker *w = fleet_worker(c->view.fleet, i);
        if (!w) continue;
        comma(b, &is_first);
        write_worker(c, w, b);
    }
    buf_char(b, ']');
}

static void write_links_of(const struct fleet_lane *fl, bool *is_first, struct buf *b)
{
    const struct place *p = &fl->lane.place;
    for (uint32_t i = 0; i + 1 < p->n_stage; i++) {
        const struct fleet_worker *from =
            fleet_worker(fl->fleet, p->members[p->stages[i].first].worker);
        const struct fleet_worker *to =
            fleet_worker(fl->fleet, p->members[p->stages[i + 1].first].worker);
        if (!from || !to) continue;
        comma(b, is_first);
        buf_char(b, '{');
        str(b, "from", from->hello.name), buf_char(b, ',');
        str(b, "to", to->hello.name), buf_char(b, ',');
        str(b, "transport", from->transport), buf_char(b, ',');
        num(b, "latency_us", from->next_latency_us), buf_char(b, ',');
        num(b, "bytes_per_s", from->next_bytes_per_s), buf_char(b, ',');
        whole(b, "bytes", from->beat.frame_bytes_out), buf_char(b, '}');
    }
}

static void write_links(const struct cluster_json *c, struct buf *b)
{
    bool is_first = true;
    buf_str(b, "\"links\":[");
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->view.fleet, i);
        if (fl) write_links_of(fl, &is_first, b);
    }
    buf_char(b, ']');
}

// A request is where its furthest choice is.
static const char *phase_of(const struct request *r, uint64_t *n_generated)
{
    static const char *const names[] = {"queued", "prefill", "decode"};
    enum choice_state furthest = CHOICE_QUEUED;
    *n_generated = 0;
    for (uint32_t i = 0; i < r->n_choice; i++) {
        const struct choice *c = &r->choices[i];
        *n_generated += c->n_generated;
        if (c->state != CHOICE_DONE && c->state > furthest) furthest = c->state;
    }
    return names[furthest];
}

static void write_request(const struct cluster_json *c, const struct request *r, uint32_t lane,
                          struct buf *b)
{
    uint64_t n_generated;
    const char *phase = phase_of(r, &n_generated);
    buf_char(b, '{');
    str(b, "id", r->id), buf_char(b, ',');
    whole(b, "lane", lane), buf_char(b, ',');
    str(b, "phase", phase), buf_char(b, ',');
    whole(b, "n_choice", r->n_choice), buf_char(b, ',');
    whole(b, "n_prompt", r->n_prompt), buf_char(b, ',');
    whole(b, "n_prefilled", r->n_prefilled), buf_char(b, ',');
    whole(b, "n_cached", r->n_cached), buf_char(b, ',');
    whole(b, "n_generated", n_generated), buf_char(b, ',');
    num(b, "age_s", (double)(c->now_us - r->arrived_us) / 1e6), buf_char(b, '}');
}

static void write_requests(const struct cluster_json *c, struct buf *b)
{
    bool is_first = true;
    int n = 0;
    buf_str(b, "\"requests\":[");
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct request *r = NULL;
        while (n < REQUESTS_MAX && (r = sched_request_next(c->view.scheds[i], r))) {
            comma(b, &is_first);
            write_request(c, r, i, b);
            n++;
        }
    }
    buf_char(b, ']');
}

static void write_totals(const struct cluster_json *c, struct buf *b)
{
    struct sched_stats s = metrics_sum(&c->view);
    buf_str(b, "\"kv\":{");
    whole(b, "page_tok", PLACE_PAGE_TOK), buf_char(b, ',');
    whole(b, "pages_total", s.n_page), buf_char(b, ',');
    whole(b, "pages_used", s.n_page_used), buf_char(b, ',');
    whole(b, "pages_cached", s.n_page_cached), buf_char(b, ',');
    whole(b, "local_pages_total", s.n_page_local), buf_char(b, ',');
    whole(b, "local_pages_used", s.n_page_local_used), buf_char(b, ',');
    whole(b, "snapshots_total", s.n_snapshot), buf_char(b, ',');
    whole(b, "snapshots_cached", s.n_snapshot_cached), buf_str(b, "},");
    write_requests(c, b);
    buf_str(b, ",\"totals\":{");
    num(b, "tokens_per_s", metrics_tokens_per_s(c->view.metrics, c->now_us)), buf_char(b, ',');
    whole(b, "running", s.n_running), buf_char(b, ',');
    whole(b, "waiting", s.n_waiting), buf_char(b, ',');
    whole(b, "generated_tokens", c->view.metrics->generated), buf_char(b, ',');
    whole(b, "prompt_tokens", s.prompt_tokens), buf_char(b, ',');
    whole(b, "steps", s.steps), buf_char(b, ',');
    whole(b, "preemptions", s.preemptions), buf_char(b, ',');
    num(b, "result_age_s", c->view.result_us ? (double)(c->now_us - c->view.result_us) / 1e6 : NAN),
        buf_char(b, ',');
    whole(b, "worker_deaths", fleet_stats_get(c->view.fleet).deaths), buf_char(b, ',');
    num(b, "prefix_hit_share",
        s.prefix_queries ? (double)s.prefix_hits / (double)s.prefix_queries : 0);
    buf_char(b, '}');
}

void cluster_json_write(const struct cluster_json *c, struct buf *b)
{
    buf_char(b, '{');
    str(b, "cluster", fleet_cluster(c->view.fleet)), buf_char(b, ',');
    str(b, "state", c->state), buf_char(b, ',');
    str(b, "reason", c->reason), buf_char(b, ',');
    whole(b, "epoch", fleet_epoch(c->view.fleet)), buf_char(b, ',');
    num(b, "uptime_s", (double)(c->now_us - c->started_us) / 1e6), buf_char(b, ',');
    write_model(c, b), buf_char(b, ',');
    write_lanes(c, b), buf_char(b, ',');
    write_workers(c, b), buf_char(b, ',');
    write_links(c, b), buf_char(b, ',');
    pairs_json_write(c->view.fleet, b), buf_char(b, ',');
    write_totals(c, b), buf_char(b, '}');
}

void cluster_json_experts(const struct cluster_json *c, struct buf *b)
{
    bool is_first = true;
    buf_str(b, "{\"lanes\":[");
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct fleet_lane *fl = fleet_lane(c->view.fleet, i);
        if (!fl) continue;
        comma(b, &is_first);
        buf_char(b, '{');
        str(b, "name", fl->name), buf_str(b, ",\"experts\":");
        fleet_experts_json(fl, b);
        buf_char(b, '}');
    }
    buf_str(b, "]}");
}
