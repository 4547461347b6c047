// The map of a copy, little-endian:
//
//   "TRMAP1\0\0"  u32 bytes of a unit  u32 number of files
//   of each file  u64 bytes  u64 header bytes  u16 length of its name  name
//   bits          one for each unit, file after file, lowest bit first
//   u32           CRC-32C of all that
#include "worker/store_priv.h"

#include "proto/base/buf.h"
#include "proto/base/log.h"
#include "proto/wire/frame.h"
#include "topology/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "TRMAP1";
enum { HEAD_BYTES = 16, MAP_BYTES_MAX = 64 << 20 };

// -- out --

static void add_number(struct buf *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        buf_char(b, (char)(v >> 8 * i));
}

static void put_head(struct buf *b, const struct offer *o)
{
    buf_add(b, magic, sizeof magic);
    add_number(b, STORE_UNIT_BYTES, 4);
    add_number(b, o->n_file, 4);
    for (uint32_t i = 0; i < o->n_file; i++) {
        const size_t len = strlen(o->files[i].name);
        add_number(b, o->files[i].bytes, 8);
        add_number(b, o->files[i].header_bytes, 8);
        add_number(b, len, 2);
        buf_add(b, o->files[i].name, len);
    }
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        const ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool replace(const char *path, const struct buf *b)
{
    char fresh[STORE_FILE_MAX + 8];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    const int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return false;
    const bool ok = write_all(fd, b->data, b->len) && !fsync(fd);
    return !close(fd) && ok && !rename(fresh, path);
}

err_t store_map_write(const struct store *s, struct err_text *why)
{
    struct buf b = {0};
    char path[STORE_FILE_MAX];
    snprintf(path, sizeof path, "%s/" STORE_MAP_NAME, s->dir);
    put_head(&b, &s->offer);
    buf_add(&b, s->have, s->n_byte);
    add_number(&b, buf_ok(&b) ? frame_checksum(b.data, b.len) : 0, 4);
    err_t e = buf_ok(&b) ? OK : err_say(why, ERR_MEMORY, "store: no memory for a map");
    if (!e && !replace(path, &b))
        e = err_say(why, ERR_SYSTEM, "store: cannot write %s: %s", path, strerror(errno));
    buf_fini(&b);
    return e;
}

// -- in --

struct map {
    char *data;
    struct offer_file *files;
    uint32_t n_file;
    uint64_t n_unit;
    const uint8_t *bits;
};

static uint64_t number(const char *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)(uint8_t)p[i] << 8 * i;
    return v;
}

// Names are cut out where they lie: of the bytes behind a name only its NUL is needed, which
// overwrites the first byte of what was read already.
static bool parse_files(struct map *m, size_t *at, size_t end)
{
    for (uint32_t i = 0; i < m->n_file; i++) {
        if (end - *at < 18) return false;
        char *p = m->data + *at;
        struct offer_file *f = &m->files[i];
        const uint64_t len = number(p + 16, 2);
        f->bytes = number(p, 8);
        f->header_bytes = number(p + 8, 8);
        if (len > end - *at - 18 || memchr(p + 18, 0, len)) return false;
        if (f->bytes < 1 || f->bytes > STORE_BYTES_MAX) return false;
        memmove(p, p + 18, len);
        p[len] = 0;
        f->name = p;
        m->n_unit += (f->bytes + STORE_UNIT_BYTES - 1) / STORE_UNIT_BYTES;
        *at += 18 + len;
    }
    return true;
}

static bool parse(struct map *m, size_t len)
{
    if (len < HEAD_BYTES + 4 || memcmp(m->data, magic, sizeof magic)) return false;
    const size_t end = len - 4;
    if (number(m->data + end, 4) != frame_checksum(m->data, end)) return false;
    m->n_file = (uint32_t)number(m->data + 12, 4);
    if (number(m->data + 8, 4) != STORE_UNIT_BYTES || m->n_file > STORE_FILES_MAX) return false;
    m->files = calloc(m->n_file + 1, sizeof *m->files);
    size_t at = HEAD_BYTES;
    if (!m->files || !parse_files(m, &at, end)) return false;
    if (end - at != (m->n_unit + 7) / 8) return false;
    m->bits = (const uint8_t *)m->data + at;
    return true;
}

static void map_fini(struct map *m)
{
    free(m->files);
    free(m->data);
    *m = (struct map){0};
}

static bool map_open(const char *folder, struct map *out)
{
    char path[STORE_FILE_MAX];
    struct file f;
    struct map m = {0};
    snprintf(path, sizeof path, "%s/" STORE_MAP_NAME, folder);
    if (file_open(path, &f, NULL)) return false;
    if (f.bytes <= MAP_BYTES_MAX) m.data = malloc(f.bytes + 1);
    const bool ok = m.data && !file_read(&f, 0, m.data, f.bytes, NULL) && parse(&m, f.bytes);
    file_close(&f);
    if (ok)
        *out = m;
    else
        map_fini(&m);
    return ok;
}

static bool is_same(const struct map *m, const struct offer *o)
{
    if (m->n_file != o->n_file) return false;
    for (uint32_t i = 0; i < o->n_file; i++)
        if (m->files[i].bytes != o->files[i].bytes ||
            m->files[i].header_bytes != o->files[i].header_bytes ||
            strcmp(m->files[i].name, o->files[i].name))
            return false;
    return true;
}

bool store_map_read(struct store *s)
{
    struct map m;
    if (!map_open(s->dir, &m)) return false;
    const bool ok = is_same(&m, &s->offer);
    if (ok)
        memcpy(s->have, m.bits, s->n_byte);
    else
        log_warn("store: %s has a map of other files; the copy begins anew", s->dir);
    map_fini(&m);
    return ok;
}

// -- all copies --

static uint64_t map_bytes(const struct map *m)
{
    uint64_t sum = 0, u = 0;
    for (uint32_t i = 0; i < m->n_file; i++)
        for (uint64_t at = 0; at < m->files[i].bytes; at += STORE_UNIT_BYTES, u++) {
            const uint64_t left = m->files[i].bytes - at;
            if (m->bits[u / 8] >> u % 8 & 1)
                sum += left < STORE_UNIT_BYTES ? left : STORE_UNIT_BYTES;
        }
    return sum;
}

typedef void each_fn(void *arg, const char *folder, const struct map *m);

// Every unfinished copy with a map.
static void each_part(const char *dir, each_fn *fn, void *arg)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *at; (at = readdir(d));) {
        char folder[STORE_PATH_MAX];
        struct map m;
        uint8_t hash[32];
        bool is_whole;
        if (!store_name_read(at->d_name, hash, &is_whole) || is_whole) continue;
        if (snprintf(folder, sizeof folder, "%s/%s", dir, at->d_name) >= (int)sizeof folder)
            continue;
        if (!map_open(folder, &m)) continue;
        fn(arg, folder, &m);
        map_fini(&m);
    }
    closedir(d);
}

static void add_bytes(void *arg, const char *folder, const struct map *m)
{
    (void)folder;
    *(uint64_t *)arg += map_bytes(m);
}

uint64_t store_map_sum(const char *dir)
{
    uint64_t sum = 0;
    each_part(dir, add_bytes, &sum);
    return sum;
}

static bool files_are_there(const char *folder, const struct map *m)
{
    for (uint32_t i = 0; i < m->n_file; i++) {
        char path[STORE_FILE_MAX];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, m->files[i].name);
        if (stat(path, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != m->files[i].bytes)
            return false;
    }
    return true;
}

static void tidy(void *arg, const char *folder, const struct map *m)
{
    (void)arg;
    uint64_t all = 0;
    for (uint32_t i = 0; i < m->n_file; i++)
        all += m->files[i].bytes;
    if (map_bytes(m) != all || !files_are_there(folder, m)) return;
    char whole[STORE_PATH_MAX], path[STORE_FILE_MAX];
    snprintf(whole, sizeof whole, "%s", folder);
    whole[strlen(whole) - strlen(STORE_PART)] = 0;
    if (rename(folder, whole)) {
        log_warn("store: cannot rename %s: %s", folder, strerror(errno));
        return;
    }
    snprintf(path, sizeof path, "%s/" STORE_MAP_NAME, whole);
    unlink(path);
    log_info("store: %s is whole (%.1f MiB)", whole, (double)all / (1 << 20));
}

void store_tidy(const char *dir)
{
    each_part(dir, tidy, NULL);
}
