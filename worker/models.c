#include "worker/models.h"
#include "proto/base/log.h"
#include "topology/file.h"
#include "topology/shape.h"
#include "topology/tensors.h"
#include "worker/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

enum { HEADERS_MAX = 1 << 30 }; // memory for one model's tables

static bool is_gguf(const char *name)
{
    const size_t n = strlen(name);
    return n > 5 && !strcmp(name + n - 5, ".gguf");
}

// A folder as downloaded from a hub.
static bool is_checkpoint(const char *folder)
{
    char config[4096];
    struct stat st;
    const int n = snprintf(config, sizeof config, "%s/config.json", folder);
    return n < (int)sizeof config && !stat(config, &st) && S_ISREG(st.st_mode);
}

static void stem_of(const char *path, char *out, size_t size)
{
    size_t len;
    const char *stem = file_stem(path, &len);
    snprintf(out, size, "%.*s", (int)len, stem);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e) *p = '?';
}

// Only headers are read.
static err_t identify(const char *path, uint8_t hash[32], bool *has_weights, struct err_text *why)
{
    struct arena arena;
    struct tensors *t = NULL;
    struct shape shape;
    arena_init(&arena, HEADERS_MAX);
    err_t e = shape_is(path) ? shape_open(path, &arena, &shape, why)
                             : tensors_open(path, &arena, &t, why);
    if (!e) {
        memcpy(hash, t ? t->hash : shape.hash, 32);
        *has_weights = !t || t->n > 0;
    }
    if (t) tensors_close(t);
    arena_fini(&arena);
    return e;
}

static err_t add_model(struct models *m, const char *path, struct err_text *why)
{
    if (m->n == WIRE_MODELS_MAX)
        return err_say(why, ERR_TOO_LARGE, "more than %d models", WIRE_MODELS_MAX);
    struct models_file f = {0};
    bool has_weights = false;
    err_t e = identify(path, f.hash, &has_weights, why);
    if (e) return e;
    if (!has_weights || models_find(m, f.hash))
        return OK; // only a vocabulary: nothing to serve; or a second copy, or piece, of the same
    f.path = strdup(path);
    if (!f.path) return err_say(why, ERR_MEMORY, "no memory for a path");
    stem_of(path, f.name, sizeof f.name);
    m->files[m->n++] = f;
    return OK;
}

static err_t add_folder(struct models *m, const char *path, struct err_text *why)
{
    struct dirent **names;
    const int n = scandir(path, &names, NULL, alphasort);
    if (n < 0) return err_say(why, ERR_CONFIG, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        char file[4096];
        struct err_text reason;
        const int len = snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
        if (len < (int)sizeof file && (is_gguf(file) || is_checkpoint(file)) &&
            add_model(m, file, &reason))
            log_warn("left out: %s", reason.s);
        free(names[i]);
    }
    free(names);
    return OK;
}

static err_t add_path(struct models *m, const char *path, struct err_text *why)
{
    struct stat st;
    if (shape_is(path)) return add_model(m, path, why);
    if (stat(path, &st)) return err_say(why, ERR_CONFIG, "%s: %s", path, strerror(errno));
    return S_ISDIR(st.st_mode) && !is_checkpoint(path) ? add_folder(m, path, why)
                                                       : add_model(m, path, why);
}

err_t models_scan(const char *const *paths, struct models *out, struct err_text *why)
{
    struct models m = {.n = 0};
    err_t e = OK;
    for (size_t i = 0; !e && paths && paths[i]; i++)
        e = add_path(&m, paths[i], why);
    if (e)
        models_free(&m);
    else
        *out = m;
    return e;
}

void models_add_store(struct models *m, const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *at; (at = readdir(d));) {
        char path[4096];
        struct err_text why;
        uint8_t hash[32];
        bool is_whole;
        if (!store_name_read(at->d_name, hash, &is_whole) || !is_whole) continue;
        const int len = snprintf(path, sizeof path, "%s/%s", dir, at->d_name);
        if (len < (int)sizeof path && add_path(m, path, &why)) log_warn("left out: %s", why.s);
    }
    closedir(d);
}

void models_drop_missing(struct models *m, const char *dir)
{
    const size_t len = strlen(dir);
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const char *path = m->files[i].path;
        const bool is_gone = !strncmp(path, dir, len) && path[len] == '/' && access(path, F_OK);
        if (is_gone)
            free(m->files[i].path);
        else
            m->files[n++] = m->files[i];
    }
    m->n = n;
}

void models_free(struct models *m)
{
    for (uint32_t i = 0; i < m->n; i++)
        free(m->files[i].path);
    m->n = 0;
}

const struct models_file *models_find(const struct models *m, const uint8_t hash[32])
{
    for (uint32_t i = 0; i < m->n; i++)
        if (!memcmp(m->files[i].hash, hash, 32)) return &m->files[i];
    return NULL;
}
