// trireme worker: one process that joins a coordinator and computes part of its model.
#include "deploy/cmd.h"
#include "deploy/here.h"
#include "deploy/textfile.h"
#include "deploy/join.h"
#include "deploy/opts.h"
#include "proto/base/log.h"
#include "worker/worker.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STORE_RESERVE ((uint64_t)5 << 30)

static atomic_int stop;

static void on_signal(int sig)
{
    (void)sig;
    atomic_store(&stop, 1);
}

// The host's name, as far as a worker's name may hold it.
static void default_name(char *name, size_t size)
{
    if (gethostname(name, size)) snprintf(name, size, "worker");
    name[size - 1] = 0;
    for (char *p = name; *p; p++)
        *p = isalnum((unsigned char)*p) ? (char)tolower((unsigned char)*p) : '-';
}

// A token file holds one line. A missing file is fine once the worker has its certificate.
static err_t read_token(const char *path, char **token, struct err_text *why)
{
    if (access(path, F_OK) && errno == ENOENT) return OK;
    err_t err = textfile_read(path, true, token, why);
    if (!err) (*token)[strcspn(*token, "\r\n")] = 0;
    return err;
}

static int run(struct worker_config *c, struct join *j)
{
    struct err_text why = {0};
    struct worker *w = NULL;
    c->dial = join_dial;
    c->renewal = join_renewal;
    c->renewed = join_renewed;
    c->dial_arg = j;
    c->name = j->name;
    err_t err = join_open(j, &why);
    if (!err) err = worker_open(c, &w, &why);
    if (!err) err = worker_run(w, &stop, &why);
    if (w) worker_close(w);
    join_fini(j);
    // A refusal is a failure whatever number the coordinator put on it.
    if (err && err_exit_code(err) == 0) err = ERR_DENIED;
    return err ? cmd_fail(err, &why) : 0;
}

int cmd_worker(int argc, char **argv)
{
    char name[64], state[4096], store[8192], *token = NULL;
    struct join j = {0};
    struct worker_config c = {.store_reserve_bytes = STORE_RESERVE};
    struct opt_strs models = {0};
    const char *token_file = NULL, *device_memory = NULL;
    uint32_t threads = 0, own_lane = 0;
    bool no_measure = false, no_store = false, verbose = false;
    const struct opt opts[] = {
        {"join", OPT_STR, &j.address, "HOST:PORT", "the coordinator's join address", 0, 0},
        {"token-file", OPT_STR, &token_file, "FILE", "join token (trireme token new); needed once",
         0, 0},
        {"model", OPT_STRS, &models, "PATH", "model file, or folder of them; repeatable", 0, 0},
        {"store", OPT_STR, &c.store_dir, "DIR",
         "where copies of models from the coordinator grow (STATE/store)", 0, 0},
        {"store-reserve", OPT_SIZE, &c.store_reserve_bytes, "BYTES",
         "to stay free on its volume (5G)", 0, 0},
        {"store-limit", OPT_SIZE, &c.store_limit_bytes, "BYTES",
         "for all copies; the one used longest ago makes room (no limit)", 0, 0},
        {"no-store", OPT_FLAG, &no_store, NULL, "copy no models", 0, 0},
        {"lane", OPT_CHOICE, &own_lane, "any|own",
         "own: hold the whole model alone, if it fits (any)", 0, 0},
        {"name", OPT_STR, &j.name, "NAME", "this worker's name (the host's)", 0, 0},
        {"state", OPT_STR, &j.state_dir, "DIR", "state folder (~/.local/state/trireme/worker)", 0,
         0},
        {"threads", OPT_U32, &threads, "N", "compute threads (all cores)", 1, 1024},
        {"mem", OPT_SIZE, &c.mem_max_bytes, "BYTES", "memory it may use (what is free)", 0, 0},
        {"device", OPT_STR, &c.device, "NAME",
         "cpu (the best), reference, avx2, vnni, neon, dotprod, i8mm, cuda, cuda:1", 0, 0},
        {"device-memory", OPT_STR, &device_memory, "FRACTION",
         "of the device's memory, for workers that share one (what is free)", 0, 0},
        {"transports", OPT_STR, &c.transports, "LIST", "UCX transports of the data road", 0, 0},
        {"devices", OPT_STR, &c.devices, "LIST", "trusted network devices of the data road (lo)", 0,
         0},
        {"group", OPT_CHOICE, &c.group, "auto|nccl|peers|port",
         "how devices that share a stage reach each other (auto)", 0, 0},
        {"no-measure", OPT_FLAG, &no_measure, NULL, "do not measure this machine's speed", 0, 0},
        {"profile", OPT_FLAG, &c.profile, NULL, "log where the time of steps goes", 0, 0},
        {"verbose", OPT_FLAG, &verbose, NULL, "more log lines", 0, 0},
        {0},
    };
    const struct opt_spec spec = {
        "worker --join HOST:PORT --token-file FILE [--model PATH] [options]",
        "Joins a coordinator and computes part of its model.", opts, 0, 0};
    int code = opts_parse(&spec, argc, argv, NULL);
    if (code >= 0) return code;
    if (!j.address || (no_store && !models.n)) {
        fprintf(stderr, "error: trireme %s: %s needed\n", spec.usage,
                j.address ? "--model is, without a store," : "--join is");
        return 2;
    }
    struct err_text why = {0};
    err_t err = cmd_fraction("--device-memory", device_memory, &c.device_memory, &why);
    if (!err && token_file) err = read_token(token_file, &token, &why);
    if (err) return cmd_fail(err, &why);
    default_name(name, sizeof name);
    snprintf(state, sizeof state, "%s/worker", cmd_state_dir(NULL));
    if (!j.name) j.name = name;
    if (!j.state_dir) j.state_dir = state;
    snprintf(store, sizeof store, "%s/store", j.state_dir);
    if (no_store)
        c.store_dir = NULL;
    else if (!c.store_dir)
        c.store_dir = store;
    j.token = token && token[0] ? token : NULL;
    c.models = models.at;
    c.n_threads = (int32_t)threads;
    c.measure = c.rate = !no_measure;
    c.measured_dir = here_dir();
    c.own_lane = own_lane;
    if (verbose) log_set_level(LOG_DEBUG);
    char who[80];
    snprintf(who, sizeof who, "worker %s", j.name);
    log_set_who(who);
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    code = run(&c, &j);
    free(token);
    return code;
}
