// Turns with calls that come back: with every template, the next prompt begins with the prompt and
// the tokens of the turn before, whatever the template would have written; and it is the rendered
// one where anything was changed.
#include "tests/unit/door/turns.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

// A template, and turns as its model might write them: odd spaces, thoughts, two calls.
struct family {
    const char *name, *say;
    int ends_with; // harmony says its end itself
};
static const struct family families[] = {
    {"qwen3",
     "<think>\nOslo, hm.\n</think>\n\n<tool_call>\n{\"name\":\"get_weather\",\"arguments\":"
     "{\"days\":2,  \"city\":\"Oslo\"}}\n</tool_call>",
     0},
    {"qwen3.5",
     "<think>\nOslo, hm.\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n"
     "</parameter>\n\n</function>\n</tool_call>",
     0},
    {"qwen3-coder",
     "Let me see.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
     "<parameter=days>\n2\n</parameter></function>\n</tool_call>",
     0},
    {"mistral-small-3.2", "[TOOL_CALLS]get_weather[ARGS]{\"days\":2.0,\"city\":\"Oslo\"}", 0},
    {"llama-3.3", "{\"name\":\"get_weather\",\"parameters\":{\"city\":\"Oslo\"}}", 0},
    {"gpt-oss",
     "<|channel|>analysis<|message|>Oslo, hm.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.get_weather <|constrain|>json<|message|>{ \"city\":\"Oslo\" }<|call|>",
     1},
    {"deepseek-v3.1",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\":\"Oslo\"}"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     0},
};
enum { FAMILIES = sizeof families / sizeof *families };

static struct turns rig;
static struct replay *book;
static bool twice; // the user speaks twice in a row, which Mistral's template refuses

static bool open_family(const struct family *f)
{
    if (!turns_open(&rig, f->name, f->say)) return false;
    book = replay_new(1 << 20);
    return true;
}

static void close_family(void)
{
    turns_close(&rig);
    replay_free(book);
}

static void wake(void *owner)
{
    (void)owner;
}

// The prompt of a body.
static void prompt_of(const char *body, struct replay *r, uint64_t tenant, struct prepared *out)
{
    const struct engine_model *m = rig.engine->ops->model(rig.engine);
    const struct prepare_in in = {.api = &api_chat,
                                  .model = m,
                                  .n_vocab = tokenizer_n_vocab(m->tokenizer),
                                  .tenant = tenant,
                                  .replay = r,
                                  .body = body,
                                  .len = strlen(body)};
    struct refusal no = {0};
    if (prepare_run(&in, out, &no) != OK) fail_msg("%s: %s", body, no.text.s);
}

static void take_ids(const struct prepared *p, struct ids *out)
{
    out->n = 0;
    for (uint32_t i = 0; i < p->prompts[0].req->n_prompt; i++)
        assert_true(ids_add(out, p->prompts[0].req->prompt[i]));
}

// Asks, and gets the answer's message. `prompt`: what was asked.
static void ask(const char *body, bool stream, struct ids *prompt, struct buf *message,
                struct arena *a)
{
    struct prepared p;
    struct refusal no = {0};
    const struct json *j;
    struct buf out = {0};
    prompt_of(body, book, 7, &p);
    take_ids(&p, prompt);
    struct reply *r = reply_new(rig.engine, &p, wake, NULL);
    assert_non_null(r);
    assert_int_equal(reply_start(r, &no), OK);
    while (!reply_finished(r)) {
        uv_run(&rig.loop, UV_RUN_NOWAIT);
        if (stream && !reply_finished(r)) reply_flush(r, &out); // what was sent is forgotten
    }
    if (stream) {
        struct replay_stats s = replay_stats_get(book);
        assert_true(s.n_turn > 0);
        reply_free(r);
        buf_fini(&out);
        return;
    }
    reply_body(r, &out);
    assert_int_equal(json_read(out.data, out.len, a, &j, NULL, NULL), OK);
    j = json_get(&json_get(j, "choices")->arr.items[0], "message");
    assert_non_null(json_get(j, "tool_calls"));
    buf_clear(message);
    json_write(message, j);
    reply_free(r);
    buf_fini(&out);
}

// The message as an agent sends it back that knows nothing of thoughts.
static void send_back(const char *message, bool thoughts, const char *from, const char *to,
                      struct buf *talk, struct arena *a)
{
    const struct json *m, *calls, *id;
    assert_int_equal(json_read(message, strlen(message), a, &m, NULL, NULL), OK);
    calls = json_get(m, "tool_calls");
    id = json_get(&calls->arr.items[0], "id");
    struct buf one = {0};
    buf_str(&one, ",{\"role\":\"assistant\",\"content\":");
    json_write(&one, json_get(m, "content"));
    if (thoughts && json_get(m, "reasoning_content")) {
        buf_str(&one, ",\"reasoning_content\":");
        json_write(&one, json_get(m, "reasoning_content"));
    }
    buf_str(&one, ",\"tool_calls\":");
    json_write(&one, calls);
    buf_printf(&one, "},{\"role\":\"tool\",\"tool_call_id\":\"%s\",\"content\":\"\\n -3 degrees\"}",
               id->str.s);
    const char *hit = from ? strstr(one.data, from) : NULL;
    if (from) assert_non_null(hit);
    buf_add(talk, one.data, hit ? (size_t)(hit - one.data) : one.len);
    if (hit) buf_str(talk, to);
    if (hit) buf_str(talk, hit + strlen(from));
    buf_fini(&one);
}

static void body_of(const struct buf *talk, const char *more, struct buf *out)
{
    buf_clear(out);
    buf_printf(out,
               "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
               "{\"role\":\"user\",\"content\":\"Weather in Oslo?\"}%s%s%s],\"tools\":[{\"type\":"
               "\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"Weather.\","
               "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},"
               "\"days\":{\"type\":\"number\"}}}}}]}",
               twice ? ",{\"role\":\"user\",\"content\":\"Now?\"}" : "",
               talk->data ? talk->data : "", more);
}

static void begins_with(const struct family *f, const struct ids *all, const struct ids *first,
                        const struct ids *then)
{
    if (all->n <= first->n + then->n)
        fail_msg("%s: %zu tokens after %zu and %zu", f->name, all->n, first->n, then->n);
    for (size_t i = 0; i < first->n; i++)
        if (all->at[i] != first->at[i]) fail_msg("%s: the prompt differs at %zu", f->name, i);
    for (size_t i = 0; i < then->n; i++)
        if (all->at[first->n + i] != then->at[i])
            fail_msg("%s: the turn differs at %zu", f->name, i);
}

static void same(const struct family *f, const char *what, const struct ids *a, const struct ids *b)
{
    if (a->n != b->n || memcmp(a->at, b->at, a->n * sizeof *a->at) != 0)
        fail_msg("%s: %s: not the rendered prompt", f->name, what);
}

// The turn's tokens, without the end.
static void say_ids(const struct family *f, struct ids *out)
{
    const struct engine_model *m = rig.engine->ops->model(rig.engine);
    assert_int_equal(tokenizer_encode(m->tokenizer, f->say, strlen(f->say), TOKENIZER_SPECIAL, NULL,
                                      0, 100000, out),
                     OK);
    if (f->ends_with) out->n--;
}

static void prompt_ids(const char *body, struct replay *r, uint64_t tenant, struct ids *out)
{
    struct prepared p;
    prompt_of(body, r, tenant, &p);
    take_ids(&p, out);
    prepare_fini(&p);
}

static void one_family(const struct family *f, bool thoughts)
{
    struct ids before = {0}, now = {0}, other = {0}, said = {0};
    struct buf talk = {0}, body = {0}, message = {0};
    struct arena a;
    if (!open_family(f)) {
        print_message("SKIP %s: no fixtures; set TRIREME_FIXTURES\n", f->name);
        return;
    }
    arena_init(&a, 0);
    say_ids(f, &said);
    body_of(&talk, "", &body);
    ask(body.data, false, &before, &message, &a);
    for (int turn = 0; turn < 4; turn++) {
        send_back(message.data, thoughts, NULL, NULL, &talk, &a);
        body_of(&talk, "", &body);
        ask(body.data, false, &now, &message, &a);
        begins_with(f, &now, &before, &said);
        const struct ids swap = before;
        before = now;
        now = swap;
    }
    struct replay_stats s = replay_stats_get(book);
    assert_int_equal(s.n_exact, 1 + 2 + 3 + 4);
    assert_int_equal(s.n_rendered, 0);
    // Somebody else's ids.
    prompt_ids(body.data, book, 8, &now);
    prompt_ids(body.data, NULL, 8, &other);
    same(f, "another tenant", &now, &other);
    // A changed name, changed arguments, a changed text.
    static const char *const changes[][2] = {{"Oslo", "Bergen"},
                                             {"get_weather", "get_wether"},
                                             {"\"content\":", "\"content\":\"Hm?\",\"x\":"}};
    for (int i = 0; i < 3; i++) {
        buf_clear(&talk);
        send_back(message.data, true, changes[i][0], changes[i][1], &talk, &a);
        body_of(&talk, "", &body);
        prompt_ids(body.data, book, 7, &now);
        prompt_ids(body.data, NULL, 7, &other);
        same(f, changes[i][0], &now, &other);
    }
    s = replay_stats_get(book);
    assert_int_equal(s.n_exact, 1 + 2 + 3 + 4);
    buf_fini(&talk);
    buf_fini(&body);
    buf_fini(&message);
    ids_fini(&before);
    ids_fini(&now);
    ids_fini(&other);
    ids_fini(&said);
    arena_fini(&a);
    close_family();
}

static void calls_come_back(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        one_family(&families[i], true);
        one_family(&families[i], false);
    }
}

// With the caller's next word qwen's template drops the thoughts of the turns before.
static void dropped_thoughts(void **state)
{
    (void)state;
    static const char more[] = ",{\"role\":\"assistant\",\"content\":\"-3.\"},"
                               "{\"role\":\"user\",\"content\":\"And in Bergen?\"}";
    struct ids prompt = {0}, now = {0}, other = {0};
    struct buf talk = {0}, body = {0}, message = {0};
    struct arena a;
    if (!open_family(&families[0])) return;
    arena_init(&a, 0);
    body_of(&talk, "", &body);
    ask(body.data, false, &prompt, &message, &a);
    send_back(message.data, true, NULL, NULL, &talk, &a);
    body_of(&talk, more, &body);
    prompt_ids(body.data, book, 7, &now);
    prompt_ids(body.data, NULL, 7, &other);
    same(&families[0], "dropped thoughts", &now, &other);
    assert_int_equal(replay_stats_get(book).n_rendered, 1);
    assert_int_equal(replay_stats_get(book).n_exact, 0);
    buf_fini(&talk);
    buf_fini(&body);
    buf_fini(&message);
    ids_fini(&prompt);
    ids_fini(&now);
    ids_fini(&other);
    arena_fini(&a);
    close_family();
}

// A template that knows no calls: the conversation was repaired, and stays as rendered.
static void repaired(void **state)
{
    (void)state;
    static const struct family f = {
        "smollm2",
        "<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Oslo\"}}</tool_call>", 0};
    struct ids prompt = {0}, now = {0}, other = {0};
    struct buf talk = {0}, body = {0}, message = {0};
    struct arena a;
    if (!open_family(&f)) return;
    arena_init(&a, 0);
    body_of(&talk, "", &body);
    ask(body.data, false, &prompt, &message, &a);
    send_back(message.data, true, NULL, NULL, &talk, &a);
    body_of(&talk, "", &body);
    prompt_ids(body.data, book, 7, &now);
    prompt_ids(body.data, NULL, 7, &other);
    same(&f, "repaired", &now, &other);
    assert_int_equal(replay_stats_get(book).n_rendered, 1);
    buf_fini(&talk);
    buf_fini(&body);
    buf_fini(&message);
    ids_fini(&prompt);
    ids_fini(&now);
    ids_fini(&other);
    arena_fini(&a);
    close_family();
}

// Streamed answers are kept too, though what was sent of them is forgotten.
static void streamed(void **state)
{
    (void)state;
    struct ids prompt = {0};
    struct buf body = {0}, talk = {0};
    struct arena a;
    if (!open_family(&families[0])) return;
    arena_init(&a, 0);
    body_of(&talk, "", &body);
    ask(body.data, true, &prompt, NULL, &a);
    ids_fini(&prompt);
    buf_fini(&body);
    arena_fini(&a);
    close_family();
}

// What had to be repaired elsewhere does not matter.
static void repaired_elsewhere(void **state)
{
    (void)state;
    twice = true;
    for (int i = 0; i < FAMILIES; i++)
        one_family(&families[i], false);
    twice = false;
}

// Ids that a model of Mistral's writes itself: results name them.
static void ids_of_its_own(void **state)
{
    (void)state;
    static const struct family f = {
        "mistral-small-3.2", "[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{\"city\":\"Oslo\"}",
        0};
    struct ids prompt = {0}, now = {0}, id = {0};
    struct buf talk = {0}, body = {0}, message = {0};
    struct arena a;
    if (!open_family(&f)) return;
    arena_init(&a, 0);
    body_of(&talk, "", &body);
    ask(body.data, false, &prompt, &message, &a);
    send_back(message.data, true, NULL, NULL, &talk, &a);
    body_of(&talk, "", &body);
    prompt_ids(body.data, book, 7, &now);
    const struct engine_model *m = rig.engine->ops->model(rig.engine);
    assert_int_equal(tokenizer_encode(m->tokenizer, "a1B2c3D4e", 9, 0, NULL, 0, 100, &id), OK);
    int n_hit = 0;
    for (size_t i = 0; i + id.n <= now.n; i++)
        n_hit += memcmp(now.at + i, id.at, id.n * sizeof *id.at) == 0;
    assert_int_equal(n_hit, 2); // in the call, in its result
    buf_fini(&talk);
    buf_fini(&body);
    buf_fini(&message);
    ids_fini(&prompt);
    ids_fini(&now);
    ids_fini(&id);
    arena_fini(&a);
    close_family();
}

static struct json assistant(struct arena *a, const char *id, const char *arguments)
{
    const struct json *j;
    char text[400];
    snprintf(text, sizeof text,
             "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"%s\",\"function\":"
             "{\"name\":\"f\",\"arguments\":%s}}]}",
             id, arguments);
    assert_int_equal(json_read(text, strlen(text), a, &j, NULL, NULL), OK);
    return *j;
}

static void keep(struct replay *r, uint64_t tenant, const char *id, const char *arguments,
                 uint32_t n_id)
{
    static const int32_t ids[4096];
    const struct replay_call call = {{id, strlen(id)}, {"f", 1}, {arguments, strlen(arguments)}};
    replay_keep(r, &(struct replay_turn){
                       .tenant = tenant, .calls = &call, .n_call = 1, .ids = ids, .n_id = n_id});
}

static void the_book(void **state)
{
    (void)state;
    struct arena a;
    struct replay *r = replay_new(20000);
    char id[40];
    arena_init(&a, 0);
    keep(r, 1, "call_aa", "{\"x\": 1.0, \"y\": [true, null, \"z\"]}", 3);
    const struct {
        uint64_t tenant;
        const char *id, *arguments;
        bool found;
    } cases[] = {
        {1, "call_aa", "{\"x\":1,\"y\":[true,null,\"z\"]}", true},
        {1, "toolu_aa", "{\"x\":1,\"y\":[true,null,\"z\"]}", true},
        {2, "call_aa", "{\"x\":1,\"y\":[true,null,\"z\"]}", false},
        {1, "call_ab", "{\"x\":1,\"y\":[true,null,\"z\"]}", false},
        {1, "call_aa", "{\"x\":2,\"y\":[true,null,\"z\"]}", false},
        {1, "call_aa", "{\"y\":[true,null,\"z\"],\"x\":1}", true},
        {1, "call_aa", "{\"x\":1,\"y\":[true,null]}", false},
        {1, "call_aa", "\"{}\"", false},
        {1, "call_aa", "null", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct json m = assistant(&a, cases[i].id, cases[i].arguments);
        const struct replay_turn *t = replay_find(r, cases[i].tenant, &m, &a);
        assert_int_equal(t != NULL, cases[i].found);
        if (t) assert_int_equal(t->n_id, 3);
    }
    // What is no object is a string, or wrapped into an object.
    keep(r, 1, "call_bad", "{\"x\":", 2);
    struct json m = assistant(&a, "toolu_bad", "{\"invalid_json\":\"{\\\"x\\\":\"}");
    assert_non_null(replay_find(r, 1, &m, &a));
    m = assistant(&a, "call_bad", "\"{\\\"x\\\":\"");
    assert_non_null(replay_find(r, 1, &m, &a));
    // The bound; what is asked for stays.
    keep(r, 1, "call_large", "{}", 4096);
    for (int i = 0; i < 100; i++) {
        snprintf(id, sizeof id, "call_%d", i);
        keep(r, 1, id, "{}", 500);
        m = assistant(&a, "call_bad", "\"{\\\"x\\\":\"");
        assert_non_null(replay_find(r, 1, &m, &a));
        assert_true(replay_stats_get(r).bytes <= 20000);
    }
    m = assistant(&a, "call_0", "{}");
    assert_null(replay_find(r, 1, &m, &a));
    m = assistant(&a, "call_99", "{}");
    assert_non_null(replay_find(r, 1, &m, &a));
    keep(r, 1, "call_huge", "{}", 4096);
    for (int i = 0; i < 3; i++)
        keep(r, 1, "call_huge", "{}", 4096);
    assert_true(replay_stats_get(r).bytes <= 20000);
    replay_free(r);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_book),           cmocka_unit_test(calls_come_back),
        cmocka_unit_test(dropped_thoughts),   cmocka_unit_test(repaired),
        cmocka_unit_test(repaired_elsewhere), cmocka_unit_test(ids_of_its_own),
        cmocka_unit_test(streamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
