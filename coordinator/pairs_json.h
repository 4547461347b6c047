// pairs_json: the links between all workers, as measured, for /v1/cluster:
//
//   "pairs":[{"from":"a","to":"b","state":"measured","transport":"ucx tcp","latency_us":31.5,
//             "bytes_per_s":1.17e8,"why":""}, ...]
//
// One entry per direction. state: "due" (not yet measured), "one process", "measured", "failed",
// "broken" (wrong bytes arrive); `why` of the last two.
#pragma once
#include "coordinator/fleet/fleet.h"
#include "proto/base/buf.h"

void pairs_json_write(const struct fleet *f, struct buf *b);
