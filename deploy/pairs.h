// pairs: the links between workers in the answer of GET /v1/cluster: as a table, and, with the
// workers' own figures, as a cluster file.
#pragma once
#include "proto/base/err.h"

struct json;

// Prints nothing if there are no pairs.
void pairs_draw(const struct json *cluster);
// The workers that are connected now and the links that were measured, for `trireme plan
// --cluster`. Pairs of which nothing is known become links of shared memory on one host, else none.
// ERR_CAPACITY: there are no workers.
err_t pairs_save(const struct json *cluster, const char *path, struct err_text *why);
