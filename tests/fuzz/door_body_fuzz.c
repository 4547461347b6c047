// Bodies of /v1/chat/completions and /v1/completions: reading and checking, up to where a tokenizer
// would be needed. The first byte chooses the path.
#include "coordinator/door/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const aliases[] = {"other/name", NULL};
    static const struct engine_model model = {.id = "tiny", .aliases = aliases, .ctx = 4096};
    if (size == 0) return 0;
    struct prepare_in in = {.api = data[0] & 1 ? &api_completions : &api_chat,
                            .model = &model,
                            .n_vocab = 1000,
                            .body = (const char *)data + 1,
                            .len = size - 1};
    struct prepare p = {.in = &in};
    struct prepared out = {.api = in.api, .model = &model};
    struct refusal no = {0};
    arena_init(&out.arena, 0);
    err_t err = prepare_read(&p, &out, &no);
    // Whatever came in, what goes out is one well-formed refusal or a checked body.
    BUG_ON(err && no.status == 0);
    if (err) {
        struct buf b = {0};
        struct arena a;
        const struct json *j;
        arena_init(&a, 0);
        refusal_json(&b, &no);
        BUG_ON(json_read(b.data, b.len, &a, &j, NULL, NULL) != OK);
        arena_fini(&a);
        buf_fini(&b);
    } else {
        BUG_ON(out.n_stop > STREAM_STOPS_MAX || out.n_choice < 1 || out.n_choice > 8);
    }
    prepare_close(&p);
    prepare_fini(&out);
    return 0;
}
