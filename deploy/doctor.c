#include "deploy/doctor.h"

#include "topology/gpus.h"
#include "topology/probe.h"
#include "worker/measure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

enum {
    // A segment of UCX takes 2 MB for each peer and way, and a container has 64 MB unless told.
    SHM_WARN_BYTES = 64 << 20,
    SHM_BAD_BYTES = 8 << 20,
    // One for each caller, and some for workers, roads and files.
    FILES_WARN = 1024,
    FILES_BAD = 128,
    STATE_WARN_BYTES = 64 << 20, // keys, certificates and measured figures are small
    MEM_WARN_BYTES = 1 << 30,
};

void doctor_add(struct doctor *d, const char *area, enum doctor_level level, const char *remedy,
                const char *said, ...)
{
    BUG_ON(d->n == DOCTOR_FINDINGS_MAX);
    struct doctor_finding *f = &d->at[d->n++];
    va_list args;
    f->area = area;
    f->level = level;
    va_start(args, said);
    vsnprintf(f->said, sizeof f->said, said, args);
    va_end(args);
    snprintf(f->remedy, sizeof f->remedy, "%s", remedy ? remedy : "");
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

// ---- what probe knows

static void look_at_memory(const struct probe *p, struct doctor *d)
{
    const bool is_low = p->mem_available_bytes < MEM_WARN_BYTES;
    doctor_add(d, "memory", is_low ? DOCTOR_WARN : DOCTOR_OK,
               is_low ? p->is_limited ? "raise the control group's memory limit, or end what else "
                                        "runs in it"
                                      : "end what else uses memory, or give the model to more "
                                        "workers"
                      : NULL,
               "%.1f GiB, %.1f GiB available%s", gib(p->mem_total_bytes),
               gib(p->mem_available_bytes),
               p->is_limited ? " within a control group's limit" : ", no control group limits it");
}

static void look_at_threads(const struct probe *p, struct doctor *d)
{
    if (p->n_usable < p->n_core)
        doctor_add(d, "threads", DOCTOR_WARN,
                   "raise the CPU quota or widen the affinity of this process",
                   "%d usable of %d cores (%d threads): a quota or an affinity holds the others",
                   p->n_usable, p->n_core, p->n_thread);
    else
        doctor_add(d, "threads", DOCTOR_OK, NULL, "%d usable of %d (%d cores)", p->n_usable,
                   p->n_thread, p->n_core);
}

static void look_at_kernels(const struct probe *p, struct doctor *d)
{
    char isa[32];
    struct err_text why = {0};
    if (measure_isa(NULL, isa, &why) != OK)
        doctor_add(d, "kernels", DOCTOR_BAD, NULL, "no kernels run here: %.200s", why.s);
    else if (strstr(isa, "reference"))
        doctor_add(d, "kernels", DOCTOR_WARN, "use a CPU with AVX2, FMA and F16C, or an AArch64",
                   "%s: portable code, many times slower (this CPU: %.120s)", isa, p->isa);
    else
        doctor_add(d, "kernels", DOCTOR_OK, NULL, "%s (this CPU: %.150s)", isa, p->isa);
}

// Whether the GPUs that the driver tells of can be computed with.
static void look_at_module(const char *name, int32_t n_gpu, struct doctor *d)
{
    struct err_text why = {0};
    int32_t n = 0;
    if (kernels_count_cuda(&n, &why) == OK && n > 0)
        doctor_add(d, "gpu", DOCTOR_OK, NULL, "%d (%.90s): --device cuda computes with it", n,
                   name);
    else
        doctor_add(d, "gpu", DOCTOR_WARN,
                   "build with nvcc 13 or take the module that belongs to this program",
                   "%d (%.60s) stay idle: %.120s", n_gpu, name, why.s);
}

static void look_at_gpus(struct doctor *d)
{
    struct gpus *g = calloc(1, sizeof *g);
    struct err_text why = {0};
    if (!g) return;
    if (gpus_read(NULL, g, &why) != OK)
        doctor_add(d, "gpu", DOCTOR_WARN, "nvidia-smi tells what the driver lacks",
                   "the driver does not answer: %.180s; the CPU serves", why.s);
    else if (g->n == 0)
        doctor_add(d, "gpu", DOCTOR_OK, NULL, "%s; the CPU serves", g->none);
    else
        look_at_module(g->at[0].name, g->n, d);
    free(g);
}

// ---- what the system lends

static void look_at_shm(struct doctor *d)
{
    struct statvfs v;
    if (statvfs("/dev/shm", &v) != 0) {
        doctor_add(d, "shm", DOCTOR_BAD, "mount a tmpfs at /dev/shm, or use --transports self,tcp",
                   "/dev/shm: %s: workers of one host cannot share memory", strerror(errno));
        return;
    }
    const uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    const uint64_t all = (uint64_t)v.f_blocks * v.f_frsize;
    const enum doctor_level level = free_bytes < SHM_BAD_BYTES    ? DOCTOR_BAD
                                    : free_bytes < SHM_WARN_BYTES ? DOCTOR_WARN
                                                                  : DOCTOR_OK;
    doctor_add(d, "shm", level,
               level ? "of a container: --shm-size=1g; else remove what lies in /dev/shm, or use "
                       "--transports self,tcp"
                     : NULL,
               "/dev/shm: %llu MiB, %llu MiB free", (unsigned long long)all >> 20,
               (unsigned long long)free_bytes >> 20);
}

static void look_at_files(struct doctor *d)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) {
        doctor_add(d, "files", DOCTOR_WARN, NULL, "the limit of open files: %s", strerror(errno));
        return;
    }
    const enum doctor_level level = r.rlim_cur < FILES_BAD    ? DOCTOR_BAD
                                    : r.rlim_cur < FILES_WARN ? DOCTOR_WARN
                                                              : DOCTOR_OK;
    doctor_add(d, "files", level,
               level ? "ulimit -n 4096, or LimitNOFILE= in the unit: each caller takes one" : NULL,
               "%llu open files at most (could be raised to %llu)", (unsigned long long)r.rlim_cur,
               (unsigned long long)r.rlim_max);
}

// Certificates have times, so clocks that are far apart keep workers from joining.
static void look_at_clock(struct doctor *d)
{
    enum { YEAR_2024 = 1704067200 };
    const time_t now = time(NULL);
    char s[40] = "";
    struct tm tm;
    struct timex t = {0};
    if (gmtime_r(&now, &tm)) strftime(s, sizeof s, "%Y-%m-%d %H:%M:%S UTC", &tm);
    if (now < YEAR_2024)
        doctor_add(d, "clock", DOCTOR_BAD, "set it: certificates are not valid yet", "%s", s);
    else if (adjtimex(&t) < 0)
        doctor_add(d, "clock", DOCTOR_OK, NULL, "%s; whether it is kept right is not told here", s);
    else if (t.status & STA_UNSYNC)
        doctor_add(d, "clock", DOCTOR_WARN, "run an NTP client: certificates of workers have times",
                   "%s; nothing keeps it right", s);
    else
        doctor_add(d, "clock", DOCTOR_OK, NULL, "%s, kept right", s);
}

// ---- the state folder

// The nearest folder above that is there.
static void nearest(char *path)
{
    struct stat st;
    while (stat(path, &st) != 0) {
        char *slash = strrchr(path, '/');
        if (!slash) {
            strcpy(path, ".");
            return;
        }
        if (slash == path) slash++;
        *slash = 0;
        if (!path[1]) return;
    }
}

static void look_at_state(const char *dir, struct doctor *d)
{
    struct stat st;
    struct statvfs v;
    char there[4200];
    snprintf(there, sizeof there, "%s", dir);
    nearest(there);
    const bool exists = stat(dir, &st) == 0;
    if (exists && !S_ISDIR(st.st_mode)) {
        doctor_add(d, "state", DOCTOR_BAD, "remove it, or choose another with --state",
                   "%.200s is not a folder", dir);
        return;
    }
    if (access(there, W_OK | X_OK) != 0) {
        doctor_add(d, "state", DOCTOR_BAD, "choose another with --state, or change its owner",
                   "%.150s cannot be written: %s", there, strerror(errno));
        return;
    }
    if (exists && st.st_mode & 077) {
        doctor_add(d, "state", DOCTOR_BAD, "chmod 700: keys lie in it",
                   "%.150s can be entered by others (mode %o)", dir, st.st_mode & 0777);
        return;
    }
    const bool is_told = statvfs(there, &v) == 0;
    const uint64_t free_bytes = is_told ? (uint64_t)v.f_bavail * v.f_frsize : 0;
    const bool is_full = is_told && free_bytes < STATE_WARN_BYTES;
    doctor_add(d, "state", is_full ? DOCTOR_WARN : DOCTOR_OK, is_full ? "make room there" : NULL,
               "%.150s%s, %.1f GiB free", dir, exists ? "" : " (will be made)", gib(free_bytes));
}

uint64_t doctor_machine(const struct doctor_ask *ask, struct doctor *d)
{
    struct probe p = {0};
    struct err_text why = {0};
    if (probe_read(&p, &why) != OK) {
        doctor_add(d, "machine", DOCTOR_BAD, NULL, "this machine does not say what it is: %.180s",
                   why.s);
    } else {
        look_at_memory(&p, d);
        look_at_threads(&p, d);
        look_at_kernels(&p, d);
    }
    look_at_gpus(d);
    look_at_shm(d);
    look_at_files(d);
    look_at_clock(d);
    look_at_state(ask->state_dir, d);
    return p.mem_available_bytes;
}
