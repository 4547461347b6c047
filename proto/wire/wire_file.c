// wire_file: the model's files, offered in WELCOME and copied range by range.
#include "proto/wire/wire_priv.h"

#include <string.h>

// -- in --

// A name becomes a file in the receiver's folder: it must not lead out of it.
static bool file_name_ok(const char *s)
{
    return s[0] && s[0] != '.' && !strchr(s, '/') &&
           wire_text_ok(s, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE);
}

err_t wire_file_list_in(struct wire_in *in, const Trireme__Welcome *w, struct msg_welcome *out)
{
    if (!w->n_files) return OK;
    WIRE_NEED(in, w->n_files <= WIRE_FILES_MAX, "welcome: %zu files, limit %d", w->n_files,
              WIRE_FILES_MAX);
    err_t e = wire_hash_in(in, "welcome: model hash", w->model_hash, out->model_hash);
    if (e) return e;
    struct msg_file *to = arena_take_n(in->arena, w->n_files, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "welcome: no memory for its files");
    for (size_t i = 0; i < w->n_files; i++) {
        const Trireme__File *f = w->files[i];
        WIRE_NEED(in, file_name_ok(f->name), "welcome: file %zu has a bad name", i);
        WIRE_NEED(in, f->header_bytes <= f->bytes, "welcome: file %zu is shorter than its header",
                  i);
        to[i] = (struct msg_file){f->name, f->bytes, f->header_bytes};
    }
    out->files = to;
    out->n_file = (uint32_t)w->n_files;
    return OK;
}

err_t wire_file_fetch_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Fetch *f = env->fetch;
    WIRE_NEED(in, f->file < WIRE_FILES_MAX, "fetch: file %u, limit %d", f->file, WIRE_FILES_MAX);
    WIRE_NEED(in, f->bytes >= 1 && f->bytes <= WIRE_CHUNK_MAX, "fetch: %u bytes, must be 1 to %d",
              f->bytes, WIRE_CHUNK_MAX);
    WIRE_NEED(in, f->offset <= (uint64_t)INT64_MAX - f->bytes, "fetch: %u bytes from %llu",
              f->bytes, (unsigned long long)f->offset);
    out->fetch =
        (struct msg_fetch){.id = f->id, .file = f->file, .offset = f->offset, .bytes = f->bytes};
    return wire_hash_in(in, "fetch: model hash", f->model_hash, out->fetch.model_hash);
}

err_t wire_file_chunk_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Chunk *c = env->chunk;
    WIRE_NEED(in, c->data.len <= WIRE_CHUNK_MAX, "chunk: %zu bytes, limit %d", c->data.len,
              WIRE_CHUNK_MAX);
    WIRE_NEED(in, (c->code == OK) == (c->data.len > 0), "chunk: code %d with %zu bytes", c->code,
              c->data.len);
    WIRE_NEED(in, wire_text_ok(c->why, sizeof in->why->s, WIRE_ONE_LINE), "chunk: bad text");
    out->chunk = (struct msg_chunk){
        .id = c->id,
        .code = c->code,
        .why = c->why,
        .checksum = c->checksum,
        .data = c->data.data,
        .n_data = (uint32_t)c->data.len,
    };
    return OK;
}

// -- out --

bool wire_file_list_out(struct arena *a, const struct msg_welcome *w, Trireme__Welcome *out)
{
    if (!w->n_file) return true;
    Trireme__File *to = arena_take_n(a, w->n_file, sizeof *to);
    out->files = arena_take_n(a, w->n_file, sizeof *out->files);
    if (!to || !out->files) return false;
    out->n_files = w->n_file;
    out->model_hash = wire_bytes_out(w->model_hash, sizeof w->model_hash);
    for (uint32_t i = 0; i < w->n_file; i++) {
        trireme__file__init(out->files[i] = &to[i]);
        to[i].name = wire_text_out(w->files[i].name);
        to[i].bytes = w->files[i].bytes;
        to[i].header_bytes = w->files[i].header_bytes;
    }
    return true;
}

bool wire_file_fetch_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    const struct msg_fetch *f = &m->fetch;
    env->fetch->id = f->id;
    env->fetch->model_hash = wire_bytes_out(f->model_hash, sizeof f->model_hash);
    env->fetch->file = f->file;
    env->fetch->offset = f->offset;
    env->fetch->bytes = f->bytes;
    return true;
}

bool wire_file_chunk_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    const struct msg_chunk *c = &m->chunk;
    env->chunk->id = c->id;
    env->chunk->code = c->code;
    env->chunk->why = wire_text_out(c->why);
    env->chunk->checksum = c->checksum;
    env->chunk->data = wire_bytes_out(c->data, c->n_data);
    return true;
}
