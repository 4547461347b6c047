// Bodies of completions, of chats and of texts, and of llama.cpp's own paths: reading and checking,
// up to where the prompt becomes tokens. The first byte chooses the path.
#include "coordinator/door/api.h"
#include "proto/base/log.h"
#include "topology/model.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct engine_model model;

// Logit biases may name texts.
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const aliases[] = {"other/name", NULL};
    static struct model *m; // kept until the end
    struct tokenizer *t;
    struct err_text why;
    (void)argc, (void)argv;
    log_set_level(LOG_ERROR);
    if (model_open("shape:llama-3.1-8b", &m, &why) || tokenizer_open_model(m, &t, &why)) {
        fprintf(stderr, "%s\n", why.s);
        abort();
    }
    model = (struct engine_model){.id = "tiny", .aliases = aliases, .ctx = 4096, .tokenizer = t};
    model.pooling = POOLING_LAST;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct api *const apis[] = {&api_chat,         &api_completions,
                                             &api_llama,        &api_llama_or_completions,
                                             &api_llama_infill, &api_llama_or_embeddings};
    if (size == 0) return 0;
    struct prepare_in in = {.api = apis[data[0] % (sizeof apis / sizeof *apis)],
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
