// The roll of a coordinator's state folder. roll/NAME has a line for each certificate that was
// given to that name and is still good: serial number, and when it was given and expires (seconds
// since 1970). It is for people to read; what decides is revoked/NAME.
#include "proto/link/identity_state.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LINES_MAX = 64 }; // of one name: the last that were given

struct line {
    char serial[IDENTITY_SERIAL_MAX];
    long long issued_s, expires_s;
};

static err_t path_in(const char *dir, const char *folder, const char *name, char out[PATH_MAX],
                     struct err_text *why)
{
    const int n =
        snprintf(out, PATH_MAX, "%s/%s%s%s", dir, folder, name ? "/" : "", name ? name : "");
    if (n > 0 && n < PATH_MAX) return OK;
    return err_say(why, ERR_CONFIG, "%s: the name is too long", dir);
}

static const char *line_after(const char *at)
{
    const char *end = strchr(at, '\n');
    return end ? end + 1 : NULL;
}

// The lines of a name's file, the newest last. Others' lines are skipped.
static err_t lines_read(const char *dir, const char *name, struct line *lines, uint32_t *n,
                        struct err_text *why)
{
    char file[IDENTITY_NAME_MAX + 16];
    struct buf text = {0};
    snprintf(file, sizeof file, "roll/%s", name);
    err_t e = identity_store_read(dir, file, &text, why);
    *n = 0;
    for (const char *at = text.data; !e && at && *at; at = line_after(at)) {
        struct line l;
        if (sscanf(at, "%40[0-9a-f] %lld %lld", l.serial, &l.issued_s, &l.expires_s) != 3) continue;
        if (*n == LINES_MAX) memmove(lines, lines + 1, --*n * sizeof *lines);
        lines[(*n)++] = l;
    }
    buf_fini(&text);
    return e;
}

static err_t lines_write(const char *dir, const char *name, const struct line *lines, uint32_t n,
                         struct err_text *why)
{
    char path[PATH_MAX], file[IDENTITY_NAME_MAX + 16];
    struct buf text = {0};
    snprintf(file, sizeof file, "roll/%s", name);
    err_t e = path_in(dir, "roll", NULL, path, why);
    if (!e) e = identity_store_open(path, why);
    for (uint32_t i = 0; i < n; i++)
        buf_printf(&text, "%s %lld %lld\n", lines[i].serial, lines[i].issued_s, lines[i].expires_s);
    if (!e) e = buf_ok(&text) ? identity_store_write(dir, file, &text, why) : ERR_MEMORY;
    buf_fini(&text);
    return e;
}

err_t identity_roll_add(const char *dir, const char *name, gnutls_x509_crt_t crt, int64_t now_s,
                        struct err_text *why)
{
    struct line lines[LINES_MAX];
    uint32_t n, n_kept = 0;
    err_t e = lines_read(dir, name, lines, &n, why);
    if (e && e != ERR_NOT_FOUND) return e;
    for (uint32_t i = 0; i < n; i++)
        if (lines[i].expires_s > now_s) lines[n_kept++] = lines[i];
    if (n_kept == LINES_MAX) memmove(lines, lines + 1, --n_kept * sizeof *lines);
    struct line *last = &lines[n_kept++];
    e = identity_cert_serial(crt, last->serial, why);
    last->issued_s = now_s;
    last->expires_s = gnutls_x509_crt_get_expiration_time(crt);
    return e ? e : lines_write(dir, name, lines, n_kept, why);
}

static err_t folder_check(const char *dir, struct err_text *why)
{
    char path[PATH_MAX];
    const int n = snprintf(path, sizeof path, "%s/ca.key", dir);
    if (n > 0 && n < PATH_MAX && access(path, F_OK) == 0) return OK;
    return err_say(why, ERR_CONFIG, "%s is not the state folder of a coordinator", dir);
}

static int is_name(const struct dirent *f)
{
    return identity_name_ok(f->d_name);
}

err_t identity_workers(const char *state_dir, int64_t now_s, identity_worker_fn *each, void *arg,
                       struct err_text *why)
{
    char path[PATH_MAX];
    struct dirent **files;
    err_t e = folder_check(state_dir, why);
    if (!e) e = path_in(state_dir, "roll", NULL, path, why);
    if (e) return e;
    const int n_file = scandir(path, &files, is_name, alphasort);
    if (n_file < 0 && errno == ENOENT) return OK;
    if (n_file < 0) return err_say(why, ERR_CONFIG, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n_file; i++) {
        const char *name = files[i]->d_name;
        struct line lines[LINES_MAX];
        struct identity_worker w = {.name = name};
        uint32_t n = 0;
        if (!e) e = lines_read(state_dir, name, lines, &n, why);
        for (uint32_t k = 0; k < n; k++)
            w.n_good += lines[k].expires_s > now_s;
        if (!e && n) {
            w.serial = lines[n - 1].serial;
            w.issued_s = lines[n - 1].issued_s;
            w.expires_s = lines[n - 1].expires_s;
            w.is_revoked = identity_roll_is_revoked(state_dir, name);
            each(arg, &w);
        }
        free(files[i]);
    }
    free(files);
    return e;
}

bool identity_roll_is_revoked(const char *dir, const char *name_or_serial)
{
    char path[PATH_MAX];
    if (path_in(dir, "revoked", name_or_serial, path, NULL)) return true;
    return access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

err_t identity_revoke(const char *state_dir, const char *name, bool is_revoked, bool *was_revoked,
                      struct err_text *why)
{
    char path[PATH_MAX];
    if (!identity_name_ok(name))
        return err_say(why, ERR_INVALID, "\"%s\" is no worker's name (a-z, 0-9 and -)", name);
    err_t e = folder_check(state_dir, why);
    if (!e) e = path_in(state_dir, "revoked", NULL, path, why);
    if (!e) e = identity_store_open(path, why);
    if (!e) e = path_in(state_dir, "revoked", name, path, why);
    if (e) return e;
    *was_revoked = identity_roll_is_revoked(state_dir, name);
    if (is_revoked == *was_revoked) return OK;
    if (is_revoked) return identity_write_file(path, "", 0, why);
    if (unlink(path) == 0) return OK;
    return err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(errno));
}
