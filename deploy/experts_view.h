// experts_view: who computes which experts and what is asked of them, out of the answer of GET
// /v1/cluster/experts (coordinator/fleet/usage.h describes the shape).
#pragma once

struct json;

// A table for each lane whose model has experts; a line that says so if there is none.
void experts_view_draw(const struct json *cluster);
