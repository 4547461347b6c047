// watch: who wants to be called while the host waits for a device (device_watch).
#pragma once
#include "proto/base/err.h"

enum { WATCHERS_MAX = 4 };

struct watchers {
    int n;
    struct watcher {
        void (*rest)(void *arg, int64_t since_us);
        void *arg;
    } of[WATCHERS_MAX];
};

static inline bool watch_add(struct watchers *w, void (*rest)(void *arg, int64_t since_us),
                             void *arg)
{
    if (w->n == WATCHERS_MAX) return false;
    w->of[w->n].rest = rest;
    w->of[w->n++].arg = arg;
    return true;
}

static inline void watch_remove(struct watchers *w, const void *arg)
{
    int n = 0;
    for (int i = 0; i < w->n; i++)
        if (w->of[i].arg != arg) w->of[n++] = w->of[i];
    w->n = n;
}

static inline void watch_rest(const struct watchers *w, int64_t since_us)
{
    for (int i = 0; i < w->n; i++)
        w->of[i].rest(w->of[i].arg, since_us);
}
