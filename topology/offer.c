#include "topology/offer.h"

#include "topology/file.h"
#include "topology/safetensors.h"

#include <string.h>
#include <sys/stat.h>

static bool ends_with(const char *s, const char *end)
{
    const size_t len = strlen(s), n = strlen(end);
    return len > n && !strcmp(s + len - n, end);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// What a folder is opened by, beside its weights.
static const char *const texts[] = {"config.json", "hf_quant_config.json",
                                    "model.safetensors.index.json"};
enum { N_TEXT = sizeof texts / sizeof texts[0] };

static bool is_text(const char *name)
{
    for (int i = 0; i < N_TEXT; i++)
        if (!strcmp(name, texts[i])) return true;
    return false;
}

// Files that are neither text nor safetensors are GGUF, whatever they are called.
static bool is_safetensors(const char *name)
{
    return ends_with(name, ".safetensors");
}

static err_t gguf_header(const char *path, uint64_t *out, struct err_text *why)
{
    struct gguf *g;
    err_t e = gguf_open(path, &g, why);
    if (e) return e;
    *out = gguf_header_bytes(g);
    gguf_close(g);
    return OK;
}

// The header was read and checked when the model was opened.
static err_t safetensors_header(const char *path, uint64_t *out, struct err_text *why)
{
    struct file f;
    uint8_t head[8];
    uint64_t len = 0;
    err_t e = file_open(path, &f, why);
    if (e) return e;
    e = file_read(&f, 0, head, sizeof head, why);
    for (int i = 0; i < 8; i++)
        len |= (uint64_t)head[i] << (8 * i);
    if (!e && (f.bytes < 8 || len > f.bytes - 8))
        e = err_say(why, ERR_MODEL, "%s: has changed since it was opened", file_tail(path));
    file_close(&f);
    if (!e) *out = 8 + len;
    return e;
}

static err_t header_bytes(struct offer_file *f, struct err_text *why)
{
    f->header_bytes = f->bytes;
    if (is_text(f->name)) return OK;
    return is_safetensors(f->name) ? safetensors_header(f->path, &f->header_bytes, why)
                                   : gguf_header(f->path, &f->header_bytes, why);
}

err_t offer_make(const struct model *m, struct arena *a, struct offer *out, struct err_text *why)
{
    struct offer o = {.files = arena_take_n(a, (size_t)m->n_file + N_TEXT, sizeof *o.files)};
    if (!o.files) return err_say(why, ERR_MEMORY, "no memory for the list of a model's files");
    for (int32_t i = 0; i < m->n_file; i++)
        o.files[o.n_file++] = (struct offer_file){.path = m->files[i].path,
                                                  .name = last_part(m->files[i].path),
                                                  .bytes = m->files[i].bytes};
    for (int i = 0; m->n_file && m->text_dir && i < N_TEXT; i++) {
        struct stat st;
        char *path = arena_printf(a, "%s/%s", m->text_dir, texts[i]);
        if (!path) return err_say(why, ERR_MEMORY, "no memory for the list of a model's files");
        if (stat(path, &st) || !S_ISREG(st.st_mode)) continue;
        o.files[o.n_file++] = (struct offer_file){
            .path = path, .name = last_part(path), .bytes = (uint64_t)st.st_size};
    }
    for (uint32_t i = 0; i < o.n_file; i++) {
        err_t e = header_bytes(&o.files[i], why);
        if (e) return e;
    }
    *out = o;
    return OK;
}

void offer_opening(const struct offer_file *f, offer_range_fn *on_range, void *arg)
{
    const uint64_t header = f->header_bytes < f->bytes ? f->header_bytes : f->bytes;
    const uint32_t n = is_safetensors(f->name) ? SAFETENSORS_SAMPLES : GGUF_SAMPLES;
    on_range(arg, 0, header);
    for (uint32_t i = 0; header < f->bytes && i < n; i++) {
        uint64_t len;
        const uint64_t at = file_sample(f->bytes, header, n, i, &len);
        on_range(arg, at, len);
    }
}

int32_t offer_entry(const struct offer_file *files, uint32_t n_file)
{
    for (uint32_t i = 0; i < n_file; i++)
        if (!strcmp(files[i].name, texts[0])) return -1;
    return 0;
}
