// The whole way from a body to events, without sockets: prepare, the mock engine, reply.
#include "coordinator/door/api.h"
#include "tests/unit/door/mock_engine.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uv_loop_t loop;
static struct engine *engine;

static void path_of(const char *name, char *out, size_t cap)
{
    const char *dir = getenv("TRIREME_FIXTURES");
    snprintf(out, cap, "%s/%s", dir ? dir : "../shared/fixtures", name);
}

static int open_engine(void **state)
{
    char vocab[500], source[500];
    struct err_text why;
    (void)state;
    path_of("tokenizers/smollm2/vocab.gguf", vocab, sizeof vocab);
    path_of("chat_templates/smollm2/template.jinja", source, sizeof source);
    FILE *f = fopen(vocab, "r");
    if (!f) {
        print_message("SKIP: no fixtures (%s); set TRIREME_FIXTURES\n", vocab);
        return 0;
    }
    fclose(f);
    struct mock_config c = {.vocab = vocab, .chat_template = source};
    uv_loop_init(&loop);
    err_t err = mock_engine_open(&loop, &c, &engine, &why);
    if (err) print_error("%s\n", why.s);
    return err;
}

static int close_engine(void **state)
{
    (void)state;
    if (!engine) return 0;
    mock_engine_close(engine);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static int wakes;
static void wake(void *owner)
{
    (void)owner;
    wakes++;
}

static struct reply *start(const struct api *api, const char *body, struct refusal *no)
{
    const struct engine_model *m = engine->ops->model(engine);
    struct prepare_in in = {.api = api,
                            .model = m,
                            .n_vocab = tokenizer_n_vocab(m->tokenizer),
                            .body = body,
                            .len = strlen(body)};
    struct prepared p;
    if (prepare_run(&in, &p, no) != OK) return NULL;
    struct reply *r = reply_new(engine, &p, wake, NULL);
    assert_non_null(r);
    if (reply_start(r, no) == OK) return r;
    reply_free(r);
    return NULL;
}

static struct reply *must_start(const struct api *api, const char *body)
{
    struct refusal no = {0};
    struct reply *r = start(api, body, &no);
    if (!r) fail_msg("%s: %s", body, no.text.s);
    return r;
}

static char *whole(const struct api *api, const char *body)
{
    struct reply *r = must_start(api, body);
    struct buf out = {0};
    while (!reply_finished(r))
        uv_run(&loop, UV_RUN_NOWAIT);
    reply_body(r, &out);
    reply_free(r);
    return out.data;
}

static void whole_answer(void **state)
{
    (void)state;
    if (!engine) skip();
    char *s = whole(&api_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                               "\"max_tokens\":3}");
    assert_non_null(strstr(s, "\"content\":\"The quick brown\""));
    assert_non_null(strstr(s, "\"finish_reason\":\"length\""));
    free(s);
    s = whole(&api_completions, "{\"prompt\":[\"x\",\"y\"],\"max_tokens\":2,\"n\":2}");
    assert_non_null(strstr(s, "{\"index\":3,\"text\":\"The quick\""));
    free(s);
    assert_int_equal(mock_engine_n_running(engine), 0);
}

// Flushing after every turn or only once gives the same text.
static void flushing(void **state)
{
    (void)state;
    if (!engine) skip();
    struct buf one = {0}, many = {0};
    const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true,"
                       "\"max_tokens\":40,\"ignore_eos\":true}";
    struct reply *r = must_start(&api_chat, body);
    while (!reply_finished(r))
        uv_run(&loop, UV_RUN_NOWAIT);
    reply_flush(r, &one);
    assert_true(r->ended);
    reply_flush(r, &one);
    reply_free(r);
    r = must_start(&api_chat, body);
    while (!r->ended) {
        uv_run(&loop, UV_RUN_NOWAIT);
        reply_flush(r, &many);
    }
    reply_free(r);
    int n_one = 0, n_many = 0;
    for (const char *p = one.data; (p = strstr(p, "data: ")); p++)
        n_one++;
    for (const char *p = many.data; (p = strstr(p, "data: ")); p++)
        n_many++;
    assert_int_equal(n_one, 4); // role, all of the text, finish, [DONE]
    assert_true(n_many > 30);
    buf_fini(&one);
    buf_fini(&many);
}

static void leaving(void **state)
{
    (void)state;
    if (!engine) skip();
    for (int turns = 0; turns < 30; turns++) {
        struct reply *r = must_start(&api_completions, "{\"prompt\":[\"x\",\"y\"],\"n\":2,"
                                                       "\"max_tokens\":10,\"stream\":true}");
        for (int i = 0; i < turns; i++)
            uv_run(&loop, UV_RUN_NOWAIT);
        reply_free(r);
        assert_int_equal(mock_engine_n_running(engine), 0);
    }
}

static void failing(void **state)
{
    (void)state;
    if (!engine) skip();
    struct refusal no = {0};
    assert_null(start(&api_completions, "{\"prompt\":\"x\",\"seed\":1004}", &no));
    assert_int_equal(no.status, 429);
    assert_int_equal(no.retry_after_s, 7);
    struct reply *r = must_start(&api_completions, "{\"prompt\":[\"x\",\"y\"],\"seed\":1003}");
    wakes = 0;
    while (!reply_finished(r))
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_true(wakes > 0);
    assert_int_equal(r->failed.status, 503);
    assert_string_equal(r->failed.code, "worker_lost");
    reply_free(r);
    assert_int_equal(mock_engine_n_running(engine), 0);
}

static void refusals_as_json(void **state)
{
    (void)state;
    struct refusal no;
    struct buf b = {0};
    refusal_field(&no, "a\"b", "it is \"%s\"", "\xff\n");
    refusal_json(&b, &no);
    assert_string_equal(b.data, "{\"error\":{\"message\":\"it is \\\"\\\\xff\\\\x0a\\\"\",\"type\":"
                                "\"invalid_request_error\",\"param\":\"a\\\"b\",\"code\":null}}");
    buf_clear(&b);
    refusal_overflow(&no, 32768, 39099, 1024);
    refusal_json(&b, &no);
    assert_string_equal(
        b.data, "{\"error\":{\"message\":\"This model's maximum context length is 32768 tokens. "
                "However, you requested 40123 tokens (39099 in the messages, 1024 in the "
                "completion). The prompt is too long; please reduce the length of the messages.\","
                "\"type\":\"invalid_request_error\",\"param\":null,\"code\":"
                "\"context_length_exceeded\",\"n_prompt_tokens\":39099,\"n_ctx\":32768}}");
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_answer),     cmocka_unit_test(flushing),
        cmocka_unit_test(leaving),          cmocka_unit_test(failing),
        cmocka_unit_test(refusals_as_json),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
