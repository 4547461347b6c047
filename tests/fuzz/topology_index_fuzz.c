// model.safetensors.index.json: whatever the bytes, tensors_index_read gives tensors with names and
// files that lie in the folder, each once, or one sentence.
#include "tests/fuzz/scratch.h"
#include "topology/tensors_build.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err_text why = {{0}};
    struct arena arena;
    struct tensors t = {.path = "model", .dir = "model"};
    struct tensors_build b = {.a = &arena, .why = &why, .t = &t};
    struct tensors_index x;
    if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    arena_init(&arena, 64 << 20);
    if (tensors_index_read(&b, path, &x)) {
        BUG_ON(!why.s[0] || strchr(why.s, '\n'));
        arena_fini(&arena);
        return 0;
    }
    BUG_ON(x.n == 0 || x.n_shard < 1 || (size_t)x.n_shard > x.n);
    for (size_t i = 0; i < x.n; i++)
        BUG_ON(!x.entries[i].name[0] || x.entries[i].shard < 0 || x.entries[i].shard >= x.n_shard);
    for (int32_t i = 0; i < x.n_shard; i++) {
        BUG_ON(strchr(x.shards[i].name, '/') || !strstr(x.shards[i].name, ".safetensors"));
        for (int32_t k = 0; k < i; k++)
            BUG_ON(!strcmp(x.shards[i].name, x.shards[k].name));
    }
    tensors_index_free(&x);
    arena_fini(&arena);
    return 0;
}
