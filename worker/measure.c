#include "worker/measure.h"

#include "proto/base/arena.h"
#include "proto/base/clock.h"
#include "proto/base/folder.h"
#include "proto/base/hex.h"
#include "proto/base/json.h"
#include "proto/base/log.h"
#include "topology/probe_disk.h"
#include "topology/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    PEAK_MS = 200, // of each of the three
    DISK_MS = 300,
    KEPT_MAX = 1 << 20,
    ARENA_BYTES = 4 << 20,
    PATH_BYTES = 4096,
    LOCK_US = 10000000, // others may measure before us for so long
};

// ---- keeping

static void add_text(struct sha256 *h, const char *text)
{
    sha256_add(h, text, strlen(text) + 1);
}

// Other kernels compute at other speeds: the files that they are in, by size and time.
static void add_file(struct sha256 *h, const char *path)
{
    struct stat st;
    if (!path || stat(path, &st)) return;
    const int64_t facts[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    sha256_add(h, facts, sizeof facts);
}

void measure_key(const struct probe *p, const struct measure_ask *ask, char out[MEASURE_KEY_BYTES])
{
    // Memory to the GiB: kernels keep a little more or less of it for themselves.
    const uint64_t facts[] = {(uint64_t)p->n_core, (uint64_t)p->n_thread, (uint64_t)p->n_usable,
                              (p->mem_total_bytes + (1 << 29)) >> 30, (uint64_t)ask->n_threads};
    struct sha256 h;
    uint8_t hash[32];
    sha256_init(&h);
    add_text(&h, p->cpu);
    add_text(&h, p->isa);
    add_text(&h, ask->isa);
    add_text(&h, TRIREME_VERSION);
    add_file(&h, "/proc/self/exe");
    sha256_add(&h, facts, sizeof facts);
    struct kernels_about a;
    if (ask->device && kernels_about(ask->device, &a, NULL) == OK) {
        const uint64_t more[] = {(uint64_t)a.sm, (uint64_t)a.n_processor, a.memory_bytes >> 30};
        add_text(&h, a.name);
        add_text(&h, a.driver);
        sha256_add(&h, more, sizeof more);
    }
    sha256_end(&h, hash);
    hex_write(hash, MEASURE_KEY_BYTES / 2, out);
}

static bool path_of(char out[PATH_BYTES], const char *dir, const char *what, const char *key)
{
    return snprintf(out, PATH_BYTES, "%s/%s-%s.json", dir, what, key) < PATH_BYTES;
}

err_t measure_kept(const char *dir, const char *what, const char *key, struct buf *out)
{
    char path[PATH_BYTES];
    struct stat st;
    if (!path_of(path, dir, what, key)) return ERR_NOT_FOUND;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return ERR_NOT_FOUND;
    err_t e = ERR_NOT_FOUND;
    const time_t oldest = time(NULL) - MEASURE_DAYS * 24 * 3600;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= KEPT_MAX &&
        st.st_mtime >= oldest && buf_reserve(out, (size_t)st.st_size + 1)) {
        char piece[4096];
        ssize_t n;
        while ((n = read(fd, piece, sizeof piece)) > 0 && out->len < KEPT_MAX)
            buf_add(out, piece, (size_t)n);
        e = n == 0 && buf_ok(out) ? OK : ERR_NOT_FOUND;
    }
    close(fd);
    return e;
}

err_t measure_keep(const char *dir, const char *what, const char *key, const struct buf *text,
                   struct err_text *why)
{
    char path[PATH_BYTES], temp[PATH_BYTES + 16];
    if (!path_of(path, dir, what, key)) return err_say(why, ERR_CONFIG, "%s: too long", dir);
    (void)folder_make(dir); // opening the file tells
    snprintf(temp, sizeof temp, "%s.XXXXXX", path);
    int fd = mkostemp(temp, O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text->data, text->len) == (ssize_t)text->len;
    if (fd >= 0 && close(fd)) ok = false;
    if (ok && rename(temp, path) == 0) return OK;
    err_t e = err_say(why, ERR_SYSTEM, "%s: cannot write: %m", path);
    if (fd >= 0) unlink(temp);
    return e;
}

// ---- peaks

static bool is_figure(double v)
{
    return v >= 1e6 && v <= 1e19; // the range that cluster files allow
}

static err_t kept_peaks(const char *dir, const char *key, struct measure *out)
{
    struct buf text = {0};
    struct arena a;
    const struct json *j = NULL;
    struct measure m = {.is_kept = true};
    arena_init(&a, ARENA_BYTES);
    err_t e = measure_kept(dir, "peaks", key, &text);
    if (!e && json_read(text.data, text.len, &a, &j, NULL, NULL)) e = ERR_NOT_FOUND;
    if (!e) {
        m.peaks.read_bytes_per_s = json_number(json_get(j, "read_bytes_per_s"), 0);
        m.peaks.int8_ops_per_s = json_number(json_get(j, "int8_ops_per_s"), 0);
        m.peaks.f32_flops_per_s = json_number(json_get(j, "f32_flops_per_s"), 0);
        m.peaks.half_flops_per_s = json_number(json_get(j, "half_flops_per_s"), 0);
        m.unix_s = (int64_t)json_number(json_get(j, "unix_s"), 0);
        if (!is_figure(m.peaks.read_bytes_per_s) || !is_figure(m.peaks.int8_ops_per_s) ||
            !is_figure(m.peaks.f32_flops_per_s) ||
            (m.peaks.half_flops_per_s != 0 && !is_figure(m.peaks.half_flops_per_s)))
            e = ERR_NOT_FOUND; // damaged: measured again, and written anew
    }
    if (!e) *out = m;
    arena_fini(&a);
    buf_fini(&text);
    return e;
}

static void keep_peaks(const char *dir, const char *key, const struct measure *m)
{
    struct buf text = {0};
    struct err_text why;
    buf_str(&text, "{\"read_bytes_per_s\":");
    buf_json_num(&text, m->peaks.read_bytes_per_s);
    buf_str(&text, ",\"int8_ops_per_s\":");
    buf_json_num(&text, m->peaks.int8_ops_per_s);
    buf_str(&text, ",\"f32_flops_per_s\":");
    buf_json_num(&text, m->peaks.f32_flops_per_s);
    buf_str(&text, ",\"half_flops_per_s\":");
    buf_json_num(&text, m->peaks.half_flops_per_s);
    buf_printf(&text, ",\"unix_s\":%lld}\n", (long long)m->unix_s);
    if (!buf_ok(&text))
        log_warn("measured figures are not kept: no memory");
    else if (measure_keep(dir, "peaks", key, &text, &why))
        log_warn("measured figures are not kept: %s", why.s);
    buf_fini(&text);
}

int measure_lock(const char *dir)
{
    char path[PATH_BYTES];
    (void)folder_make(dir);
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path) return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    const int64_t until = clock_now_us() + LOCK_US;
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK &&
           clock_now_us() < until)
        usleep(10000);
    return fd;
}

void measure_unlock(int lock)
{
    if (lock >= 0) close(lock);
}

static err_t measure_now(const struct measure_ask *ask, struct measure *out, struct err_text *why)
{
    struct measure m = {.unix_s = (int64_t)time(NULL)};
    err_t e = kernels_measure_peaks_of(ask->device, ask->n_threads, PEAK_MS, &m.peaks, why);
    if (e) return e;
    *out = m;
    return OK;
}

static err_t measure_or_find(const struct probe *p, const struct measure_ask *ask,
                             struct measure *out, struct err_text *why)
{
    char key[MEASURE_KEY_BYTES];
    if (!ask->dir) return measure_now(ask, out, why);
    measure_key(p, ask, key);
    if (!ask->refresh && kept_peaks(ask->dir, key, out) == OK) return OK;
    int lock = measure_lock(ask->dir);
    err_t e = OK;
    // Whoever had the lock before us may have measured what we want.
    if (ask->refresh || kept_peaks(ask->dir, key, out)) {
        e = measure_now(ask, out, why);
        if (!e) keep_peaks(ask->dir, key, out);
    }
    measure_unlock(lock);
    return e;
}

err_t measure_machine(const struct probe *p, const struct measure_ask *ask, struct measure *out,
                      struct err_text *why)
{
    const double part = ask->device ? 1 : probe_part(p, ask->n_threads);
    err_t e = measure_or_find(p, ask, out, why);
    if (e) return e;
    out->peaks.read_bytes_per_s *= part;
    out->peaks.int8_ops_per_s *= part;
    out->peaks.f32_flops_per_s *= part;
    return OK;
}

// ---- disks

static void key_of_volume(const struct probe_disk *d, char out[MEASURE_KEY_BYTES])
{
    struct sha256 h;
    uint8_t hash[32];
    sha256_init(&h);
    add_text(&h, d->source);
    add_text(&h, d->mount);
    sha256_add(&h, &d->bytes, sizeof d->bytes);
    sha256_end(&h, hash);
    hex_write(hash, MEASURE_KEY_BYTES / 2, out);
}

// 0: none.
static double kept_disk(const char *dir, const char *key)
{
    struct buf text = {0};
    struct arena a;
    const struct json *j = NULL;
    double v = 0;
    arena_init(&a, ARENA_BYTES);
    if (!measure_kept(dir, "disk", key, &text) &&
        !json_read(text.data, text.len, &a, &j, NULL, NULL))
        v = json_number(json_get(j, "read_bytes_per_s"), 0);
    arena_fini(&a);
    buf_fini(&text);
    return is_figure(v) ? v : 0;
}

static void keep_disk(const char *dir, const char *key, double v)
{
    struct buf text = {0};
    struct err_text why = {"no memory"};
    buf_str(&text, "{\"read_bytes_per_s\":");
    buf_json_num(&text, v);
    buf_str(&text, "}\n");
    if (!buf_ok(&text) || measure_keep(dir, "disk", key, &text, &why))
        log_warn("measured figures are not kept: %s", why.s);
    buf_fini(&text);
}

double measure_disk(const char *path, const char *dir)
{
    struct probe_disk d;
    struct err_text why;
    char key[MEASURE_KEY_BYTES];
    err_t e = probe_disk_read(path, 0, &d, &why);
    if (!e) key_of_volume(&d, key);
    const double kept = !e && dir ? kept_disk(dir, key) : 0;
    if (kept > 0) return kept;
    if (!e) e = probe_disk_read(path, DISK_MS, &d, &why);
    if (e) log_warn("the disk is not measured: %s", why.s);
    if (e) return 0;
    if (dir && is_figure(d.read_bytes_per_s)) keep_disk(dir, key, d.read_bytes_per_s);
    return d.read_bytes_per_s;
}

// ---- the backend

err_t measure_isa(const char *device, char out[32], struct err_text *why)
{
    // Opened once at the least size.
    const struct kernels_limits least = {.n_threads = 1,
                                         .max_tok = 1,
                                         .max_cols = 256,
                                         .max_rows = 256,
                                         .max_head = 1,
                                         .max_head_dim = 64,
                                         .max_ctx = 64};
    struct kernels *k;
    err_t e = kernels_open(device, &least, &k, why);
    if (e) return e;
    snprintf(out, 32, "%s", k->ops->name);
    k->ops->close(k);
    return OK;
}
