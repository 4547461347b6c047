// metrics: what is counted over the coordinator's life, and its text for Prometheus (exposition
// format 0.0.4). vllm:* names mean what vLLM means by them, so that dashboards and gateways made
// for it read them; trireme_* are our own. Labels never name a request.
#pragma once
#include "coordinator/fleet/fleet.h"
#include "coordinator/schedule/sched.h"

enum { METRICS_BUCKETS_MAX = 24, METRICS_RATE_S = 10 };

struct metrics_histogram {
    uint64_t n, buckets[METRICS_BUCKETS_MAX];
    double sum;
};

// One row of a table in metrics.c each; the order is that of the output.
enum metrics_histogram_id {
    METRICS_TTFT,
    METRICS_ITL,
    METRICS_REQUEST_TPOT,
    METRICS_E2E,
    METRICS_QUEUE,
    METRICS_INFERENCE,
    METRICS_PREFILL,
    METRICS_DECODE,
    METRICS_PROMPT_TOKENS,
    METRICS_GENERATION_TOKENS,
    METRICS_MAX_TOKENS,
    METRICS_N,
    METRICS_STEP_TOKENS,
    METRICS_HISTOGRAMS
};

struct metrics {
    struct metrics_histogram histograms[METRICS_HISTOGRAMS];
    uint64_t finished[FINISH_ERROR + 1]; // requests by the reason of their last choice
    uint64_t nonfinite;                  // requests ended by logits that were no numbers
    uint64_t moved;                      // requests that went on after a loss
    uint64_t refused_busy, refused_capacity;
    uint64_t generated; // tokens
    // Generated tokens per second of the clock, for the rate over the last METRICS_RATE_S.
    uint32_t per_s[METRICS_RATE_S + 1];
    int64_t second[METRICS_RATE_S + 1];
};

void metrics_observe(struct metrics *m, enum metrics_histogram_id id, double value);
void metrics_token(struct metrics *m, int64_t now_us);
// A request is over, well or not: fills the histograms from its own figures.
void metrics_request(struct metrics *m, const struct request *r, enum finish reason);
double metrics_tokens_per_s(const struct metrics *m, int64_t now_us);

struct metrics_view {
    const struct metrics *metrics;
    const struct sched *scheds[FLEET_LANES_MAX]; // of each lane; some have nothing
    const struct fleet *fleet;
    const char *model;
    int64_t result_us; // last result; 0: none
};
// Over all lanes.
struct sched_stats metrics_sum(const struct metrics_view *v);
void metrics_write(const struct metrics_view *v, struct buf *out);
