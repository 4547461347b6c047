#include "worker/store_priv.h"

#include "proto/base/folder.h"
#include "proto/base/hex.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static err_t say_errno(struct err_text *why, const char *what, const char *path)
{
    return err_say(why, ERR_SYSTEM, "store: cannot %s %s: %s", what, path, strerror(errno));
}

// -- the folder --

err_t store_lock(const char *dir, int *fd, struct err_text *why)
{
    char path[STORE_FILE_MAX];
    if (folder_make(dir)) return say_errno(why, "make folder", dir);
    snprintf(path, sizeof path, "%s/.lock", dir);
    const int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) return say_errno(why, "open", path);
    if (flock(lock, LOCK_EX | LOCK_NB)) {
        const err_t e =
            errno == EWOULDBLOCK
                ? err_say(why, ERR_BUSY, "store: %s is another worker's; give each its own folder",
                          dir)
                : say_errno(why, "lock", path);
        close(lock);
        return e;
    }
    *fd = lock;
    return OK;
}

static uint64_t free_bytes(const char *dir)
{
    struct statvfs v;
    return statvfs(dir, &v) ? 0 : (uint64_t)v.f_bavail * v.f_frsize;
}

void store_name_folder(char out[STORE_PATH_MAX], const char *dir, const uint8_t hash[32],
                       bool is_whole)
{
    char hex[65];
    hex_write(hash, 32, hex);
    snprintf(out, STORE_PATH_MAX, "%s/%s%s", dir, hex, is_whole ? "" : STORE_PART);
}

bool store_name_read(const char *name, uint8_t hash[32], bool *is_whole)
{
    if (!hex_read(name, 32, hash)) return false;
    *is_whole = name[64] == 0;
    return *is_whole || !strcmp(name + 64, STORE_PART);
}

// -- bits --

static bool bit(const uint8_t *bits, uint64_t i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static void set_bit(uint8_t *bits, uint64_t i)
{
    bits[i / 8] |= (uint8_t)(1 << i % 8);
}

static uint64_t unit_bytes(const struct store *s, uint32_t file, uint64_t unit)
{
    const uint64_t from = (unit - s->first[file]) * STORE_UNIT_BYTES;
    const uint64_t left = s->offer.files[file].bytes - from;
    return left < STORE_UNIT_BYTES ? left : STORE_UNIT_BYTES;
}

void store_need(struct store *s, uint32_t file, uint64_t from, uint64_t bytes)
{
    const uint64_t all = s->offer.files[file].bytes;
    if (from >= all || bytes == 0) return;
    if (bytes > all - from) bytes = all - from;
    const uint64_t last = s->first[file] + (from + bytes - 1) / STORE_UNIT_BYTES;
    for (uint64_t u = s->first[file] + from / STORE_UNIT_BYTES; u <= last; u++) {
        if (bit(s->need, u)) continue;
        set_bit(s->need, u);
        const uint64_t n = unit_bytes(s, file, u);
        s->need_bytes += n;
        if (bit(s->have, u))
            s->have_bytes += n;
        else if (u < s->cursor)
            s->cursor = u;
    }
}

uint64_t store_need_bytes(const struct store *s)
{
    return s->need_bytes;
}

uint64_t store_have_bytes(const struct store *s)
{
    return s->have_bytes;
}

// Needed, not here, not asked for.
static bool is_wanted(const struct store *s, uint64_t u)
{
    return bit(s->need, u) && !bit(s->have, u) && !bit(s->asked, u);
}

static uint32_t file_of(const struct store *s, uint64_t unit)
{
    uint32_t lo = 0, hi = s->offer.n_file;
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        *(s->first[mid] <= unit ? &lo : &hi) = mid;
    }
    return lo;
}

bool store_next(struct store *s, struct store_range *out)
{
    uint64_t u = s->cursor;
    const uint64_t n_unit = s->first[s->offer.n_file];
    while (u < n_unit && !is_wanted(s, u))
        u++;
    s->cursor = u;
    if (u == n_unit) return false;
    const uint32_t file = file_of(s, u);
    struct store_range r = {.file = file,
                            .from = (u - s->first[file]) * (uint64_t)STORE_UNIT_BYTES};
    for (; u < s->first[file + 1] && is_wanted(s, u) && r.bytes < STORE_RANGE_BYTES; u++) {
        set_bit(s->asked, u);
        r.bytes += (uint32_t)unit_bytes(s, file, u);
    }
    s->cursor = u;
    *out = r;
    return true;
}

// -- bytes --

static err_t open_file(struct store *s, uint32_t file, struct err_text *why)
{
    if (s->fds[file] >= 0) return OK;
    char path[STORE_FILE_MAX];
    snprintf(path, sizeof path, "%s/%s", s->dir, s->offer.files[file].name);
    s->fds[file] = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    return s->fds[file] < 0 ? say_errno(why, "open", path) : OK;
}

err_t store_put(struct store *s, const struct store_range *r, const void *data,
                struct err_text *why)
{
    err_t e = open_file(s, r->file, why);
    const char *p = data;
    for (uint64_t done = 0; !e && done < r->bytes;) {
        const ssize_t n =
            pwrite(s->fds[r->file], p + done, r->bytes - done, (off_t)(r->from + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) e = say_errno(why, "write", s->offer.files[r->file].name);
        if (n > 0) done += (uint64_t)n;
    }
    if (e) return e;
    s->is_saved = false;
    s->is_dirty[r->file] = true;
    const uint64_t from = s->first[r->file] + r->from / STORE_UNIT_BYTES;
    const uint64_t last = from + (r->bytes - 1) / STORE_UNIT_BYTES;
    for (uint64_t u = from; u <= last; u++) {
        if (bit(s->have, u)) continue;
        set_bit(s->have, u);
        if (bit(s->need, u)) s->have_bytes += unit_bytes(s, r->file, u);
    }
    return OK;
}

err_t store_save(struct store *s, struct err_text *why)
{
    if (s->is_saved) return OK;
    for (uint32_t i = 0; i < s->offer.n_file; i++) {
        if (!s->is_dirty[i]) continue;
        if (fdatasync(s->fds[i])) return say_errno(why, "sync", s->offer.files[i].name);
        s->is_dirty[i] = false;
    }
    err_t e = store_map_write(s, why);
    if (!e) s->is_saved = true;
    return e;
}

bool store_is_whole(const struct store *s)
{
    const uint64_t n_unit = s->first[s->offer.n_file];
    for (uint64_t u = 0; u < n_unit; u++)
        if (!bit(s->have, u)) return false;
    return s->is_saved;
}

err_t store_check_room(const struct store *s, uint64_t reserve_bytes, struct err_text *why)
{
    const uint64_t missing = s->need_bytes - s->have_bytes, room = free_bytes(s->dir);
    const uint64_t reserve = reserve_bytes > missing / 20 ? reserve_bytes : missing / 20;
    if (!missing || (room >= reserve && room - reserve >= missing)) return OK;
    const double mib = 1 << 20;
    return err_say(why, ERR_SYSTEM,
                   "store: no room for a copy: %.1f MiB are to be fetched and %.1f MiB stay free, "
                   "%.1f MiB are free on the volume of %s",
                   (double)missing / mib, (double)reserve / mib, (double)room / mib, s->dir);
}

// -- opening --

static bool name_ok(const char *name)
{
    return name[0] && name[0] != '.' && strlen(name) <= 255 && !strchr(name, '/');
}

static err_t check_files(const struct offer *o, struct err_text *why)
{
    uint64_t sum = 0;
    if (o->n_file < 1 || o->n_file > STORE_FILES_MAX)
        return err_say(why, ERR_MODEL, "store: a model of %u files, allowed 1 to %d", o->n_file,
                       STORE_FILES_MAX);
    for (uint32_t i = 0; i < o->n_file; i++) {
        const struct offer_file *f = &o->files[i];
        if (!name_ok(f->name))
            return err_say(why, ERR_MODEL, "store: a model's file cannot be called '%.60s'",
                           f->name);
        for (uint32_t k = 0; k < i; k++)
            if (!strcmp(f->name, o->files[k].name))
                return err_say(why, ERR_MODEL, "store: two files are called '%.60s'", f->name);
        if (f->bytes < 1 || f->bytes > STORE_BYTES_MAX || (sum += f->bytes) > STORE_BYTES_MAX)
            return err_say(why, ERR_MODEL, "store: file '%.60s' has %llu bytes, allowed 1 to %llu",
                           f->name, (unsigned long long)f->bytes,
                           (unsigned long long)STORE_BYTES_MAX);
    }
    return OK;
}

static bool copy_files(struct store *s, const struct offer *o)
{
    struct arena *a = &s->arena;
    struct offer_file *files = arena_copy(a, o->files, o->n_file * sizeof *files);
    s->first = arena_take_n(a, o->n_file + 1, sizeof *s->first);
    s->fds = arena_take_n(a, o->n_file, sizeof *s->fds);
    s->is_dirty = arena_take_n(a, o->n_file, sizeof *s->is_dirty);
    if (!files || !s->first || !s->fds || !s->is_dirty) return false;
    for (uint32_t i = 0; i < o->n_file; i++) {
        s->fds[i] = -1;
        files[i].path = NULL;
        files[i].name = arena_copy_str(a, o->files[i].name, strlen(o->files[i].name));
        if (!files[i].name) return false;
        s->first[i + 1] = s->first[i] + (files[i].bytes + STORE_UNIT_BYTES - 1) / STORE_UNIT_BYTES;
    }
    s->offer = (struct offer){files, o->n_file};
    s->n_byte = (s->first[o->n_file] + 7) / 8;
    s->need = arena_take(a, s->n_byte);
    s->asked = arena_take(a, s->n_byte);
    s->have = arena_take(a, s->n_byte);
    return s->need && s->asked && s->have;
}

// Makes the file, or brings it to its size. *is_old: it was there with that size.
static err_t size_file(const struct store *s, uint32_t i, bool *is_old, struct err_text *why)
{
    char path[STORE_FILE_MAX];
    struct stat st;
    const struct offer_file *f = &s->offer.files[i];
    snprintf(path, sizeof path, "%s/%s", s->dir, f->name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0) return say_errno(why, "make", path);
    err_t e = OK;
    if (fstat(fd, &st))
        e = say_errno(why, "examine", path);
    else if (!S_ISREG(st.st_mode))
        e = err_say(why, ERR_SYSTEM, "store: %s is no regular file", path);
    else
        *is_old = (uint64_t)st.st_size == f->bytes;
    if (!e && !*is_old && ftruncate(fd, (off_t)f->bytes)) e = say_errno(why, "make", path);
    close(fd);
    return e;
}

static err_t open_part(struct store *s, struct err_text *why)
{
    if (mkdir(s->dir, 0700) && errno != EEXIST) return say_errno(why, "make folder", s->dir);
    bool all_old = true;
    for (uint32_t i = 0; i < s->offer.n_file; i++) {
        bool is_old = false;
        err_t e = size_file(s, i, &is_old, why);
        if (e) return e;
        all_old = all_old && is_old;
    }
    // Without files as they were left the map tells nothing.
    s->is_saved = all_old && store_map_read(s);
    return OK;
}

static err_t find_folder(struct store *s, const char *dir, const uint8_t hash[32],
                         struct err_text *why)
{
    struct stat st;
    if (strlen(dir) + 80 + 256 >= STORE_PATH_MAX)
        return err_say(why, ERR_CONFIG, "store: folder's path is too long");
    store_name_folder(s->dir, dir, hash, true);
    if (!stat(s->dir, &st) && S_ISDIR(st.st_mode)) {
        // Whole: it got this name when nothing was missing.
        memset(s->have, 0xff, s->n_byte);
        s->is_saved = true;
        return OK;
    }
    store_name_folder(s->dir, dir, hash, false);
    return open_part(s, why);
}

err_t store_open(const char *dir, const uint8_t hash[32], const struct offer *files,
                 struct store **out, struct err_text *why)
{
    err_t e = check_files(files, why);
    if (e) return e;
    struct store *s = calloc(1, sizeof *s);
    if (!s) return err_say(why, ERR_MEMORY, "store: no memory");
    arena_init(&s->arena, 0);
    e = copy_files(s, files) ? OK : err_say(why, ERR_MEMORY, "store: no memory for its maps");
    if (!e) e = find_folder(s, dir, hash, why);
    if (e) {
        store_close(s);
        return e;
    }
    const int32_t entry = offer_entry(s->offer.files, s->offer.n_file);
    snprintf(s->model_path, sizeof s->model_path, "%s%s%s", s->dir, entry < 0 ? "" : "/",
             entry < 0 ? "" : s->offer.files[entry].name);
    *out = s;
    return OK;
}

void store_close(struct store *s)
{
    if (!s) return;
    for (uint32_t i = 0; s->fds && i < s->offer.n_file; i++)
        if (s->fds[i] >= 0) close(s->fds[i]);
    arena_fini(&s->arena);
    free(s);
}

const char *store_model_path(const struct store *s)
{
    return s->model_path;
}

const struct offer *store_files(const struct store *s)
{
    return &s->offer;
}

void store_discard(struct store *s)
{
    char path[STORE_FILE_MAX];
    for (uint32_t i = 0; i < s->offer.n_file; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, s->offer.files[i].name);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/" STORE_MAP_NAME, s->dir);
    unlink(path);
    if (rmdir(s->dir)) log_warn("store: cannot remove %s: %s", s->dir, strerror(errno));
}

uint64_t store_room(const char *dir, uint64_t reserve_bytes)
{
    const uint64_t room = free_bytes(dir);
    return (room > reserve_bytes ? room - reserve_bytes : 0) + store_map_sum(dir);
}
