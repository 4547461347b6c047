// model.safetensors.index.json of a sharded checkpoint: {"metadata": {...}, "weight_map": {tensor:
// file, ...}}. It repeats what the files' headers say, and with experts one by one it is as long as
// all of them, so it is read like them: in one pass, without a tree.
#include "topology/tensors_build.h"

#include "topology/file.h"
#include "topology/names.h"
#include "topology/pull.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MAX = 256 << 20, SHARD_NAME_MAX = 200 };

struct reading {
    const struct tensors_build *b;
    struct pull pull;
    struct tensors_index *x;
    struct names by_shard;
};

static const char *shard_at(const void *table, uint32_t i, uint64_t *len)
{
    const char *name = ((const struct tensors_shard *)table)[i].name;
    *len = strlen(name);
    return name;
}

static bool is_shard(const char *name, size_t len)
{
    static const char end[] = ".safetensors";
    const size_t n = sizeof end - 1;
    return len > n && strlen(name) == len && len <= SHARD_NAME_MAX && name[0] != '.' &&
           !strchr(name, '/') && strcmp(name + len - n, end) == 0;
}

static err_t shard_number(struct reading *r, const char *name, size_t len, int32_t *out)
{
    struct tensors_index *x = r->x;
    // Mostly the one of the tensor before.
    const int32_t last = x->n ? x->entries[x->n - 1].shard : -1;
    const bool is_last = last >= 0 && strlen(x->shards[last].name) == len &&
                         memcmp(x->shards[last].name, name, len) == 0;
    const int64_t at = is_last ? last : names_find(&r->by_shard, name, len);
    *out = at < 0 ? x->n_shard : (int32_t)at;
    if (at >= 0) return OK;
    if (!is_shard(name, len))
        return pull_fail(&r->pull, "'%.40s' is no *.safetensors of this folder", name);
    if (x->n_shard == TENSORS_FILES_MAX)
        return pull_fail(&r->pull, "is in file number %d, allowed are %d", x->n_shard + 1,
                         TENSORS_FILES_MAX);
    const char *copy = arena_copy_str(r->b->a, name, len);
    if (!copy) return tensors_build_no_memory(r->b, r->pull.path);
    x->shards[x->n_shard].name = copy;
    names_add(&r->by_shard, (uint32_t)x->n_shard++);
    return OK;
}

static err_t add_entry(struct reading *r, int32_t shard)
{
    struct tensors_index *x = r->x;
    if (x->n == TENSORS_MAX)
        return pull_fail(&r->pull, "the model has over %d tensors", TENSORS_MAX);
    if (x->n == x->cap) {
        const size_t cap = x->cap ? 2 * x->cap : 1024;
        struct tensors_entry *more = realloc(x->entries, cap * sizeof *more);
        if (!more) return tensors_build_no_memory(r->b, r->pull.path);
        x->entries = more;
        x->cap = cap;
    }
    const char *name = arena_copy_str(r->b->a, r->pull.name, r->pull.name_len);
    if (!name) return tensors_build_no_memory(r->b, r->pull.path);
    x->entries[x->n++] = (struct tensors_entry){name, shard};
    return OK;
}

static err_t read_map(struct reading *r)
{
    struct pull *s = &r->pull;
    bool again = false;
    err_t e = pull_open(s, '{', '}', &again);
    while (!e && again) {
        char shard[PULL_NAME_MAX + 1];
        size_t len;
        int32_t number;
        if ((e = pull_name(s))) return e;
        if (pull_peek(s) != '"')
            return pull_fail(s, "byte %llu of %s: expected a file name", (unsigned long long)s->at,
                             s->part);
        if ((e = pull_string(s, shard, sizeof shard, &len))) return e;
        if ((e = shard_number(r, shard, len, &number))) return e;
        if ((e = add_entry(r, number))) return e;
        s->name_len = 0;
        e = pull_more(s, '}', &again);
    }
    return e;
}

static err_t read_text(struct reading *r)
{
    struct pull *s = &r->pull;
    bool again = false;
    err_t e = pull_open(s, '{', '}', &again);
    while (!e && again) {
        char key[PULL_NAME_MAX + 1];
        size_t len;
        if ((e = pull_string(s, key, sizeof key, &len)) || (e = pull_expect(s, ':'))) return e;
        if (strcmp(key, "weight_map"))
            e = pull_skip(s);
        else if (r->x->n)
            e = pull_fail(s, "weight_map is there twice");
        else if (pull_peek(s) == '{')
            e = read_map(r);
        else
            break;
        if (!e) e = pull_more(s, '}', &again);
    }
    if (e) return e;
    if (r->x->n == 0) return pull_fail(s, "has no weight_map with tensors");
    return pull_end(s);
}

static err_t read_file(struct reading *r, const struct file *f)
{
    struct pull *s = &r->pull;
    if (f->bytes > INDEX_BYTES_MAX)
        return pull_fail(s, "has %llu bytes, allowed %d", (unsigned long long)f->bytes,
                         INDEX_BYTES_MAX);
    uint8_t *text = malloc(f->bytes + 1);
    if (!text) return tensors_build_no_memory(r->b, s->path);
    err_t e = file_read(f, 0, text, f->bytes, s->why);
    s->text = text;
    s->len = f->bytes;
    if (!e) e = read_text(r);
    free(text);
    return e;
}

err_t tensors_index_read(const struct tensors_build *b, const char *path, struct tensors_index *out)
{
    struct tensors_index x = {.shards = calloc(TENSORS_FILES_MAX, sizeof *x.shards)};
    struct reading r = {.b = b, .x = &x, .pull = {.path = path, .part = "it", .why = b->why}};
    struct file f;
    err_t e =
        x.shards ? names_init(&r.by_shard, x.shards, shard_at, TENSORS_FILES_MAX) : ERR_MEMORY;
    if (e) {
        free(x.shards);
        return err_say(b->why, e, "%s: no memory for its tables", file_tail(path));
    }
    e = file_open(path, &f, b->why);
    if (!e) {
        e = read_file(&r, &f);
        file_close(&f);
    }
    names_fini(&r.by_shard);
    if (e)
        tensors_index_free(&x);
    else
        *out = x;
    return e;
}

void tensors_index_free(struct tensors_index *x)
{
    free(x->entries);
    free(x->shards);
    *x = (struct tensors_index){0};
}
