// trireme serve: the coordinator, and with it either one worker in this process (the default), or
// local worker processes (--workers N), or workers that dial in from elsewhere.
#include "coordinator/coordinator.h"
#include "coordinator/fleet/fleet.h"
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/crew.h"
#include "deploy/textfile.h"
#include "deploy/opts.h"
#include "kernels/kernels.h"
#include "proto/base/log.h"
#include "topology/cluster.h"
#include "topology/probe.h"
#include "worker/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int stop;

static void on_signal(int sig)
{
    (void)sig;
    // The first signal drains, the second leaves at once.
    if (atomic_load(&stop) < 2) atomic_fetch_add(&stop, 1);
}

struct serve {
    struct coordinator_config c;
    struct opt_strs aliases, hosts, origins;
    const char *model, *cluster_file, *parts, *api_key_file, *tls_cert, *tls_key, *device,
        *share_text, *transports, *devices;
    double device_memory;
    uint32_t n_worker, n_local, n_threads, cert_life_s;
    bool deterministic;
    uint32_t kv_choice, road_choice, group_choice;
    bool has_workers_option, verbose, profile;
    char *key_text, *cert_text, *key_pem_text;
    size_t key_bytes;
    const char *keys[65];
};

#define GROUP_WORDS "auto|nccl|peers|port"
static const char *const group_words[] = {"auto", "nccl", "peers", "port"};

// A worker of this process: its own thread, joined to the coordinator by a local link.
enum { LOCAL_MAX = 16 };
struct local_worker {
    struct worker *worker;
    struct link *end; // given out once
    char name[32];
    pthread_t thread;
    atomic_int stop;
    bool running;
    err_t err; // why it ended, if not by local_stop
    struct err_text why;
};

static err_t local_dial(void *arg, struct link **out, struct err_text *why)
{
    struct local_worker *l = arg;
    if (!l->end) return err_say(why, ERR_END, "the coordinator of this process ended");
    *out = l->end;
    l->end = NULL;
    return OK;
}

static void *local_main(void *arg)
{
    struct local_worker *l = arg;
    err_t err = worker_run(l->worker, &l->stop, &l->why);
    if (err && err != ERR_END) {
        l->err = err;
        atomic_store(&stop, 2);
    }
    return NULL;
}

static err_t local_start(struct local_worker *l, const struct serve *s, struct link **far,
                         struct err_text *why)
{
    const char *models[] = {s->model, NULL};
    struct worker_config wc = {
        .name = l->name,
        .models = models,
        .n_threads = (int32_t)s->n_threads,
        .device = s->device,
        .device_memory = s->device_memory,
        .group = s->group_choice,
        .profile = s->profile,
        .transports = s->transports,
        .devices = s->devices,
        .measure = true,
        .measured_dir = here_dir(),
        .dial = local_dial,
        .dial_arg = l,
    };
    err_t err = link_local_pair("coordinator", l->name, far, &l->end);
    if (!err) err = worker_open(&wc, &l->worker, why);
    if (!err && pthread_create(&l->thread, NULL, local_main, l))
        err = err_say(why, ERR_SYSTEM, "cannot start the worker's thread");
    l->running = !err;
    return err;
}

// The cores divided, unless --threads says how many each gets.
static err_t locals_start(struct local_worker *locals, struct serve *s, struct link **far,
                          struct err_text *why)
{
    if (!s->n_local) return OK;
    uint32_t cores = (uint32_t)probe_usable();
    if (!s->n_threads) s->n_threads = cores / s->n_local ? cores / s->n_local : 1;
    for (uint32_t i = 0; i < s->n_local; i++) {
        if (s->n_local == 1)
            snprintf(locals[i].name, sizeof locals[i].name, "local");
        else
            snprintf(locals[i].name, sizeof locals[i].name, "local-%u", i + 1);
        err_t err = local_start(&locals[i], s, &far[i], why);
        if (err) return err;
    }
    s->c.local = far;
    s->c.n_local = s->n_local;
    return OK;
}

static void local_stop(struct local_worker *l)
{
    atomic_store(&l->stop, 1);
    if (l->running) pthread_join(l->thread, NULL);
    if (l->worker) worker_close(l->worker);
    if (l->end) link_close(l->end);
}

// One API key a line (auth.h); empty lines and lines beginning with # do not count.
static err_t read_keys(struct serve *s, struct err_text *why)
{
    err_t err = textfile_read(s->api_key_file, true, &s->key_text, why);
    if (err) return err;
    s->key_bytes = strlen(s->key_text);
    int n = 0;
    char *save;
    for (char *line = strtok_r(s->key_text, "\r\n", &save); line;
         line = strtok_r(NULL, "\r\n", &save)) {
        line += strspn(line, " \t");
        if (!*line || *line == '#') continue;
        if (n == 64) return err_say(why, ERR_CONFIG, "%s: more than 64 keys", s->api_key_file);
        s->keys[n++] = line;
    }
    if (n == 0) return err_say(why, ERR_CONFIG, "%s: no key in it", s->api_key_file);
    s->c.door.api_keys = s->keys;
    return OK;
}

// Their digests are all that is needed from now on.
static void forget_keys(struct serve *s)
{
    if (s->key_text) explicit_bzero(s->key_text, s->key_bytes);
    free(s->key_text);
    s->key_text = NULL;
    s->keys[0] = NULL;
}

static err_t read_cluster(struct serve *s, struct err_text *why)
{
    struct cluster *cluster = NULL;
    err_t err = cluster_load(s->cluster_file, &cluster, why);
    if (err) return err;
    // The file says who will come; they dial in with their own tokens and certificates.
    s->c.n_expect = (uint32_t)cluster->n_device;
    free(cluster);
    return OK;
}

// "3,1": how much of a stage each member takes.
static err_t read_parts(struct serve *s, struct err_text *why)
{
    const char *at = s->parts;
    for (int i = 0; i < WIRE_MEMBERS_MAX; i++) {
        char *end;
        const long v = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : 0;
        if (v < 1 || v > SHARE_TOTAL) break;
        s->c.part[i] = (uint32_t)v;
        if (!*end) return OK;
        if (*end != ',') break;
        at = end + 1;
    }
    return err_say(why, ERR_CONFIG, "--parts takes up to %d numbers like 3,1, not %s",
                   WIRE_MEMBERS_MAX, s->parts);
}

static err_t prepare(struct serve *s, struct err_text *why)
{
    struct coordinator_config *c = &s->c;
    c->model = s->model;
    c->aliases = s->aliases.at;
    c->door.hosts = s->hosts.at;
    c->door.origins = s->origins.n ? s->origins.at : NULL;
    c->state_dir = cmd_state_dir(c->state_dir);
    const uint32_t kv_dtypes[] = {0, DT_F16, DT_BF16, DT_F8_E4M3, DT_Q8_0, DT_F32};
    c->kv_dtype = kv_dtypes[s->kv_choice];
    if (s->deterministic && c->precision == 0) c->precision = PLAN_DETERMINISTIC;
    c->road = s->road_choice == 0 ? 0 : s->road_choice == 1 ? ROAD_LOCAL : ROAD_UCX;
    err_t err = OK;
    if (s->api_key_file) err = read_keys(s, why);
    if (!err && !s->tls_cert != !s->tls_key)
        err = err_say(why, ERR_CONFIG, "--tls-cert and --tls-key go together");
    if (!err && s->tls_cert) err = textfile_read(s->tls_cert, false, &s->cert_text, why);
    if (!err && s->tls_key) err = textfile_read(s->tls_key, true, &s->key_pem_text, why);
    c->door.tls_cert_pem = s->cert_text;
    c->door.tls_key_pem = s->key_pem_text;
    if (!err) err = cmd_fraction("--device-memory", s->share_text, &s->device_memory, why);
    if (!err && s->cluster_file) err = read_cluster(s, why);
    if (!err && s->parts) err = read_parts(s, why);
    // Nothing said of workers: one in this process.
    if (!s->n_local && !s->has_workers_option && !c->join_listen && !s->cluster_file)
        s->n_local = 1;
    if (s->n_local && s->has_workers_option)
        return err_say(why, ERR_CONFIG, "--local and --workers exclude each other");
    uint32_t own = s->n_local + s->n_worker;
    const bool is_shared = s->device && !strncmp(s->device, "cuda", 4) && own > 1;
    if (is_shared && !s->share_text) s->device_memory = 1.0 / own;
    if (!c->n_expect) c->n_expect = own ? own : 1;
    c->n_home = own;
    c->cert_life_s = s->cert_life_s;
    if (!s->n_local && !c->join_listen) c->join_listen = "127.0.0.1:0";
    if (!c->join_listen) c->state_dir = NULL;
    return err;
}

// Runs the opened coordinator with its local workers until a signal.
static err_t run(struct serve *s, struct coordinator *co, struct err_text *why)
{
    struct crew *crew = NULL;
    struct crew_config cc = {
        .n_worker = s->n_worker,
        .join_listen = s->c.join_listen,
        .join_port = coordinator_join_port(co),
        .state_dir = s->c.state_dir,
        .model = s->model,
        .n_threads = s->n_threads,
        .device = s->device,
        .device_memory = s->device_memory,
        .transports = s->transports,
        .devices = s->devices,
        .group = s->group_choice ? group_words[s->group_choice] : NULL,
    };
    err_t err = s->n_worker ? crew_start(&cc, &crew, why) : OK;
    if (!err) {
        log_info("serving on port %d", coordinator_http_port(co));
        if (s->c.join_listen) log_info("workers join on port %d", coordinator_join_port(co));
        err = coordinator_run(co, &stop);
    }
    crew_stop(crew);
    return err;
}

static int serve(struct serve *s)
{
    struct err_text why = {0};
    struct local_worker locals[LOCAL_MAX] = {0};
    struct link *far[LOCAL_MAX] = {0};
    struct coordinator *co = NULL;
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    err_t err = prepare(s, &why);
    if (!err) err = locals_start(locals, s, far, &why);
    if (!err) err = coordinator_open(&s->c, &co, &why);
    forget_keys(s);
    if (!err) err = run(s, co, &why);
    if (co) coordinator_close(co);
    for (uint32_t i = 0; i < s->n_local; i++)
        local_stop(&locals[i]);
    // A worker that gave up ended the server: its reason is the server's.
    for (uint32_t i = 0; i < s->n_local && !err; i++) {
        err = locals[i].err;
        why = locals[i].why;
    }
    free(s->cert_text);
    free(s->key_pem_text);
    return err ? cmd_fail(err, &why) : 0;
}

int cmd_serve(int argc, char **argv)
{
    struct serve s = {.n_worker = UINT32_MAX, .c.far_ms = 10, .c.door.listen = "127.0.0.1:30000"};
    struct coordinator_config *c = &s.c;
    const char *args[1];
    const struct opt opts[] = {
        {"listen", OPT_STR, &c->door.listen, "ADDR:PORT", "HTTP address (127.0.0.1:30000)", 0, 0},
        {"workers", OPT_U32, &s.n_worker, "N",
         "start N local worker processes; 0: none, they dial in", 0, 64},
        {"local", OPT_U32, &s.n_local, "N",
         "workers as threads of this process (1, if nothing else)", 1, LOCAL_MAX},
        {"cluster", OPT_STR, &s.cluster_file, "FILE", "wait for the workers of this cluster file",
         0, 0},
        {"join-listen", OPT_STR, &c->join_listen, "ADDR:PORT",
         "where workers dial in (127.0.0.1, any port)", 0, 0},
        {"cert-life", OPT_U32, &s.cert_life_s, "S",
         "seconds for which workers' certificates are good; they renew them (7776000: 90 days)", 1,
         INT32_MAX},
        {"expect", OPT_U32, &c->n_expect, "N", "workers to wait for before the first plan", 1, 64},
        {"lanes", OPT_U32, &c->n_lane, "N",
         "complete copies of the model that the near workers make (1)", 1, FLEET_LANES_MAX / 2},
        {"profile", OPT_FLAG, &s.profile, NULL,
         "log where the time of steps goes, of workers in this process", 0, 0},
        {"no-rebalance", OPT_FLAG, &c->no_rebalance, NULL,
         "leave experts where they are, however they are used", 0, 0},
        {"far", OPT_U32, &c->far_ms, "MS",
         "round trip over which a worker is a lane of its own (10); 0: none is", 0, 60000},
        {"stages", OPT_U32, &c->n_stage, "N",
         "stages of a lane (as many as its workers; with --split 1)", 1, 64},
        {"split", OPT_CHOICE, &c->split, "layers|tensor|experts",
         "what workers divide: layers, or the inside of each stage (layers)", 0, 0},
        {"parts", OPT_STR, &s.parts, "N,N..", "share of each member of a stage (by speed)", 0, 0},
        {"ctx", OPT_U32, &c->ctx, "N", "tokens of one sequence (model's, at most 8192)", 16,
         1 << 24},
        {"kv-tokens", OPT_SIZE, &c->kv_tokens, "N", "tokens of KV cache in all (4 x ctx)", 0, 0},
        {"threads", OPT_U32, &s.n_threads, "N",
         "compute threads of each worker (the cores divided)", 1, 1024},
        {"slots", OPT_U32, &c->n_slot, "N", "sequences at once (32)", 1, 1024},
        {"queue", OPT_U32, &c->queue_max, "N", "choices that may wait (256)", 1, 1 << 20},
        {"step-tokens", OPT_U32, &c->max_tok, "N", "tokens of one step: prefill chunk (256)", 1,
         8192},
        {"precision", OPT_CHOICE, &c->precision, "fast|exact", "8-bit or float activations (fast)",
         0, 0},
        {"deterministic", OPT_FLAG, &s.deterministic, NULL,
         "the same bits in any batch on GPUs too, where fast takes other ways", 0, 0},
        {"kv", OPT_CHOICE, &s.kv_choice, "auto|f16|bf16|fp8|q8|f32",
         "type of keys and values (auto)", 0, 0},
        {"group", OPT_CHOICE, &s.group_choice, GROUP_WORDS,
         "how devices that share a stage reach each other (auto)", 0, 0},
        {"road", OPT_CHOICE, &s.road_choice, "auto|local|ucx", "data road between stages (auto)", 0,
         0},
        {"transports", OPT_STR, &s.transports, "LIST",
         "UCX transports of local workers, e.g. tcp,self", 0, 0},
        {"devices", OPT_STR, &s.devices, "LIST", "trusted network devices of their data road (lo)",
         0, 0},
        {"device", OPT_STR, &s.device, "NAME",
         "of local workers: cpu, reference, avx2, vnni, neon, dotprod, i8mm, cuda, cuda:1 (cpu)", 0,
         0},
        {"device-memory", OPT_STR, &s.share_text, "FRACTION",
         "of the device's memory, for each local worker (divided)", 0, 0},
        {"no-prefix-cache", OPT_FLAG, &c->no_prefix_cache, NULL, "compute shared prompts again", 0,
         0},
        {"no-chain", OPT_FLAG, &c->no_chain, NULL, "send a step only when the one before returned",
         0, 0},
        {"replay-memory", OPT_SIZE, &c->door.replay_bytes, "BYTES",
         "calls of models kept to be replayed as they were written (64M)", 0, 0},
        {"log-misses", OPT_FLAG, &c->door.log_misses, NULL,
         "say where prompts part from what was computed before; shows pieces of them", 0, 0},
        {"strict-roles", OPT_FLAG, &c->door.strict_roles, NULL,
         "refuse conversations that the chat template refuses, instead of repairing them", 0, 0},
        {"alias", OPT_STRS, &s.aliases, "NAME", "further model name for callers; repeatable", 0, 0},
        {"api-key-file", OPT_STR, &s.api_key_file, "FILE",
         "API keys, one a line, with their limits: KEY|sha256:HEX [name=WORD] [concurrency=N] "
         "[rate=N/min] [admin] (mode 0600)",
         0, 0},
        {"ledger", OPT_STR, &c->door.ledger, "FILE", "append a line of JSON for each request", 0,
         0},
        {"tls-cert", OPT_STR, &s.tls_cert, "FILE", "certificate chain of the HTTP address", 0, 0},
        {"tls-key", OPT_STR, &s.tls_key, "FILE", "its private key (mode 0600)", 0, 0},
        {"host", OPT_STRS, &s.hosts, "NAME", "further name allowed in Host; repeatable", 0, 0},
        {"origin", OPT_STRS, &s.origins, "ORIGIN", "web origin allowed by CORS; repeatable", 0, 0},
        {"state", OPT_STR, &c->state_dir, "DIR", "state folder (~/.local/state/trireme)", 0, 0},
        {"grace", OPT_U32, &c->grace_ms, "MS", "how long requests wait for lost workers (10000)", 1,
         3600000},
        {"verbose", OPT_FLAG, &s.verbose, NULL, "more log lines", 0, 0},
        {0},
    };
    const struct opt_spec spec = {"serve MODEL [options]",
                                  "Serves MODEL (a .gguf file or a Hugging Face folder).", opts, 1,
                                  1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    s.model = args[0];
    s.has_workers_option = s.n_worker != UINT32_MAX;
    if (!s.has_workers_option) s.n_worker = 0;
    if (s.verbose) log_set_level(LOG_DEBUG);
    log_set_who("coordinator");
    return serve(&s);
}
