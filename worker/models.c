#include "worker/models.h"
#include "proto/base/log.h"
#include "topology/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_gguf(const char *name)
{
    const size_t n = strlen(name);
    return n > 5 && !strcmp(name + n - 5, ".gguf");
}

static void stem_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');
    snprintf(out, size, "%s", slash ? slash + 1 : path);
    if (is_gguf(out)) out[strlen(out) - 5] = 0;
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e) *p = '?';
}

static err_t add_file(struct models *m, const char *path, struct err_text *why)
{
    if (m->n == WIRE_MODELS_MAX)
        return err_say(why, ERR_TOO_LARGE, "more than %d model files", WIRE_MODELS_MAX);
    struct gguf *g;
    err_t e = gguf_open(path, &g, why);
    if (e) return e;
    struct models_file f = {.path = strdup(path)};
    memcpy(f.hash, gguf_hash(g), sizeof f.hash);
    const bool has_weights = gguf_n_tensor(g) > 0;
    gguf_close(g);
    if (!f.path || !has_weights || models_find(m, f.hash)) {
        free(f.path);
        if (has_weights && !f.path) return err_say(why, ERR_MEMORY, "no memory for a path");
        return OK; // a second copy, or only a vocabulary: nothing to serve
    }
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
        if (is_gguf(names[i]->d_name) && len < (int)sizeof file && add_file(m, file, &reason))
            log_warn("left out: %s", reason.s);
        free(names[i]);
    }
    free(names);
    return OK;
}

err_t models_scan(const char *const *paths, struct models *out, struct err_text *why)
{
    struct models m = {.n = 0};
    err_t e = OK;
    for (size_t i = 0; !e && paths && paths[i]; i++) {
        struct stat st;
        if (stat(paths[i], &st))
            e = err_say(why, ERR_CONFIG, "%s: %s", paths[i], strerror(errno));
        else
            e = S_ISDIR(st.st_mode) ? add_folder(&m, paths[i], why) : add_file(&m, paths[i], why);
    }
    if (e)
        models_free(&m);
    else
        *out = m;
    return e;
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
