#include "worker/store_keep.h"

#include "proto/base/log.h"
#include "worker/store_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DISK_BLOCK = 512 };

typedef void each_fn(void *arg, int folder, const char *name);

// Every name in a folder but its own and its parent's; -1: it cannot be read.
static int each_name(const char *path, each_fn *fn, void *arg)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) close(fd);
    if (!d) return -1;
    for (struct dirent *at; (at = readdir(d));)
        if (strcmp(at->d_name, ".") && strcmp(at->d_name, "..")) fn(arg, fd, at->d_name);
    closedir(d);
    return 0;
}

static void add_file(void *arg, int folder, const char *name)
{
    struct store_copy *c = arg;
    struct stat st;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) return;
    c->disk_bytes += (uint64_t)st.st_blocks * DISK_BLOCK;
    if (name[0] == '.') return; // the map
    c->model_bytes += (uint64_t)st.st_size;
    c->n_file++;
    if (!c->file[0] || strcmp(name, c->file) < 0) snprintf(c->file, sizeof c->file, "%.95s", name);
}

struct found {
    const char *dir;
    struct store_copy *out;
    uint32_t n, most;
};

static void add_copy(void *arg, int folder, const char *name)
{
    struct found *f = arg;
    struct store_copy c = {0};
    struct stat st;
    char path[STORE_PATH_MAX];
    if (f->n == f->most || !store_name_read(name, c.hash, &c.is_whole)) return;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(st.st_mode)) return;
    store_name_folder(path, f->dir, c.hash, c.is_whole);
    c.used_s = st.st_mtime;
    if (each_name(path, add_file, &c)) return; // gone meanwhile
    f->out[f->n++] = c;
}

static int by_use(const void *a, const void *b)
{
    const struct store_copy *x = a, *y = b;
    if (x->used_s != y->used_s) return x->used_s < y->used_s ? -1 : 1;
    return memcmp(x->hash, y->hash, sizeof x->hash);
}

err_t store_copies(const char *dir, struct store_copy *out, uint32_t *n, struct err_text *why)
{
    struct found f = {.dir = dir, .out = out, .most = *n};
    if (strlen(dir) + 64 + sizeof STORE_PART + 1 > STORE_PATH_MAX)
        return err_say(why, ERR_CONFIG, "store: folder's path is too long");
    if (each_name(dir, add_copy, &f) && errno != ENOENT)
        return err_say(why, ERR_SYSTEM, "store: cannot read %s: %s", dir, strerror(errno));
    qsort(out, f.n, sizeof *out, by_use);
    *n = f.n;
    return OK;
}

uint64_t store_keep_room(const char *dir, uint64_t reserve_bytes, uint64_t limit_bytes)
{
    uint32_t n = STORE_COPIES_MAX;
    uint64_t room = store_room(dir, reserve_bytes);
    struct store_copy *copies = limit_bytes ? calloc(n, sizeof *copies) : NULL;
    if (!copies) return room;
    const bool ok = store_copies(dir, copies, &n, NULL) == OK;
    for (uint32_t i = 0; ok && i < n; i++) // unfinished ones are in the room already
        room += copies[i].is_whole ? copies[i].disk_bytes : 0;
    free(copies);
    return room < limit_bytes ? room : limit_bytes;
}

void store_used(const char *dir, const uint8_t hash[32])
{
    char path[STORE_PATH_MAX];
    for (int whole = 0; whole < 2; whole++) {
        store_name_folder(path, dir, hash, whole);
        if (utimensat(AT_FDCWD, path, NULL, 0) && errno != ENOENT)
            log_warn("store: cannot mark %s as used: %s", path, strerror(errno));
    }
}

static void remove_file(void *arg, int folder, const char *name)
{
    if (unlinkat(folder, name, 0)) *(int *)arg = errno;
}

err_t store_remove(const char *dir, const struct store_copy *c, struct err_text *why)
{
    char path[STORE_PATH_MAX], whole[STORE_PATH_MAX];
    int failed = 0;
    store_name_folder(path, dir, c->hash, false);
    store_name_folder(whole, dir, c->hash, true);
    // By this name, what is left when removing is cut short is not taken for a whole copy.
    if (c->is_whole && rename(whole, path)) memcpy(path, whole, sizeof path);
    if (each_name(path, remove_file, &failed)) failed = errno;
    if (!failed && rmdir(path)) failed = errno;
    return failed ? err_say(why, ERR_SYSTEM, "store: cannot remove %s: %s", path, strerror(failed))
                  : OK;
}

static bool is_kept(const struct store_copy *c, const uint8_t (*keep)[32], uint32_t n_keep)
{
    for (uint32_t i = 0; i < n_keep; i++)
        if (!memcmp(c->hash, keep[i], sizeof c->hash)) return true;
    return false;
}

uint64_t store_trim(const char *dir, uint64_t most_bytes, const uint8_t (*keep)[32],
                    uint32_t n_keep)
{
    uint32_t n = STORE_COPIES_MAX;
    uint64_t sum = 0;
    struct err_text why = {0};
    struct store_copy *copies = calloc(n, sizeof *copies);
    if (!copies || store_copies(dir, copies, &n, &why)) {
        log_warn("%s", copies ? why.s : "store: no memory for a list of copies");
        n = 0;
    }
    for (uint32_t i = 0; i < n; i++)
        sum += copies[i].disk_bytes;
    for (uint32_t i = 0; i < n && sum > most_bytes; i++) {
        const struct store_copy *c = &copies[i];
        if (is_kept(c, keep, n_keep)) continue;
        if (store_remove(dir, c, &why)) { // then the next oldest has to go
            log_warn("%s", why.s);
            continue;
        }
        sum -= c->disk_bytes;
        log_info("store: the copy of %s was used longest ago and is removed (%.1f MiB)", c->file,
                 (double)c->disk_bytes / (1 << 20));
    }
    free(copies);
    return sum;
}
