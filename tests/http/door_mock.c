// door_mock: the front door with the mock engine behind it, for the tests and for measuring the
// door alone. Prints "port N" and serves until SIGTERM. SIGUSR1: as if the model were loading;
// SIGUSR2: ready again.
#include "coordinator/door/http.h"
#include "proto/base/log.h"
#include "tests/unit/door/mock_engine.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MAX = 8 };

struct options {
    struct door_config door;
    struct mock_config mock;
    const char *keys[LIST_MAX + 1], *hosts[LIST_MAX + 1], *origins[LIST_MAX + 1];
    const char *aliases[LIST_MAX + 1];
    uint32_t strict;
};

struct program {
    uv_loop_t loop;
    struct engine *engine;
    struct door *door;
    uv_signal_t term, usr1, usr2;
    uv_timer_t drain;
    int64_t drain_until;
};

static void add(const char **list, const char *s)
{
    for (int i = 0; i < LIST_MAX; i++) {
        if (list[i]) continue;
        list[i] = s;
        return;
    }
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    char *s = calloc(1, 65536);
    if (!f || !s || fread(s, 1, 65535, f) == 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    fclose(f);
    return s;
}

static void take_option(struct options *o, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint32_t *number;
        const char **text;
        const char **list;
        const char **file;
    } rows[] = {
        {"--listen", NULL, &o->door.listen, NULL, NULL},
        {"--ledger", NULL, &o->door.ledger, NULL, NULL},
        {"--key", NULL, NULL, o->keys, NULL},
        {"--host", NULL, NULL, o->hosts, NULL},
        {"--origin", NULL, NULL, o->origins, NULL},
        {"--alias", NULL, NULL, o->aliases, NULL},
        {"--cert", NULL, NULL, NULL, &o->door.tls_cert_pem},
        {"--cert-key", NULL, NULL, NULL, &o->door.tls_key_pem},
        {"--vocab", NULL, &o->mock.vocab, NULL, NULL},
        {"--template", NULL, &o->mock.chat_template, NULL, NULL},
        {"--say", NULL, &o->mock.say, NULL, NULL},
        {"--ctx", &o->mock.ctx, NULL, NULL, NULL},
        {"--per-turn", &o->mock.per_turn, NULL, NULL, NULL},
        {"--step-us", &o->mock.step_us, NULL, NULL, NULL},
        {"--queue-max", &o->mock.queue_max, NULL, NULL, NULL},
        {"--strict-roles", &o->strict, NULL, NULL, NULL},
        {"--max-connections", &o->door.max_connections, NULL, NULL, NULL},
        {"--max-per-address", &o->door.max_per_address, NULL, NULL, NULL},
        {"--header-ms", &o->door.header_ms, NULL, NULL, NULL},
        {"--body-ms", &o->door.body_ms, NULL, NULL, NULL},
        {"--write-ms", &o->door.write_ms, NULL, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].name, name) != 0) continue;
        if (rows[i].number) *rows[i].number = (uint32_t)strtoul(value, NULL, 10);
        if (rows[i].text) *rows[i].text = value;
        if (rows[i].list) add(rows[i].list, value);
        if (rows[i].file) *rows[i].file = read_file(value);
        return;
    }
    fprintf(stderr, "unknown option %s\n", name);
    exit(2);
}

static void close_all(struct program *p)
{
    door_close(p->door);
    mock_engine_close(p->engine);
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->usr1, NULL);
    uv_close((uv_handle_t *)&p->usr2, NULL);
    uv_close((uv_handle_t *)&p->drain, NULL);
}

static void on_drain(uv_timer_t *t)
{
    struct program *p = t->data;
    if (door_n_active(p->door) > 0 && (int64_t)uv_now(&p->loop) < p->drain_until) return;
    uv_timer_stop(t);
    close_all(p);
}

static void on_signal(uv_signal_t *s, int number)
{
    struct program *p = s->data;
    if (number == SIGUSR1) mock_engine_set_state(p->engine, ENGINE_LOADING);
    if (number == SIGUSR2) mock_engine_set_state(p->engine, ENGINE_READY);
    if (number != SIGTERM || uv_is_active((uv_handle_t *)&p->drain)) return;
    mock_engine_set_state(p->engine, ENGINE_DRAINING);
    door_drain(p->door);
    p->drain_until = (int64_t)uv_now(&p->loop) + 3000;
    uv_timer_start(&p->drain, on_drain, 20, 20);
}

static void watch(struct program *p, uv_signal_t *s, int number)
{
    uv_signal_init(&p->loop, s);
    s->data = p;
    uv_signal_start(s, on_signal, number);
}

int main(int argc, char **argv)
{
    struct options o = {.door.listen = "127.0.0.1:0"};
    struct program p = {.door = NULL, .engine = NULL};
    struct err_text why;
    o.door.api_keys = o.keys;
    o.door.hosts = o.hosts;
    o.mock.aliases = o.aliases;
    for (int i = 1; i + 1 < argc; i += 2)
        take_option(&o, argv[i], argv[i + 1]);
    if (!o.mock.vocab) {
        fprintf(stderr, "--vocab FILE is needed\n");
        return 2;
    }
    o.door.strict_roles = o.strict != 0;
    o.door.origins = o.origins[0] ? o.origins : NULL;
    log_set_who("door_mock");
    uv_loop_init(&p.loop);
    err_t err = mock_engine_open(&p.loop, &o.mock, &p.engine, &why);
    if (!err) err = door_open(&p.loop, &o.door, p.engine, &p.door, &why);
    if (err) {
        fprintf(stderr, "error: %s\n", why.s);
        if (p.engine) mock_engine_close(p.engine);
        uv_run(&p.loop, UV_RUN_DEFAULT);
        uv_loop_close(&p.loop);
        return err_exit_code(err);
    }
    watch(&p, &p.term, SIGTERM);
    watch(&p, &p.usr1, SIGUSR1);
    watch(&p, &p.usr2, SIGUSR2);
    uv_timer_init(&p.loop, &p.drain);
    p.drain.data = &p;
    printf("port %d\n", door_port(p.door));
    fflush(stdout);
    uv_run(&p.loop, UV_RUN_DEFAULT);
    uv_loop_close(&p.loop);
    free((char *)(uintptr_t)o.door.tls_cert_pem);
    free((char *)(uintptr_t)o.door.tls_key_pem);
    return 0;
}
