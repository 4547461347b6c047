#include "topology/tensors_build.h"

#include "topology/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---- filling

err_t tensors_build_no_memory(const struct tensors_build *b, const char *path)
{
    return err_say(b->why, ERR_MEMORY, "%s: no memory for its tables", file_tail(path));
}

// Room for one more item in an array that doubles.
static bool grow(void **array, int32_t n, int32_t *cap, size_t size)
{
    if (n < *cap) return true;
    const int32_t more = *cap ? 2 * *cap : 16;
    void *p = realloc(*array, (size_t)more * size);
    if (!p) return false;
    *array = p;
    *cap = more;
    return true;
}

err_t tensors_build_file(struct tensors_build *b, const char *path, uint64_t bytes)
{
    void *files = b->files;
    const bool room = grow(&files, b->n_file, &b->cap_file, sizeof *b->files);
    b->files = files;
    char *copy = room ? arena_copy_str(b->a, path, strlen(path)) : NULL;
    if (!copy) return tensors_build_no_memory(b, path);
    b->files[b->n_file++] = (struct model_file){.path = copy, .bytes = bytes};
    b->t->file_bytes += bytes;
    return OK;
}

err_t tensors_build_tensor(struct tensors_build *b, const char *name, size_t len,
                           const struct model_tensor *t)
{
    if (b->n == TENSORS_MAX)
        return err_say(b->why, ERR_MODEL, "%s: the model has over %d tensors",
                       file_tail(b->t->path), TENSORS_MAX);
    void *items = b->items;
    const bool room = grow(&items, b->n, &b->cap, sizeof *b->items);
    b->items = items;
    char *copy = room ? arena_copy_str(b->a, name, len) : NULL;
    if (!copy) return tensors_build_no_memory(b, b->t->path);
    b->items[b->n] = *t;
    b->items[b->n].name = copy;
    b->items[b->n++].file = b->n_file - 1;
    return OK;
}

static const char *name_at(const void *table, uint32_t i, uint64_t *len)
{
    const char *name = ((const struct model_tensor *)table)[i].name;
    *len = strlen(name);
    return name;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static err_t finish(struct tensors_build *b)
{
    struct tensors *t = b->t;
    t->items = arena_copy(b->a, b->items, (size_t)b->n * sizeof *b->items);
    t->files = arena_copy(b->a, b->files, (size_t)b->n_file * sizeof *b->files);
    if (!t->items || !t->files) return tensors_build_no_memory(b, t->path);
    t->n = b->n;
    t->n_file = b->n_file;
    if (names_init(&t->by_name, t->items, name_at, (uint64_t)t->n))
        return tensors_build_no_memory(b, t->path);
    for (int32_t i = 0; i < t->n; i++) {
        if (names_add(&t->by_name, (uint32_t)i)) continue;
        const struct model_tensor *twice = &t->items[i], *first = tensors_find(t, twice->name);
        return err_say(b->why, ERR_MODEL,
                       "%s: tensor '%.64s': is there twice, the first is in %.80s",
                       file_tail(t->files[twice->file].path), twice->name,
                       base_name(t->files[first->file].path));
    }
    sha256_end(&b->sha, t->hash);
    return OK;
}

// ---- opening

static bool ends_with(const char *s, const char *end)
{
    size_t len = strlen(s), n = strlen(end);
    return len >= n && strcmp(s + len - n, end) == 0;
}

// Folder made real, last part as given.
static err_t real_path(struct tensors_build *b, const char *path, bool is_dir)
{
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
    char *dir = arena_copy_str(b->a, path, is_dir ? strlen(path) : (size_t)(last - path));
    if (!dir) return tensors_build_no_memory(b, path);
    char *real = realpath(*dir ? dir : ".", NULL);
    if (!real) return err_say(b->why, ERR_SYSTEM, "%s: cannot open: %m", file_tail(path));
    b->t->path = is_dir ? arena_copy_str(b->a, real, strlen(real))
                        : arena_printf(b->a, "%s/%s", strcmp(real, "/") ? real : "", last);
    free(real);
    return b->t->path ? OK : tensors_build_no_memory(b, path);
}

static err_t open_path(struct tensors_build *b, const char *path)
{
    static const char *const pickles[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
    struct stat st;
    if (stat(path, &st)) return err_say(b->why, ERR_SYSTEM, "%s: cannot open: %m", file_tail(path));
    err_t e = real_path(b, path, S_ISDIR(st.st_mode));
    if (e) return e;
    if (S_ISDIR(st.st_mode)) {
        struct tensors_index index = {0};
        b->t->dir = b->t->path;
        e = tensors_folder(b, &index);
        if (!e) e = finish(b);
        if (!e) e = tensors_folder_check(b, &index);
        tensors_index_free(&index);
        return e;
    }
    if (ends_with(path, ".safetensors") || ends_with(path, ".json"))
        return err_say(b->why, ERR_MODEL,
                       "%s: give the folder it lies in: config.json and all weights are read",
                       file_tail(path));
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++)
        if (ends_with(path, pickles[i]))
            return err_say(
                b->why, ERR_MODEL,
                "%s: is a pickle, which can run code: only GGUF and safetensors are read",
                file_tail(path));
    if ((e = tensors_gguf(b))) return e;
    return finish(b);
}

err_t tensors_open(const char *path, struct arena *a, struct tensors **out, struct err_text *why)
{
    struct tensors_build b = {.a = a, .why = why, .t = calloc(1, sizeof *b.t)};
    if (!b.t) return tensors_build_no_memory(&b, path);
    sha256_init(&b.sha);
    err_t e = open_path(&b, path);
    free(b.files);
    free(b.items);
    if (e)
        tensors_close(b.t);
    else
        *out = b.t;
    return e;
}

void tensors_close(struct tensors *t)
{
    if (!t) return;
    gguf_close(t->gguf);
    names_fini(&t->by_name);
    free(t);
}

const struct model_tensor *tensors_find(const struct tensors *t, const char *name)
{
    int64_t i = names_find(&t->by_name, name, strlen(name));
    return i < 0 ? NULL : &t->items[i];
}
