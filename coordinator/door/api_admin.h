// Health, metrics, cluster, version, "/". None of them waits for anything.
#pragma once

struct exchange;

void api_admin_livez(struct exchange *x);  // the loop turns: nothing more is promised
void api_admin_readyz(struct exchange *x); // also /health: 200 only if tokens can be made
void api_admin_ping(struct exchange *x);
void api_admin_version(struct exchange *x);
void api_admin_metrics(struct exchange *x);
void api_admin_cluster(struct exchange *x);
void api_admin_experts(struct exchange *x);
void api_admin_root(struct exchange *x);
void api_admin_drain(struct exchange *x);
