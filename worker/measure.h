// measure: what only running something on this machine tells: read bandwidth and peaks. Kept in a
// folder under a name made of the hardware, so that a restart measures nothing; several processes
// that start at once measure one after the other, or rather the first one does.
#pragma once
#include "kernels/kernels.h"
#include "proto/base/buf.h"
#include "topology/probe.h"

enum {
    MEASURE_KEY_BYTES = 33,
    MEASURE_DAYS = 30, // kept figures are taken for so long
};

struct measure_ask {
    const char *dir;    // of kept figures, created if it is missing; NULL: nothing is kept
    const char *isa;    // the backend's name, as measure_isa gives it
    const char *device; // kernels_open's, of a device that is not the CPU; NULL: the CPU
    int32_t n_threads;
    bool refresh; // measure whatever is kept
};

struct measure {
    struct kernels_peaks peaks;
    bool is_kept;   // read, not measured now
    int64_t unix_s; // when they were measured
};

// What is kept is the machine's; what is given, the part of it that a CPU quota leaves. Takes about
// 0.7 s if nothing is kept. A folder that cannot be used costs a warning, no more.
err_t measure_machine(const struct probe *p, const struct measure_ask *ask, struct measure *out,
                      struct err_text *why);

// How fast the volume of this file is read past the page cache; kept by the volume's name. Takes up
// to 0.3 s; 0 if it cannot be told, which is logged.
double measure_disk(const char *path, const char *dir);

// What a backend calls itself, or why it cannot be opened. device: of kernels_open.
err_t measure_isa(const char *device, char out[32], struct err_text *why);

// Figures of other kinds, kept by the same rules: the CPU's model, cores and threads, memory, the
// backend, this program's file and the number of threads make the key.
void measure_key(const struct probe *p, const struct measure_ask *ask, char out[MEASURE_KEY_BYTES]);
// One measurement at a time on a machine, or they would measure each other. -1: there is no lock to
// be had, which only costs accuracy. Whoever gets it looks first what others have kept meanwhile.
int measure_lock(const char *dir);
void measure_unlock(int lock);
// The text kept as `what` ([a-z]+) under this key, appended to out; ERR_NOT_FOUND if there is none,
// or none young enough.
err_t measure_kept(const char *dir, const char *what, const char *key, struct buf *out);
err_t measure_keep(const char *dir, const char *what, const char *key, const struct buf *text,
                   struct err_text *why);
