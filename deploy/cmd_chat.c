// trireme chat: asks a running server and prints the answer as it streams. With a prompt on the
// command line: one turn; without: a conversation, one line a turn.
#include "deploy/client.h"
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "proto/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct chat {
    struct client_config client;
    const char *model, *system;
    uint32_t max_tokens;
    bool greedy;
    struct buf messages; // JSON objects separated by commas
    struct buf line;     // bytes of the event stream not yet understood
    struct buf answer;
    bool done;
    struct err_text error; // an error event inside the stream
};

static void on_event(struct chat *c, const char *json, size_t len)
{
    struct arena a;
    const struct json *j;
    arena_init(&a, 4 << 20);
    if (!json_read(json, len, &a, &j, NULL, NULL)) {
        const struct json *choices = json_get(j, "choices");
        const struct json *failed = json_get(json_get(j, "error"), "message");
        if (failed && failed->kind == J_STR) err_say(&c->error, ERR_CAPACITY, "%s", failed->str.s);
        if (choices && choices->kind == J_ARR && choices->arr.n > 0) {
            const struct json *text =
                json_get(json_get(&choices->arr.items[0], "delta"), "content");
            if (text && text->kind == J_STR) {
                buf_add(&c->answer, text->str.s, text->str.len);
                fwrite(text->str.s, 1, text->str.len, stdout);
                fflush(stdout);
            }
        }
    }
    arena_fini(&a);
}

// Server-sent events: one "data: ..." line each.
static bool on_piece(void *arg, const char *data, size_t len)
{
    struct chat *c = arg;
    buf_add(&c->line, data, len);
    char *nl;
    while (c->line.len && (nl = memchr(c->line.data, '\n', c->line.len))) {
        size_t n = (size_t)(nl - c->line.data);
        if (n > 6 && memcmp(c->line.data, "data: ", 6) == 0) {
            if (n - 6 == 6 && memcmp(c->line.data + 6, "[DONE]", 6) == 0)
                c->done = true;
            else
                on_event(c, c->line.data + 6, n - 6);
        }
        buf_drop(&c->line, n + 1);
    }
    return buf_ok(&c->line) && buf_ok(&c->answer);
}

static void add_message(struct chat *c, const char *role, const char *text, size_t len)
{
    if (c->messages.len) buf_char(&c->messages, ',');
    buf_printf(&c->messages, "{\"role\":\"%s\",\"content\":", role);
    buf_json_str(&c->messages, text, len);
    buf_char(&c->messages, '}');
}

static err_t turn(struct chat *c, const char *text, struct err_text *why)
{
    struct buf body = {0};
    add_message(c, "user", text, strlen(text));
    buf_str(&body, "{\"stream\":true,");
    if (c->model) {
        buf_str(&body, "\"model\":");
        buf_json_str(&body, c->model, strlen(c->model));
        buf_char(&body, ',');
    }
    if (c->max_tokens) buf_printf(&body, "\"max_tokens\":%u,", c->max_tokens);
    if (c->greedy) buf_str(&body, "\"temperature\":0,");
    buf_printf(&body, "\"messages\":[%s]}", c->messages.data);
    buf_clear(&c->line);
    buf_clear(&c->answer);
    c->done = false;
    err_t err = buf_ok(&body) ? client_request(&c->client, "/v1/chat/completions", body.data,
                                               on_piece, c, why)
                              : err_say(why, ERR_MEMORY, "out of memory");
    printf("\n");
    if (!err && c->error.s[0]) err = err_say(why, ERR_CAPACITY, "%s", c->error.s);
    if (!err && !c->done) err = err_say(why, ERR_LINK, "the answer ended before it was complete");
    if (!err) add_message(c, "assistant", c->answer.data ? c->answer.data : "", c->answer.len);
    buf_fini(&body);
    return err;
}

static err_t converse(struct chat *c, struct err_text *why)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    err_t err = OK;
    printf("> ");
    fflush(stdout);
    while (!err && (n = getline(&line, &cap, stdin)) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0]) err = turn(c, line, why);
        printf("> ");
        fflush(stdout);
    }
    printf("\n");
    free(line);
    return err;
}

int cmd_chat(int argc, char **argv)
{
    struct chat c = {.client.url = "http://127.0.0.1:30000"};
    const char *args[1] = {NULL};
    const struct opt opts[] = {
        {"url", OPT_STR, &c.client.url, "URL", "server (http://127.0.0.1:30000)", 0, 0},
        {"api-key-file", OPT_STR, &c.client.key_file, "FILE", "file with the API key", 0, 0},
        {"ca", OPT_STR, &c.client.ca_file, "FILE", "CA certificate for https", 0, 0},
        {"model", OPT_STR, &c.model, "NAME", "model name (the server's own)", 0, 0},
        {"system", OPT_STR, &c.system, "TEXT", "system message", 0, 0},
        {"max-tokens", OPT_U32, &c.max_tokens, "N", "longest answer", 1, 1 << 24},
        {"greedy", OPT_FLAG, &c.greedy, NULL, "most likely tokens only (temperature 0)", 0, 0},
        {0},
    };
    const struct opt_spec spec = {"chat [PROMPT] [options]",
                                  "Talks to a running server; without PROMPT, line by line.", opts,
                                  0, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    struct err_text why = {0};
    if (c.system) add_message(&c, "system", c.system, strlen(c.system));
    err_t err = args[0] ? turn(&c, args[0], &why) : converse(&c, &why);
    buf_fini(&c.messages);
    buf_fini(&c.line);
    buf_fini(&c.answer);
    return err ? cmd_fail(err, &why) : 0;
}
