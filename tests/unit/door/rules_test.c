// Budgets of thoughts: the tokens that close them are forced when the budget is used, and what
// comes then is the answer; with and without a form of the answer.
#include "tests/unit/door/turns.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

static const char qwen[] = "<think>\nOne two three four five six.\n</think>\n\nSeven.";
static const char harmony[] = "<|channel|>analysis<|message|>One two three four five six.<|end|>"
                              "<|start|>assistant<|channel|>final<|message|>Seven.";

static struct turns rig;

static void wake(void *owner)
{
    (void)owner;
}

struct answer {
    char *body;
    uint64_t reasoning;
    uint32_t n_chained; // tokens after which the next row could have been chained
};

// Rules that count how often they let rows be chained.
static const struct request_rules *inner;
static uint32_t n_may_chain, n_next;

static err_t next(struct choice *c, struct err_text *why)
{
    const err_t err = inner->next(c, why);
    n_may_chain += c->may_chain;
    n_next++;
    return err;
}

static void gone(struct request *r)
{
    inner->free(r);
}

static struct answer ask(const struct api *api, const char *more)
{
    static const struct request_rules spy = {.next = next, .free = gone};
    const struct engine_model *m = rig.engine->ops->model(rig.engine);
    char body[1000];
    snprintf(body, sizeof body,
             "{\"max_tokens\":200,\"messages\":[{\"role\":\"user\",\"content\":\"Count.\"}]%s%s}",
             *more ? "," : "", more);
    const struct prepare_in in = {.api = api,
                                  .model = m,
                                  .n_vocab = tokenizer_n_vocab(m->tokenizer),
                                  .body = body,
                                  .len = strlen(body)};
    struct refusal no = {0};
    struct prepared p;
    struct buf out = {0};
    if (prepare_run(&in, &p, &no) != OK) fail_msg("%s: %s", body, no.text.s);
    n_may_chain = n_next = 0;
    inner = p.prompts[0].req->rules;
    if (inner) p.prompts[0].req->rules = &spy;
    struct reply *r = reply_new(rig.engine, &p, wake, NULL);
    assert_non_null(r);
    assert_int_equal(reply_start(r, &no), OK);
    while (!reply_finished(r))
        uv_run(&rig.loop, UV_RUN_NOWAIT);
    reply_body(r, &out);
    const struct answer a = {out.data, reply_usage_get(r).reasoning, n_may_chain};
    reply_free(r);
    return a;
}

static void check(const char *more, uint64_t reasoning, const char *thoughts, const char *text)
{
    struct answer a = ask(&api_chat, more);
    char want[300];
    if (a.reasoning != reasoning) fail_msg("%s: %d thoughts: %s", more, (int)a.reasoning, a.body);
    snprintf(want, sizeof want, "\"content\":\"%s", text);
    if (!strstr(a.body, want)) fail_msg("%s: no %s in %s", more, want, a.body);
    snprintf(want, sizeof want, "\"reasoning_content\":\"%s\"", thoughts);
    if (*thoughts && !strstr(a.body, want)) fail_msg("%s: no %s in %s", more, want, a.body);
    if (!*thoughts) assert_null(strstr(a.body, "\"reasoning_content\""));
    free(a.body);
}

static void tags(void **state)
{
    (void)state;
    if (!turns_open(&rig, "qwen3", qwen)) skip();
    // The mark and the line count too; a token is a letter here.
    const char *all = "One two three four five six.";
    check("", 30, all, "Seven.");
    check("\"thinking_budget\":1000", 30, all, "Seven.");
    check("\"thinking_budget\":31", 30, all, "Seven.");
    // The mock goes on with what it would have said.
    check("\"thinking_budget\":9", 9, "One two", "three");
    check("\"thinking_token_budget\":9", 9, "One two", "three");
    check("\"reasoning\":{\"max_tokens\":9}", 9, "One two", "three");
    check("\"chat_template_kwargs\":{\"thinking_budget\":9}", 9, "One two", "three");
    check("\"thinking_budget\":1", 1, "", "One two");
    check("\"thinking_budget\":0", 1, "", "One two"); // the mark was drawn
    struct answer a = ask(&api_messages, "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":9}");
    assert_int_equal(a.reasoning, 9);
    assert_non_null(strstr(a.body, "{\"type\":\"thinking\",\"thinking\":\"One two\""));
    free(a.body);
    turns_close(&rig);
}

// Rows may be chained but near the end of the budget and while its end is forced.
static void chains(void **state)
{
    (void)state;
    if (!turns_open(&rig, "qwen3", qwen)) skip();
    free(ask(&api_chat, "").body);
    assert_int_equal(n_next, 0); // nothing to follow
    free(ask(&api_chat, "\"thinking_budget\":1000").body);
    assert_int_equal(n_may_chain, n_next);
    free(ask(&api_chat, "\"thinking_budget\":9").body);
    // After 8 and 9 thoughts, the close, the space behind it (letters of the answer are none).
    assert_in_range(n_may_chain, n_next - 5, n_next - 3);
    turns_close(&rig);
}

// Thoughts that begin anew behind text count on: one row of them may be chained already.
static void thoughts_again(void **state)
{
    (void)state;
    static const char twice[] =
        "<think>\nOne.\n</think>\n\nTwo.<think>\nThree four.\n</think>Five.";
    const struct {
        const char *more;
        uint64_t reasoning;
    } asks[] = {{"\"thinking_budget\":1000", 21}, {"\"thinking_budget\":12", 12},
                {"\"thinking_budget\":9", 9},     {"\"thinking_budget\":8", 9},
                {"\"thinking_budget\":7", 9},     {"\"thinking_budget\":3", 5}};
    if (!turns_open(&rig, "qwen3", twice)) skip();
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        const struct answer a = ask(&api_chat, asks[i].more);
        if (a.reasoning != asks[i].reasoning)
            fail_msg("%s: %d thoughts: %s", asks[i].more, (int)a.reasoning, a.body);
        free(a.body);
    }
    turns_close(&rig);
}

static void messages_of_harmony(void **state)
{
    (void)state;
    if (!turns_open(&rig, "gpt-oss", harmony)) skip();
    struct answer a = ask(&api_chat, "");
    const int whole = (int)a.reasoning;
    assert_non_null(strstr(a.body, "\"content\":\"Seven.\""));
    free(a.body);
    assert_true(whole > 25);
    // Its header comes before the thoughts; the channel that is forced is not analysis. The mock
    // writes on where it would have been.
    a = ask(&api_chat, "\"thinking_budget\":8");
    assert_int_equal(a.reasoning, 8);
    assert_non_null(strstr(a.body, "\"reasoning_content\":\"One two\""));
    free(a.body);
    turns_close(&rig);
}

static void with_a_form(void **state)
{
    (void)state;
    static const char form[] = "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{"
                               "\"name\":\"x\",\"schema\":{\"const\":[7]}}}";
    char more[300];
    if (!turns_open(&rig, "qwen3", qwen)) skip();
    check(form, 30, "One two three four five six.", "[7]");
    snprintf(more, sizeof more, "%s,\"thinking_budget\":9", form);
    check(more, 9, "One two", "[7]");
    turns_close(&rig);
    if (!turns_open(&rig, "gpt-oss", harmony)) skip();
    check(form, 28, "One two three four five six.", "[7]");
    snprintf(more, sizeof more, "%s,\"thinking_budget\":8", form);
    check(more, 8, "One two", "[7]");
    turns_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags),           cmocka_unit_test(chains),
        cmocka_unit_test(thoughts_again), cmocka_unit_test(messages_of_harmony),
        cmocka_unit_test(with_a_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
