#include "deploy/crew.h"

#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/folder.h"
#include "proto/base/log.h"
#include "proto/link/identity.h"
#include "topology/probe.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CREW_MAX = 64, BACKOFF_FIRST_MS = 500, BACKOFF_MAX_MS = 8000 };

struct member {
    char name[64];
    char state[4096];
    pid_t pid;           // 0: not running
    int64_t start_at_us; // when to start it (again)
    int64_t started_us;
    int backoff_ms;
    bool is_done; // ended as it was asked to: not started again
};

struct crew {
    struct crew_config c;
    char *state_dir, *model, *transports, *devices;
    char join[128]; // "host:port" the workers dial
    struct member members[CREW_MAX];
    pthread_t thread;
    atomic_int stop;
};

// Each start gets a fresh token: a worker that is enrolled already does not use it.
static err_t member_token(struct crew *c, struct member *m, char *path, size_t size)
{
    struct err_text why = {0};
    struct buf token = {0};
    snprintf(path, size, "%s/token", m->state);
    err_t err = identity_token_new(c->state_dir, (int64_t)time(NULL), &token, &why);
    if (!err) err = identity_write_file(path, token.data, token.len, &why);
    if (err) log_error("cannot make a join token for %s: %s", m->name, why.s);
    buf_fini(&token);
    return err;
}

// Of a worker; ended by NULL.
struct args {
    const char *at[32];
    size_t n;
};

// If it was given a value.
static void add_option(struct args *a, const char *name, const char *value)
{
    if (!value) return;
    BUG_ON(a->n + 2 >= sizeof a->at / sizeof *a->at);
    a->at[a->n++] = name;
    a->at[a->n++] = value;
}

static void member_exec(struct crew *c, struct member *m, const char *token)
{
    char threads[16], share[32];
    struct args a = {.at = {"trireme", "worker"}, .n = 2};
    snprintf(threads, sizeof threads, "%u", c->c.n_threads);
    snprintf(share, sizeof share, "%.6f", c->c.device_memory);
    add_option(&a, "--join", c->join);
    add_option(&a, "--token-file", token);
    add_option(&a, "--name", m->name);
    add_option(&a, "--state", m->state);
    add_option(&a, "--model", c->model);
    add_option(&a, "--threads", threads);
    add_option(&a, "--device", c->c.device);
    add_option(&a, "--device-memory", c->c.device_memory > 0 ? share : NULL);
    add_option(&a, "--transports", c->transports);
    add_option(&a, "--devices", c->devices);
    add_option(&a, "--group", c->c.group);
    // A server that is killed takes its workers with it; Ctrl-C reaches the server alone, which
    // lets its streams finish before it ends them.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv("/proc/self/exe", (char *const *)(uintptr_t)a.at);
    _exit(127);
}

static void member_start(struct crew *c, struct member *m)
{
    char token[4200];
    m->started_us = clock_now_us();
    if (member_token(c, m, token, sizeof token)) {
        m->start_at_us = m->started_us + BACKOFF_MAX_MS * 1000;
        return;
    }
    pid_t pid = fork();
    if (pid == 0) member_exec(c, m, token);
    if (pid < 0) {
        log_error("cannot start worker %s: %s", m->name, strerror(errno));
        m->start_at_us = m->started_us + BACKOFF_MAX_MS * 1000;
        return;
    }
    m->pid = pid;
    log_info("started worker %s pid %d", m->name, (int)pid);
}

static void member_ended(struct member *m, int status)
{
    int64_t now = clock_now_us();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        log_info("worker %s pid %d was drained", m->name, (int)m->pid);
        m->is_done = true;
        m->pid = 0;
        return;
    }
    if (WIFSIGNALED(status))
        log_warn("worker %s pid %d was killed by signal %d", m->name, (int)m->pid,
                 WTERMSIG(status));
    else
        log_warn("worker %s pid %d ended with code %d", m->name, (int)m->pid, WEXITSTATUS(status));
    // One that ran for a while starts again soon; one that dies at once waits longer each time.
    bool ran = now - m->started_us > 10 * 1000000LL;
    m->backoff_ms = ran || !m->backoff_ms ? BACKOFF_FIRST_MS : m->backoff_ms * 2;
    if (m->backoff_ms > BACKOFF_MAX_MS) m->backoff_ms = BACKOFF_MAX_MS;
    m->start_at_us = now + m->backoff_ms * 1000LL;
    m->pid = 0;
}

static void *crew_main(void *arg)
{
    struct crew *c = arg;
    while (!atomic_load(&c->stop)) {
        int64_t now = clock_now_us();
        for (uint32_t i = 0; i < c->c.n_worker; i++) {
            struct member *m = &c->members[i];
            int status;
            if (m->pid && waitpid(m->pid, &status, WNOHANG) == m->pid) member_ended(m, status);
            if (!m->pid && !m->is_done && now >= m->start_at_us) member_start(c, m);
        }
        usleep(100 * 1000);
    }
    return NULL;
}

// The address the workers dial: the one listened on, loopback where that is any address.
static void join_address(struct crew *c)
{
    const char *listen = c->c.join_listen, *colon = strrchr(listen, ':');
    size_t n = colon ? (size_t)(colon - listen) : 0;
    if (n == 0 || (n == 7 && memcmp(listen, "0.0.0.0", 7) == 0))
        snprintf(c->join, sizeof c->join, "127.0.0.1:%d", c->c.join_port);
    else if (n == 4 && memcmp(listen, "[::]", 4) == 0)
        snprintf(c->join, sizeof c->join, "[::1]:%d", c->c.join_port);
    else
        snprintf(c->join, sizeof c->join, "%.*s:%d", (int)n, listen, c->c.join_port);
}

err_t crew_start(const struct crew_config *cfg, struct crew **out, struct err_text *why)
{
    if (cfg->n_worker > CREW_MAX)
        return err_say(why, ERR_CONFIG, "--workers %u: at most %d local workers", cfg->n_worker,
                       CREW_MAX);
    struct crew *c = calloc(1, sizeof *c);
    if (!c) return err_say(why, ERR_MEMORY, "out of memory");
    c->c = *cfg;
    join_address(c);
    c->state_dir = strdup(cfg->state_dir);
    c->model = strdup(cfg->model);
    c->transports = cfg->transports ? strdup(cfg->transports) : NULL;
    c->devices = cfg->devices ? strdup(cfg->devices) : NULL;
    if (!c->state_dir || !c->model || !c->transports != !cfg->transports ||
        !c->devices != !cfg->devices) {
        crew_stop(c);
        return err_say(why, ERR_MEMORY, "out of memory");
    }
    uint32_t share = (uint32_t)probe_usable() / cfg->n_worker;
    if (c->c.n_threads == 0) c->c.n_threads = share ? share : 1;
    for (uint32_t i = 0; i < cfg->n_worker; i++) {
        struct member *m = &c->members[i];
        snprintf(m->name, sizeof m->name, "local-%u", i + 1);
        snprintf(m->state, sizeof m->state, "%s/workers/local-%u", cfg->state_dir, i + 1);
        if (folder_make(m->state)) {
            err_say(why, ERR_SYSTEM, "%s: cannot make the folder: %s", m->state, strerror(errno));
            crew_stop(c);
            return ERR_SYSTEM;
        }
    }
    if (pthread_create(&c->thread, NULL, crew_main, c)) {
        crew_stop(c);
        return err_say(why, ERR_SYSTEM, "cannot start the thread that watches the workers");
    }
    *out = c;
    return OK;
}

static void crew_signal(struct crew *c, int sig)
{
    for (uint32_t i = 0; i < c->c.n_worker; i++)
        if (c->members[i].pid) kill(c->members[i].pid, sig);
}

static bool crew_reaped(struct crew *c)
{
    bool all = true;
    for (uint32_t i = 0; i < c->c.n_worker; i++) {
        struct member *m = &c->members[i];
        if (m->pid && waitpid(m->pid, NULL, WNOHANG) != 0) m->pid = 0;
        all = all && !m->pid;
    }
    return all;
}

void crew_stop(struct crew *c)
{
    if (!c) return;
    atomic_store(&c->stop, 1);
    if (c->thread) pthread_join(c->thread, NULL);
    crew_signal(c, SIGTERM);
    for (int i = 0; i < 30 && !crew_reaped(c); i++)
        usleep(100 * 1000);
    crew_signal(c, SIGKILL);
    while (!crew_reaped(c))
        usleep(10 * 1000);
    free(c->state_dir);
    free(c->model);
    free(c->transports);
    free(c->devices);
    free(c);
}
