// Safetensors headers: whatever the bytes, safetensors_read gives tensors that lie inside the file
// and do not overlap, or one sentence. The input is the header; its length is put before it, and as
// much data behind it as the last three bytes say, so that mutations stay aimed at the text.
#include "tests/fuzz/scratch.h"
#include "topology/safetensors.h"

#include <string.h>

struct seen {
    uint64_t whole, bytes, elements;
};

static err_t on_tensor(void *user, const char *name, size_t len, const struct model_tensor *t,
                       struct err_text *why)
{
    struct seen *s = user;
    (void)why;
    BUG_ON(len == 0 || strlen(name) != len || t->n_dim < 0 || t->n_dim > 4);
    BUG_ON(t->offset > s->whole || t->bytes > s->whole - t->offset);
    s->bytes += t->bytes;
    for (int32_t i = 0; i < t->n_dim; i++)
        BUG_ON(t->shape[i] < 0);
    return OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err_text why = {{0}};
    struct sha256 sha;
    uint64_t file_bytes = 0;
    if (size < 3) return 0;
    const uint64_t len = size - 3;
    const uint64_t room = (uint64_t)data[len] << 16 | (uint64_t)data[len + 1] << 8 | data[len + 2];
    struct seen seen = {.whole = 8 + len + room};
    if (ftruncate(fd, 0) || pwrite(fd, &len, 8, 0) != 8 || pwrite(fd, data, len, 8) != (ssize_t)len)
        abort();
    if (ftruncate(fd, (off_t)seen.whole)) abort();
    const struct safetensors_sink sink = {on_tensor, &seen};
    sha256_init(&sha);
    err_t e = safetensors_read(path, &sink, &sha, &file_bytes, &why);
    if (e) {
        BUG_ON(e != ERR_MODEL && e != ERR_MEMORY);
        BUG_ON(!strstr(why.s, path) || strchr(why.s, '\n'));
        return 0;
    }
    BUG_ON(file_bytes != seen.whole || seen.bytes != room);
    return 0;
}
