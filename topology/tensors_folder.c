// Folders as Hugging Face's hub has them into the table.
#include "topology/tensors_build.h"

#include "proto/base/log.h"
#include "topology/file.h"
#include "topology/safetensors.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_BYTES_MAX = 64 << 20 };
static const char index_name[] = "model.safetensors.index.json";

__attribute__((format(printf, 2, 3))) static err_t fail(const struct tensors_build *b,
                                                        const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_say(b->why, ERR_MODEL, "%s: %s", file_tail(b->t->dir), msg);
}

static char *path_in(const struct tensors_build *b, const char *name)
{
    return arena_printf(b->a, "%s/%s", strcmp(b->t->dir, "/") ? b->t->dir : "", name);
}

// There is something of that name, be it a link to nowhere.
static bool exists(const struct tensors_build *b, const char *name)
{
    struct stat st;
    char *path = path_in(b, name);
    return path && lstat(path, &st) == 0;
}

// ---- JSON files

static err_t parse(const struct tensors_build *b, const char *name, const char *text, size_t len,
                   const struct json **out)
{
    const struct json *j;
    struct err_text inner = {{0}};
    err_t e = json_read(text, len, b->a, &j, NULL, &inner);
    if (e) return fail(b, "%s: %.150s", name, inner.s);
    if (j->kind != J_OBJ)
        return fail(b, "%s: is %s, expected an object", name, json_kind_name(j->kind));
    *out = j;
    return OK;
}

// The text counts for the hash.
static err_t read_json(struct tensors_build *b, const char *name, const struct json **out)
{
    struct file f;
    char *path = path_in(b, name);
    if (!path) return tensors_build_no_memory(b, b->t->dir);
    err_t e = file_open(path, &f, b->why);
    if (e) return e;
    if (f.bytes > JSON_BYTES_MAX) {
        file_close(&f);
        return fail(b, "%s has %llu bytes, allowed %d", name, (unsigned long long)f.bytes,
                    JSON_BYTES_MAX);
    }
    char *text = malloc(f.bytes + 1);
    e = text ? file_read(&f, 0, text, f.bytes, b->why) : tensors_build_no_memory(b, path);
    if (!e) {
        sha256_add(&b->sha, text, f.bytes);
        e = parse(b, name, text, f.bytes, out);
    }
    free(text);
    file_close(&f);
    return e;
}

// ---- which files

static bool ends_with(const char *s, const char *end)
{
    size_t len = strlen(s), n = strlen(end);
    return len > n && strcmp(s + len - n, end) == 0;
}

// The only *.safetensors; Mistral's own format (consolidated*) does not count beside another.
static err_t only_file(const struct tensors_build *b, char *name, size_t size)
{
    int n = 0;
    bool found_consolidated = false, has_pickle = false;
    DIR *d = opendir(b->t->dir);
    if (!d) return err_say(b->why, ERR_SYSTEM, "%s: cannot open: %m", file_tail(b->t->dir));
    for (struct dirent *at; (at = readdir(d));) {
        has_pickle = has_pickle || ends_with(at->d_name, ".bin") || ends_with(at->d_name, ".pth");
        if (at->d_name[0] == '.' || !ends_with(at->d_name, ".safetensors")) continue;
        const bool consolidated = strncmp(at->d_name, "consolidated", 12) == 0;
        if (consolidated && n && !found_consolidated) continue;
        if (found_consolidated && !consolidated) n = 0;
        found_consolidated = consolidated;
        n++;
        snprintf(name, size, "%s", at->d_name);
    }
    closedir(d);
    if (n > 1) return fail(b, "has %d *.safetensors but no %s", n, index_name);
    if (n == 0)
        return fail(b, "has no *.safetensors%s",
                    has_pickle ? "; *.bin and *.pth are pickles, which can run code" : "");
    return OK;
}

// ---- reading them

static err_t on_tensor(void *user, const char *name, size_t len, const struct model_tensor *t,
                       struct err_text *why)
{
    (void)why;
    return tensors_build_tensor(user, name, len, t);
}

static err_t read_file(struct tensors_build *b, const char *name)
{
    char *path = path_in(b, name);
    if (!path) return tensors_build_no_memory(b, b->t->dir);
    err_t e = tensors_build_file(b, path, 0);
    if (e) return e;
    const struct safetensors_sink sink = {on_tensor, b};
    struct model_file *f = &b->files[b->n_file - 1];
    e = safetensors_read(path, &sink, &b->sha, &f->bytes, b->why);
    if (!e) b->t->file_bytes += f->bytes;
    return e;
}

static int by_name(const void *pa, const void *pb)
{
    const struct tensors_shard *const *a = pa, *const *b = pb;
    return strcmp((*a)->name, (*b)->name);
}

// The files come in the order of their names, whatever the index's order is: it is no part of the
// hash.
static err_t read_shards(struct tensors_build *b, struct tensors_index *x)
{
    struct tensors_shard **sorted = arena_take_n(b->a, (size_t)x->n_shard, sizeof *sorted);
    if (!sorted) return tensors_build_no_memory(b, b->t->dir);
    for (int32_t i = 0; i < x->n_shard; i++)
        sorted[i] = &x->shards[i];
    qsort(sorted, (size_t)x->n_shard, sizeof *sorted, by_name);
    err_t e = OK;
    for (int32_t i = 0; !e && i < x->n_shard; i++) {
        sorted[i]->file = i;
        e = read_file(b, sorted[i]->name);
    }
    return e;
}

err_t tensors_folder(struct tensors_build *b, struct tensors_index *x)
{
    char name[256] = "model.safetensors";
    if (!exists(b, "config.json"))
        return fail(b, "has no config.json: a model is a folder with config.json and safetensors, "
                       "or a .gguf file");
    err_t e = read_json(b, "config.json", &b->t->config);
    if (!e && exists(b, "hf_quant_config.json"))
        e = read_json(b, "hf_quant_config.json", &b->t->quant_config);
    if (e) return e;
    if (exists(b, name)) return read_file(b, name);
    if (!exists(b, index_name)) {
        e = only_file(b, name, sizeof name);
        return e ? e : read_file(b, name);
    }
    char *path = path_in(b, index_name);
    if (!path) return tensors_build_no_memory(b, b->t->dir);
    e = tensors_index_read(b, path, x);
    return e ? e : read_shards(b, x);
}

err_t tensors_folder_check(const struct tensors_build *b, const struct tensors_index *x)
{
    bool *seen = arena_take_n(b->a, (size_t)b->t->n + 1, sizeof *seen);
    if (!seen) return tensors_build_no_memory(b, b->t->dir);
    for (size_t i = 0; i < x->n; i++) {
        const struct tensors_entry *entry = &x->entries[i];
        const struct tensors_shard *shard = &x->shards[entry->shard];
        const struct model_tensor *t = tensors_find(b->t, entry->name);
        if (!t || t->file != shard->file)
            return fail(b, "%s: tensor '%.64s' is not in %.60s", index_name, entry->name,
                        shard->name);
        if (seen[t - b->t->items])
            return fail(b, "%s: tensor '%.64s' is there twice", index_name, entry->name);
        seen[t - b->t->items] = true;
    }
    if (x->n && (size_t)b->t->n > x->n)
        log_warn("model: %d tensors are in files but not in %s", b->t->n - (int32_t)x->n,
                 index_name);
    return OK;
}
