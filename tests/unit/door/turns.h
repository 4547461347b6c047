// The mock engine with a real template, a vocabulary of bytes and of the marks that models know,
// and a turn that it says.
#pragma once
#include "coordinator/door/api.h"
#include "tests/unit/door/mock_engine.h"
#include "tests/unit/text/vocab_file.h"

static const char *const turns_specials[] = {"<|im_start|>",
                                             "<think>",
                                             "</think>",
                                             "<tool_call>",
                                             "</tool_call>",
                                             "[INST]",
                                             "[/INST]",
                                             "[TOOL_CALLS]",
                                             "[ARGS]",
                                             "[CALL_ID]",
                                             "</s>",
                                             "<|eot_id|>",
                                             "<|start|>",
                                             "<|channel|>",
                                             "<|message|>",
                                             "<|end|>",
                                             "<|call|>",
                                             "<|return|>",
                                             "<|constrain|>",
                                             "<|start_header_id|>",
                                             "<|turn>",
                                             "<turn|>",
                                             "<|tool_call>",
                                             "<tool_call|>",
                                             "<｜end▁of▁sentence｜>",
                                             "<｜Assistant｜>",
                                             "<|\"|>",
                                             "[TOOL_RESULTS]",
                                             "<|end_header_id|>"};

struct turns {
    uv_loop_t loop;
    struct engine *engine;
};

// A file of this vocabulary.
static inline int turns_vocab(void)
{
    static struct vocab_file v;
    struct buf bytes = {0};
    vocab_file_bpe(&v);
    for (size_t i = 0; i < sizeof turns_specials / sizeof *turns_specials; i++)
        vocab_file_add(&v, turns_specials[i], 3, 0);
    v.n_score = 0;
    vocab_file_write(&v, &bytes);
    int fd = memfd_create("vocab", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes.data, bytes.len) != (ssize_t)bytes.len) abort();
    buf_fini(&bytes);
    return fd;
}

// False, with a line that says so: there are no fixtures.
static inline bool turns_open(struct turns *t, const char *name, const char *say)
{
    char vocab[64], source[500];
    const char *dir = getenv("TRIREME_FIXTURES");
    struct err_text why;
    snprintf(source, sizeof source, "%s/chat_templates/%s/template.jinja",
             dir ? dir : "../shared/fixtures", name);
    if (access(source, R_OK) != 0) {
        printf("SKIP %s: no fixtures; set TRIREME_FIXTURES\n", name);
        return false;
    }
    int fd = turns_vocab();
    snprintf(vocab, sizeof vocab, "/proc/self/fd/%d", fd);
    const struct mock_config c = {
        .vocab = vocab, .chat_template = source, .say = say, .ctx = 1 << 20, .per_turn = 64};
    uv_loop_init(&t->loop);
    if (mock_engine_open(&t->loop, &c, &t->engine, &why) != OK) {
        fprintf(stderr, "%s: %s\n", name, why.s);
        abort();
    }
    close(fd);
    return true;
}

static inline void turns_close(struct turns *t)
{
    mock_engine_close(t->engine);
    uv_run(&t->loop, UV_RUN_DEFAULT);
    uv_loop_close(&t->loop);
}
