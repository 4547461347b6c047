#include "coordinator/metrics.h"
#include "proto/base/clock.h"
#include "proto/base/hex.h"
#include <string.h>

// Upper bounds, ascending, ended by 0; +Inf is added when written.
static const double ttft_s[] = {.001, .005, .01, .02, .04, .06, .08, .1,  .25, .5,   .75, 1,
                                2.5,  5,    7.5, 10,  20,  40,  80,  160, 640, 2560, 0};
static const double itl_s[] = {.001, .002, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4,
                               .5,   .75,  1,    2.5, 5,    7.5, 10,   20, 40,  80, 0};
static const double request_s[] = {.05, .1, .3, .5, .8, 1,   1.5, 2,   2.5, 5,    10,   15,
                                   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680, 0};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,    500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 0};
static const double few[] = {1, 2, 5, 10, 20, 0};
static const double step_tokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 0};

static const struct {
    const char *name, *help;
    const double *bounds;
} histograms[METRICS_HISTOGRAMS] = {
    [METRICS_TTFT] = {"vllm:time_to_first_token_seconds", "Arrival to first token.", ttft_s},
    [METRICS_ITL] = {"vllm:inter_token_latency_seconds", "Time between two tokens of a choice.",
                     itl_s},
    [METRICS_REQUEST_TPOT] = {"vllm:request_time_per_output_token_seconds",
                              "Mean time per token after the first, by request.", itl_s},
    [METRICS_E2E] = {"vllm:e2e_request_latency_seconds", "Arrival to end.", request_s},
    [METRICS_QUEUE] = {"vllm:request_queue_time_seconds", "Arrival to admission.", request_s},
    [METRICS_INFERENCE] = {"vllm:request_inference_time_seconds", "Admission to end.", request_s},
    [METRICS_PREFILL] = {"vllm:request_prefill_time_seconds", "Admission to first token.",
                         request_s},
    [METRICS_DECODE] = {"vllm:request_decode_time_seconds", "First token to end.", request_s},
    [METRICS_PROMPT_TOKENS] = {"vllm:request_prompt_tokens", "Prompt tokens by request.", tokens},
    [METRICS_GENERATION_TOKENS] = {"vllm:request_generation_tokens",
                                   "Generated tokens by request, all choices.", tokens},
    [METRICS_MAX_TOKENS] = {"vllm:request_params_max_tokens", "max_tokens asked for.", tokens},
    [METRICS_N] = {"vllm:request_params_n", "Choices asked for.", few},
    [METRICS_STEP_TOKENS] = {"vllm:iteration_tokens_total", "Tokens of one step.", step_tokens},
};

void metrics_observe(struct metrics *m, enum metrics_histogram_id id, double value)
{
    struct metrics_histogram *h = &m->histograms[id];
    const double *bounds = histograms[id].bounds;
    h->n++;
    h->sum += value;
    for (uint32_t i = 0; bounds[i] > 0; i++)
        if (value <= bounds[i]) {
            h->buckets[i]++; // made cumulative when written
            return;
        }
}

void metrics_token(struct metrics *m, int64_t now_us)
{
    int64_t second = now_us / 1000000;
    uint32_t at = (uint32_t)(second % (METRICS_RATE_S + 1));
    if (m->second[at] != second) {
        m->second[at] = second;
        m->per_s[at] = 0;
    }
    m->per_s[at]++;
    m->generated++;
}

// Over the last whole seconds: the running one would make the rate jump.
double metrics_tokens_per_s(const struct metrics *m, int64_t now_us)
{
    int64_t now = now_us / 1000000;
    uint64_t n = 0;
    for (uint32_t i = 0; i <= METRICS_RATE_S; i++)
        if (m->second[i] < now && m->second[i] >= now - METRICS_RATE_S) n += m->per_s[i];
    return (double)n / METRICS_RATE_S;
}

static void observe_span(struct metrics *m, enum metrics_histogram_id id, int64_t from, int64_t to)
{
    if (from && to) metrics_observe(m, id, (double)(to - from) / 1e6);
}

void metrics_request(struct metrics *m, const struct request *r, enum finish reason)
{
    uint64_t n_generated = 0;
    for (uint32_t i = 0; i < r->n_choice; i++)
        n_generated += r->choices[i].n_generated;
    m->finished[reason]++;
    observe_span(m, METRICS_TTFT, r->arrived_us, r->first_token_us);
    observe_span(m, METRICS_E2E, r->arrived_us, r->finished_us);
    observe_span(m, METRICS_QUEUE, r->arrived_us, r->admitted_us);
    observe_span(m, METRICS_INFERENCE, r->admitted_us, r->finished_us);
    observe_span(m, METRICS_PREFILL, r->admitted_us, r->first_token_us);
    observe_span(m, METRICS_DECODE, r->first_token_us, r->finished_us);
    if (r->first_token_us && n_generated > r->n_choice)
        metrics_observe(m, METRICS_REQUEST_TPOT,
                        (double)(r->finished_us - r->first_token_us) / 1e6 * r->n_choice /
                            (double)(n_generated - r->n_choice));
    metrics_observe(m, METRICS_PROMPT_TOKENS, r->n_prompt);
    metrics_observe(m, METRICS_GENERATION_TOKENS, (double)n_generated);
    metrics_observe(m, METRICS_MAX_TOKENS, r->max_tokens);
    metrics_observe(m, METRICS_N, r->n_choice);
}

struct sched_stats metrics_sum(const struct metrics_view *v)
{
    struct sched_stats sum = {0};
    for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
        const struct sched_stats s = sched_stats_get(v->scheds[i]);
        sum.n_running += s.n_running;
        sum.n_waiting += s.n_waiting;
        sum.n_slot += s.n_slot;
        sum.n_page += s.n_page;
        sum.n_page_used += s.n_page_used;
        sum.n_page_cached += s.n_page_cached;
        sum.in_flight += s.in_flight;
        sum.n_page_local += s.n_page_local;
        sum.n_page_local_used += s.n_page_local_used;
        sum.n_page_local_cached += s.n_page_local_cached;
        sum.n_snapshot += s.n_snapshot;
        sum.n_snapshot_cached += s.n_snapshot_cached;
        sum.prefix_queries += s.prefix_queries;
        sum.prefix_hits += s.prefix_hits;
        sum.preemptions += s.preemptions;
        sum.prompt_tokens += s.prompt_tokens;
        sum.generated_tokens += s.generated_tokens;
        sum.steps += s.steps;
        sum.step_tokens += s.step_tokens;
    }
    return sum;
}

// -- writing --

struct writer {
    const struct metrics_view *v;
    struct buf *out;
    struct buf labels; // model_name="...",engine="0"
};

// A label's value: backslash, quote and newline are escaped; model names come from outside.
static void label(struct buf *b, const char *name, const char *value)
{
    buf_printf(b, "%s=\"", name);
    for (const char *p = value; *p; p++) {
        if (*p == '\\' || *p == '"') buf_char(b, '\\');
        if (*p == '\n')
            buf_str(b, "\\n");
        else
            buf_char(b, *p);
    }
    buf_char(b, '"');
}

static void head(struct writer *w, const char *name, const char *type, const char *help)
{
    buf_printf(w->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct writer *w, const char *name, const char *type, const char *help,
                   double value)
{
    head(w, name, type, help);
    buf_printf(w->out, "%s{%s} %.17g\n", name, w->labels.data, value);
}

static void histogram(struct writer *w, enum metrics_histogram_id id)
{
    const struct metrics_histogram *h = &w->v->metrics->histograms[id];
    const char *name = histograms[id].name, *labels = w->labels.data;
    const double *bounds = histograms[id].bounds;
    uint64_t below = 0;
    head(w, name, "histogram", histograms[id].help);
    for (uint32_t i = 0; bounds[i] > 0; i++) {
        below += h->buckets[i];
        buf_printf(w->out, "%s_bucket{%s,le=\"%g\"} %llu\n", name, labels, bounds[i],
                   (unsigned long long)below);
    }
    buf_printf(w->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, labels, (unsigned long long)h->n);
    buf_printf(w->out, "%s_sum{%s} %.9g\n%s_count{%s} %llu\n", name, labels, h->sum, name, labels,
               (unsigned long long)h->n);
}

static void write_finished(struct writer *w)
{
    static const struct {
        const char *reason;
        enum finish finish;
    } reasons[] = {{"stop", FINISH_STOP},
                   {"length", FINISH_LENGTH},
                   {"abort", FINISH_CANCELLED},
                   {"error", FINISH_ERROR}};
    head(w, "vllm:request_success_total", "counter", "Requests that ended, by reason.");
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        buf_printf(w->out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n",
                   w->labels.data, reasons[i].reason,
                   (unsigned long long)w->v->metrics->finished[reasons[i].finish]);
}

static void write_sched(struct writer *w)
{
    struct sched_stats s = metrics_sum(w->v);
    const struct metrics *m = w->v->metrics;
    single(w, "vllm:num_requests_running", "gauge", "Sequences being computed.", s.n_running);
    single(w, "vllm:num_requests_waiting", "gauge", "Sequences in the queue.", s.n_waiting);
    double usage = s.n_page ? (double)s.n_page_used / s.n_page : 0;
    single(w, "vllm:kv_cache_usage_perc", "gauge", "Share of KV pages in use, 0 to 1.", usage);
    single(w, "vllm:gpu_cache_usage_perc", "gauge", "Older name of vllm:kv_cache_usage_perc.",
           usage);
    single(w, "vllm:prompt_tokens_total", "counter", "Prompt tokens computed.",
           (double)s.prompt_tokens);
    single(w, "vllm:generation_tokens_total", "counter", "Tokens generated.", (double)m->generated);
    single(w, "vllm:num_preemptions_total", "counter", "Sequences sent back to the queue.",
           (double)s.preemptions);
    single(w, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up.",
           (double)s.prefix_queries);
    single(w, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found.",
           (double)s.prefix_hits);
    write_finished(w);
    if (w->v->result_us)
        single(w, "canary_age_seconds", "gauge", "Since a step last came back, a caller's or ours.",
               (double)(clock_now_us() - w->v->result_us) / 1e6);
    single(w, "trireme_steps_total", "counter", "Steps sent.", (double)s.steps);
    single(w, "trireme_steps_in_flight", "gauge", "Steps on their way.", s.in_flight);
    single(w, "trireme_kv_pages_cached", "gauge", "KV pages kept for their prefix only.",
           s.n_page_cached);
    single(w, "trireme_kv_local_pages_used", "gauge", "Pages of sliding-window layers in use.",
           s.n_page_local_used);
    single(w, "trireme_state_snapshots_cached", "gauge", "Snapshots of recurrent state kept.",
           s.n_snapshot_cached);
    single(w, "trireme_nonfinite_logits_total", "counter",
           "Requests ended because the logits held NaN or infinity.", (double)m->nonfinite);
    single(w, "trireme_requests_moved_total", "counter",
           "Running requests that had to begin again on a new placement.", (double)m->moved);
    single(w, "trireme_requests_refused_busy_total", "counter", "Refused: the queue was full.",
           (double)m->refused_busy);
    single(w, "trireme_requests_refused_capacity_total", "counter",
           "Refused: loading, shutting down, or no placement.", (double)m->refused_capacity);
}

// Lanes that have a plan, one after the other: from `from` on; FLEET_LANES_MAX: no more.
static uint32_t next_planned(const struct writer *w, uint32_t from)
{
    while (from < FLEET_LANES_MAX) {
        const struct fleet_lane *fl = fleet_lane(w->v->fleet, from);
        if (fl && fl->lane.place.n_stage) break;
        from++;
    }
    return from;
}

#define each_planned(w, i, fl)                                                                     \
    for (uint32_t i = next_planned(w, 0); i < FLEET_LANES_MAX; i = next_planned(w, i + 1))         \
        for (const struct fleet_lane *fl = fleet_lane((w)->v->fleet, i); fl; fl = NULL)

static void write_cache_config(struct writer *w)
{
    head(w, "vllm:cache_config_info", "gauge", "How the KV cache is laid out.");
    each_planned(w, i, fl)
    {
        const struct plan_settings *s = &fl->lane.place.settings;
        buf_printf(w->out,
                   "vllm:cache_config_info{%s,lane=\"%s\",block_size=\"%u\","
                   "num_gpu_blocks=\"%u\",cache_dtype=\"%s\"} 1\n",
                   w->labels.data, fl->name, s->page_tok, s->n_page, dtype_info(s->kv_dtype)->name);
    }
}

static void write_plan(struct writer *w)
{
    struct fleet_stats s = fleet_stats_get(w->v->fleet);
    single(w, "trireme_epoch", "gauge", "Newest plan epoch.", (double)fleet_epoch(w->v->fleet));
    single(w, "trireme_plans_total", "counter", "Plans sent out.", (double)s.plans);
    single(w, "trireme_worker_deaths_total", "counter", "Workers that left or were dropped.",
           (double)s.deaths);
    single(w, "trireme_workers_drained_total", "counter", "Workers that were asked to leave.",
           (double)s.drained);
    single(w, "trireme_joins_refused_total", "counter", "Connections refused.", (double)s.refused);
    head(w, "trireme_plan_id", "gauge", "The plans that serve or load.");
    each_planned(w, i, fl)
    {
        char plan[17];
        hex_write(fl->lane.place.hash, 8, plan);
        buf_printf(w->out, "trireme_plan_id{%s,lane=\"%s\",plan=\"%s\",state=\"%s\"} 1\n",
                   w->labels.data, fl->name, plan, lane_state_name(fl->lane.state));
    }
}

static double lane_up(const struct fleet_lane *fl, const struct sched_stats *s)
{
    (void)s;
    return fl->lane.state == LANE_READY;
}

static double lane_running(const struct fleet_lane *fl, const struct sched_stats *s)
{
    (void)fl;
    return s->n_running;
}

static double lane_waiting(const struct fleet_lane *fl, const struct sched_stats *s)
{
    (void)fl;
    return s->n_waiting;
}

static double lane_steps(const struct fleet_lane *fl, const struct sched_stats *s)
{
    (void)fl;
    return (double)s->steps;
}

static void write_lanes(struct writer *w)
{
    static const struct {
        const char *name, *type, *help;
        double (*value)(const struct fleet_lane *, const struct sched_stats *);
    } metrics[] = {
        {"trireme_lane_up", "gauge", "1: every stage of the lane answers.", lane_up},
        {"trireme_lane_running", "gauge", "Sequences being computed in the lane.", lane_running},
        {"trireme_lane_waiting", "gauge", "Sequences waiting in the lane.", lane_waiting},
        {"trireme_lane_steps_total", "counter", "Steps sent to the lane.", lane_steps},
    };
    for (size_t k = 0; k < sizeof metrics / sizeof *metrics; k++) {
        head(w, metrics[k].name, metrics[k].type, metrics[k].help);
        for (uint32_t i = 0; i < FLEET_LANES_MAX; i++) {
            const struct fleet_lane *fl = fleet_lane(w->v->fleet, i);
            if (!fl) continue;
            const struct sched_stats s = sched_stats_get(w->v->scheds[i]);
            buf_printf(w->out, "%s{%s,lane=\"%s\"} %.17g\n", metrics[k].name, w->labels.data,
                       fl->name, metrics[k].value(fl, &s));
        }
    }
}

// One metric with a line for each worker.
static void each_worker(struct writer *w, const char *name, const char *type, const char *help,
                        double (*value)(const struct fleet_worker *))
{
    head(w, name, type, help);
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        const struct fleet_worker *worker = fleet_worker(w->v->fleet, i);
        if (!worker) continue;
        buf_printf(w->out, "%s{%s,", name, w->labels.data);
        label(w->out, "node", worker->hello.name);
        buf_printf(w->out, "} %.17g\n", value(worker));
    }
}

static double worker_up(const struct fleet_worker *w)
{
    return fleet_worker_role(w) != LANE_OUT;
}

static double worker_epoch(const struct fleet_worker *w)
{
    return (double)w->beat.epoch;
}

static double worker_free(const struct fleet_worker *w)
{
    return (double)w->beat.mem_free_bytes;
}

static double worker_used(const struct fleet_worker *w)
{
    return (double)w->beat.mem_used_bytes;
}

static double worker_beat_age(const struct fleet_worker *w)
{
    return (double)(clock_now_us() - w->beat_us) / 1e6;
}

static double worker_trip(const struct fleet_worker *w)
{
    return (double)w->trip_us / 1e6;
}

static double worker_expiry(const struct fleet_worker *w)
{
    return w->tether->link ? (double)w->tether->link->expires_s : 0;
}

static void write_workers(struct writer *w)
{
    each_worker(w, "worker_up", "gauge", "1: connected and not marked as failed.", worker_up);
    each_worker(w, "worker_epoch", "gauge", "Plan epoch the worker is in.", worker_epoch);
    each_worker(w, "trireme_worker_mem_used_bytes", "gauge", "Memory the worker uses.",
                worker_used);
    each_worker(w, "trireme_worker_mem_free_bytes", "gauge", "Memory free on its machine.",
                worker_free);
    each_worker(w, "trireme_worker_trip_seconds", "gauge",
                "Shortest round trip of the control link, 0: unknown.", worker_trip);
    each_worker(w, "trireme_worker_heartbeat_age_seconds", "gauge", "Since its last heartbeat.",
                worker_beat_age);
    each_worker(w, "trireme_worker_certificate_expiry_timestamp_seconds", "gauge",
                "When its certificate expires, since 1970; 0: it has none.", worker_expiry);
}

struct stage_metric {
    const char *name, *type, *help;
    double (*value)(const struct fleet_worker *);
};

static double stage_time(const struct fleet_worker *w)
{
    return w->beat.step_done ? (double)w->beat.busy_us / 1e6 / (double)w->beat.step_done : 0;
}

static double stage_busy(const struct fleet_worker *w)
{
    return (double)w->beat.busy_us / 1e6;
}

static double stage_wait(const struct fleet_worker *w)
{
    return (double)w->beat.wait_us / 1e6;
}

static double stage_exchange(const struct fleet_worker *w)
{
    return (double)w->beat.exchange_us / 1e6;
}

static void write_stages_of(struct writer *w, const struct fleet_lane *fl,
                            const struct stage_metric *metric)
{
    const struct lane *l = &fl->lane;
    for (uint32_t i = 0; i < l->place.n_member; i++) {
        const struct place_member *m = &l->place.members[i];
        const struct fleet_worker *worker = fleet_worker(w->v->fleet, m->worker);
        if (!worker || worker->beat.epoch != l->epoch) continue;
        buf_printf(w->out, "%s{%s,lane=\"%s\",stage=\"%u\",", metric->name, w->labels.data,
                   fl->name, m->stage);
        label(w->out, "node", worker->hello.name);
        buf_printf(w->out, "} %.9g\n", metric->value(worker));
    }
}

static void write_stages(struct writer *w)
{
    static const struct stage_metric stages[] = {
        {"stage_time_seconds", "gauge", "Mean compute time of a step in this epoch.", stage_time},
        {"trireme_stage_busy_seconds", "gauge", "Compute time in this epoch.", stage_busy},
        {"trireme_stage_wait_seconds", "gauge", "Waiting time in this epoch.", stage_wait},
        {"trireme_stage_exchange_seconds", "gauge",
         "Compute time spent waiting for other members of the stage.", stage_exchange},
        {"trireme_stage_bubble_ratio", "gauge",
         "Share of the time in which the lane had steps on their way that the stage had to wait.",
         fleet_worker_bubble},
    };
    for (size_t k = 0; k < sizeof stages / sizeof *stages; k++) {
        head(w, stages[k].name, stages[k].type, stages[k].help);
        each_planned(w, i, fl) write_stages_of(w, fl, &stages[k]);
    }
}

static void write_links_of(struct writer *w, const struct fleet_lane *fl, const char *name,
                           bool is_rtt)
{
    const struct place *p = &fl->lane.place;
    for (uint32_t i = 0; i + 1 < p->n_stage; i++) {
        const struct fleet_worker *from =
            fleet_worker(w->v->fleet, p->members[p->stages[i].first].worker);
        const struct fleet_worker *to =
            fleet_worker(w->v->fleet, p->members[p->stages[i + 1].first].worker);
        if (!from || !to) continue;
        buf_printf(w->out, "%s{%s,", name, w->labels.data);
        label(w->out, "src", from->hello.name);
        buf_char(w->out, ',');
        label(w->out, "dst", to->hello.name);
        buf_char(w->out, ',');
        label(w->out, "path", from->transport);
        buf_printf(w->out, "} %.9g\n",
                   is_rtt ? 2 * from->next_latency_us / 1e6 : (double)from->beat.frame_bytes_out);
    }
}

static void write_links(struct writer *w)
{
    for (int is_rtt = 0; is_rtt < 2; is_rtt++) {
        const char *name = is_rtt ? "link_rtt_seconds" : "link_bytes_total";
        head(w, name, is_rtt ? "gauge" : "counter",
             is_rtt ? "Round trip between neighbouring stages, measured when they connected."
                    : "Bytes sent to the next stage, since the sender joined the epoch.");
        each_planned(w, i, fl) write_links_of(w, fl, name, is_rtt);
    }
}

void metrics_write(const struct metrics_view *v, struct buf *out)
{
    struct writer w = {.v = v, .out = out};
    label(&w.labels, "model_name", v->model);
    buf_str(&w.labels, ",engine=\"0\"");
    if (!buf_ok(&w.labels)) {
        out->broken = true;
        buf_fini(&w.labels);
        return;
    }
    write_sched(&w);
    write_cache_config(&w);
    for (int i = 0; i < METRICS_HISTOGRAMS; i++)
        histogram(&w, (enum metrics_histogram_id)i);
    write_plan(&w);
    write_lanes(&w);
    write_workers(&w);
    write_stages(&w);
    write_links(&w);
    buf_fini(&w.labels);
}
