// cluster_json: the picture of the whole cluster as JSON, for GET /v1/cluster, `trireme status` and
// the page. The shape is stable: members are added, never renamed or removed.
//
// {
//   "cluster": str, "state": "loading|ready|degraded|no_capacity|draining", "reason": str,
//   "epoch": int, "uptime_s": num,
//   "model": {"id", "name", "arch", "hash": hex, "ctx", "n_layer", "n_vocab", "weight_bytes"},
//   "lanes": [{"name", "state": "waiting|loading|linking|ready|no_capacity", "reason", "draining",
//              "far", "epoch", "n_stage_wanted", "n_worker_wanted", "running", "waiting", "steps",
//              "pages_used", "plan": hex, "road": "local|ucx",
//              "settings": {"ctx", "page_tok", "n_page", "n_slot", "max_tok", "max_rows",
//              "in_flight", "kv_dtype", "precision"},
//              "stages": [{"layers": [from, to), "embed": bool, "head": bool,
//                          "split": "none|tensor|experts", "decode_us_predicted", what a member
//                          has (of the lead),
//                          "members": [{"worker": name, "part": 0..1,
//                          "planned": {"weight_bytes", "kv_bytes", "work_bytes"},
//                          "used": the same, "busy_share": 0..1, "exchange_share": of the time,
//                          waiting for the others, "bubble_share": of the time with steps on
//                          their way, waiting; "step_done", "step_ms": mean, "load_ms"}]}]}],
//   "workers": [{"name", "number", "host", "pid", "build", "lane": name, "state":
//                "standby|failed|loading|prepared|linking|serving|draining", "has_model", "device":
//                {"name", "kind", "isa", "threads", "read_bytes_per_s", "int8_ops_per_s",
//                "f32_flops_per_s", "unified", "n_core", "n_numa", "l2_bytes", "l3_bytes",
//                "host_read_bytes_per_s"}, "mem": {"total_bytes", "usable_bytes", "used_bytes",
//                "free_bytes"}, "heartbeat_age_ms", "connected_s", "trip_ms": round trip or null,
//                "fetched_bytes", "fetch_bytes": of the model, from us; 0: not fetching,
//                "slow_factor": its time over the planned one, by the others of its lane, while
//                that is much; else 0, "certificate_s": until its certificate expires, or null
//                (it has none: a worker of this machine's own process), "failures"}],
//   "links": [{"from", "to", "transport", "latency_us", "bytes_per_s", "bytes"}],
//   "kv": {"page_tok", "pages_total", "pages_used", "pages_cached"},
//   "requests": [{"id", "lane": number, "phase": "queued|prefill|decode", "n_choice", "n_prompt",
//   "n_prefilled",
//                 "n_cached", "n_generated", "age_s"}],     the oldest 256; no text, ever
//   "totals": {"tokens_per_s": over the last 10 s, "running", "waiting", "generated_tokens",
//              "prompt_tokens", "steps", "preemptions", "worker_deaths", "prefix_hit_share",
//              "result_age_s": since a step last came back, null before the first}
// }
#pragma once
#include "coordinator/metrics.h"

struct cluster_json {
    struct metrics_view view;
    const struct model *model;
    const char *state, *reason;
    uint32_t ctx;
    int64_t now_us, started_us;
};
void cluster_json_write(const struct cluster_json *c, struct buf *out);
// {"lanes": [{"name", "experts": fleet/usage.h's object, or null}]}, for GET /v1/cluster/experts.
void cluster_json_experts(const struct cluster_json *c, struct buf *out);
