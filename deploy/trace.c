#include "deploy/trace.h"

#include "coordinator/door/prepare.h"
#include "proto/base/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct growing {
    struct trace_request *at;
    uint32_t n, cap;
};

static bool add(struct growing *g, const struct trace_request *r)
{
    if (g->n == g->cap) {
        const uint32_t cap = g->cap ? 2 * g->cap : 256;
        struct trace_request *more = realloc(g->at, cap * sizeof *more);
        if (!more) return false;
        g->at = more;
        g->cap = cap;
    }
    g->at[g->n++] = *r;
    return true;
}

static int by_time(const void *a, const void *b)
{
    const struct trace_request *x = a, *y = b;
    return x->at_s < y->at_s ? -1 : x->at_s > y->at_s;
}

static err_t read_count(const struct json *j, const char *key, uint32_t least, uint32_t *out,
                        struct err_text *why)
{
    enum { MOST = 1 << 24 };
    const struct json *v = json_get(j, key);
    if (!v && least == 0) return OK;
    if (!v || v->kind != J_INT || v->i < least || v->i > MOST)
        return err_say(why, ERR_INVALID, "'%s' must be a number of tokens from %u to %d", key,
                       least, MOST);
    *out = (uint32_t)v->i;
    return OK;
}

static err_t read_line(const char *line, size_t len, struct trace_request *out,
                       struct err_text *why)
{
    struct arena a;
    const struct json *j;
    arena_init(&a, 1 << 20);
    err_t e = json_read(line, len, &a, &j, NULL, why);
    if (!e && j->kind != J_OBJ) e = err_say(why, ERR_INVALID, "a line must be an object");
    if (!e) {
        const struct json *session = json_get(j, "session");
        out->at_s = json_number(json_get(j, "at"), 0);
        if (!(out->at_s >= 0 && out->at_s < 1e9))
            e = err_say(why, ERR_INVALID, "'at' must be seconds from 0 to 1e9");
        if (!e) e = read_count(j, "prompt", 1, &out->n_prompt, why);
        if (!e) e = read_count(j, "output", 1, &out->n_output, why);
        if (!e) e = read_count(j, "common", 0, &out->n_common, why);
        if (!e && session && session->kind != J_STR)
            e = err_say(why, ERR_INVALID, "'session' must be a string");
        if (!e && session) out->session = prepare_session(session->str.s);
    }
    arena_fini(&a);
    return e;
}

static err_t read_file(const char *path, struct growing *g, struct err_text *why)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    uint32_t number = 0;
    err_t e = OK;
    FILE *f = fopen(path, "r");
    if (!f) return err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(errno));
    while (!e && (len = getline(&line, &cap, f)) >= 0) {
        struct trace_request r = {0};
        struct err_text fault;
        number++;
        if (strspn(line, " \t\r\n") == (size_t)len) continue;
        e = read_line(line, (size_t)len, &r, &fault);
        if (e)
            err_say(why, e, "%s:%u: %s", path, number, fault.s);
        else if (g->n == TRACE_REQUESTS_MAX || !add(g, &r))
            e = err_say(why, ERR_MEMORY, "%s: no memory for more than %u requests", path, g->n);
    }
    free(line);
    fclose(f);
    return e;
}

// A small generator with a seed of its own: the same trace everywhere.
static uint32_t random_up_to(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static err_t make_agents(const char *words, struct growing *g, struct err_text *why)
{
    unsigned n_agent, n_turn;
    char rest;
    if (sscanf(words, "%u,%u%c", &n_agent, &n_turn, &rest) != 2 || !n_agent || !n_turn ||
        n_agent > 1000000 || n_turn > 1000)
        return err_say(why, ERR_INVALID,
                       "agents:%s: expected agents:N,TURNS with N up to 1000000, TURNS up to 1000",
                       words);
    uint64_t state = 1;
    for (unsigned a = 0; a < n_agent; a++) {
        struct trace_request r = {.at_s = 2.0 * a / n_agent * n_turn, .session = a + 1};
        r.n_common = 1500;
        r.n_prompt = r.n_common + 500 + random_up_to(&state, 2000);
        for (unsigned turn = 0; turn < n_turn; turn++) {
            r.n_output = 40 + random_up_to(&state, 200);
            if (g->n == TRACE_REQUESTS_MAX || !add(g, &r))
                return err_say(why, ERR_MEMORY, "no memory for a trace");
            // The answer and a tool's result are part of the next prompt.
            r.n_prompt += r.n_output + 30 + random_up_to(&state, 500);
            r.at_s += 5 + random_up_to(&state, 15);
        }
    }
    return OK;
}

err_t trace_open(const char *path, struct trace *out, struct err_text *why)
{
    static const char made[] = "agents:";
    struct growing g = {0};
    const bool is_made = strncmp(path, made, sizeof made - 1) == 0;
    err_t e = is_made ? make_agents(path + sizeof made - 1, &g, why) : read_file(path, &g, why);
    if (!e && !g.n) e = err_say(why, ERR_INVALID, "%s: no requests", path);
    if (e) {
        free(g.at);
        return e;
    }
    qsort(g.at, g.n, sizeof *g.at, by_time);
    *out = (struct trace){.requests = g.at, .n = g.n};
    return OK;
}

void trace_close(struct trace *t)
{
    free(t->requests);
    *t = (struct trace){0};
}
