// pool: threads that help the compute thread through one parallel loop at a time.
//
// A region is open from pool_run's beginning until its items are used up. Threads that arrive in
// time take items from a shared counter; a thread that the system has not scheduled yet is not
// waited for, so more threads than cores cost throughput but never a stall. Idle threads spin for
// a bounded time (regions follow each other within microseconds while a step runs), then sleep.
#pragma once
#include "proto/base/err.h"

enum { POOL_THREADS_MAX = 256 };

struct pool;

// Item `item` of a region, on thread `thread` (0: the caller of pool_run).
typedef void pool_fn(void *arg, int32_t item, int32_t thread);

// `n_threads` counts the caller: 1 starts no thread at all. ERR_MEMORY, ERR_SYSTEM.
err_t pool_open(int32_t n_threads, struct pool **out);
// Joins the threads. No region may be running.
void pool_close(struct pool *p);

// Runs fn(arg, i, thread) once for every i in [0, n_item), in any order, and returns when all are
// done. Called by one thread at a time.
void pool_run(struct pool *p, int32_t n_item, pool_fn *fn, void *arg);
// Grows with every region and with every item the caller takes. Any thread may read it.
uint64_t pool_progress(const struct pool *p);
// How long pool_run has waited for the other threads, in all.
uint64_t pool_wait_ns(const struct pool *p);
