// trireme status: the picture of a running cluster. The program knows nothing of its own: it asks
// GET /v1/cluster (coordinator/cluster_json.h describes the shape) and draws what it gets.
#include "deploy/client.h"
#include "deploy/cmd.h"
#include "deploy/experts_view.h"
#include "deploy/opts.h"
#include "deploy/pairs.h"
#include "deploy/said.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
    (void)sig;
    stop = 1;
}

static void bytes(char *out, size_t size, double n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (n >= 1024 && u < 4) {
        n /= 1024;
        u++;
    }
    snprintf(out, size, u ? "%.1f %s" : "%.0f %s", n, unit[u]);
}

static double sum_bytes(const struct json *j)
{
    return said_num(j, "weight_bytes") + said_num(j, "kv_bytes") + said_num(j, "work_bytes");
}

// -- drawing --

static void draw_head(const struct json *j)
{
    const struct json *model = json_get(j, "model"), *totals = json_get(j, "totals");
    printf("%s: %s%s%s   epoch %.0f   up %.0f s\n", said_str(j, "cluster"), said_str(j, "state"),
           *said_str(j, "reason") ? ", " : "", said_str(j, "reason"), said_num(j, "epoch"),
           said_num(j, "uptime_s"));
    printf("model %s (%s), %.0f layers, context %.0f\n", said_str(model, "id"),
           said_str(model, "arch"), said_num(model, "n_layer"), said_num(model, "ctx"));
    printf("%.1f tokens/s   %.0f running, %.0f waiting   %.0f tokens generated, %.0f%% of prompt "
           "tokens "
           "cached\n",
           said_num(totals, "tokens_per_s"), said_num(totals, "running"),
           said_num(totals, "waiting"), said_num(totals, "generated_tokens"),
           said_num(totals, "prefix_hit_share") * 100);
}

static void draw_load(const struct json *m)
{
    char planned[32], used[32];
    bytes(planned, sizeof planned, sum_bytes(json_get(m, "planned")));
    bytes(used, sizeof used, sum_bytes(json_get(m, "used")));
    printf("memory %s planned, %s used   busy %.0f%%", planned, used,
           said_num(m, "busy_share") * 100);
    if (said_num(m, "exchange_share") > 0)
        printf(", %.0f%% waiting for its group", said_num(m, "exchange_share") * 100);
    if (said_num(m, "bubble_share") > 0)
        printf("   bubble %.0f%%", said_num(m, "bubble_share") * 100);
    printf("   %.2f ms a step\n", said_num(m, "step_ms"));
}

static void draw_stage(const struct json *s, size_t i)
{
    const struct json *layers, *members;
    size_t n = said_items(s, "layers", &layers), n_member = said_items(s, "members", &members);
    double from = n == 2 ? json_number(&layers[0], 0) : 0,
           to = n == 2 ? json_number(&layers[1], 0) : 0;
    printf("  stage %zu  %-14s layers %3.0f..%-3.0f %s%s  ", i,
           n_member > 1 ? said_str(s, "split") : said_str(s, "worker"), from, to - 1,
           said_flag(s, "embed") ? "+embed " : "", said_flag(s, "head") ? "+head" : "");
    if (n_member <= 1) draw_load(s);
    if (n_member > 1) printf("%zu workers\n", n_member);
    for (size_t k = 0; n_member > 1 && k < n_member; k++) {
        printf("           %-14s %3.0f%% of it  ", said_str(&members[k], "worker"),
               said_num(&members[k], "part") * 100);
        draw_load(&members[k]);
    }
}

static void draw_lane(const struct json *lane, size_t i)
{
    const struct json *stages;
    size_t n = said_items(lane, "stages", &stages);
    printf("\nlane %zu: %s, %zu of %.0f stages, road %s, plan %.12s   %.0f running, %.0f waiting",
           i, said_str(lane, "state"), n, said_num(lane, "n_stage_wanted"), said_str(lane, "road"),
           said_str(lane, "plan"), said_num(lane, "running"), said_num(lane, "waiting"));
    printf("%s%s%s\n", said_flag(lane, "far") ? "   far away" : "",
           said_flag(lane, "draining") ? "   draining: takes no new requests" : "",
           n ? "" : "   (no workers)");
    for (size_t k = 0; k < n; k++)
        draw_stage(&stages[k], k);
}

static void draw_lanes(const struct json *j)
{
    const struct json *lanes;
    size_t n_lane = said_items(j, "lanes", &lanes);
    for (size_t i = 0; i < n_lane; i++)
        draw_lane(&lanes[i], i);
    const struct json *kv = json_get(j, "kv");
    double total = said_num(kv, "pages_total"), used = said_num(kv, "pages_used");
    printf("  kv       %.0f of %.0f pages used (%.0f%%), %.0f cached\n", used, total,
           total > 0 ? used / total * 100 : 0, said_num(kv, "pages_cached"));
}

static void draw_workers(const struct json *j)
{
    const struct json *workers, *links;
    size_t n = said_items(j, "workers", &workers);
    printf("\nworkers\n");
    for (size_t i = 0; i < n; i++) {
        const struct json *w = &workers[i], *d = json_get(w, "device"), *m = json_get(w, "mem");
        char free_mem[32];
        bytes(free_mem, sizeof free_mem, said_num(m, "free_bytes"));
        printf("  %-14s %-9s %s pid %.0f   %s, %s, %.0f threads", said_str(w, "name"),
               said_str(w, "state"), said_str(w, "host"), said_num(w, "pid"), said_str(d, "name"),
               said_str(d, "isa"), said_num(d, "threads"));
        if (said_num(d, "read_bytes_per_s") > 0)
            printf(", reads %.1f GB/s, int8 %.0f GOP/s", said_num(d, "read_bytes_per_s") * 1e-9,
                   said_num(d, "int8_ops_per_s") * 1e-9);
        printf("   %s   %s free   heard %.0f ms ago", said_str(w, "lane"), free_mem,
               said_num(w, "heartbeat_age_ms"));
        if (said_num(w, "trip_ms") > 1) printf("   round trip %.1f ms", said_num(w, "trip_ms"));
        if (said_num(w, "slow_factor") > 0)
            printf("   SLOW: %.1f times what was planned", said_num(w, "slow_factor"));
        const struct json *left = json_get(w, "certificate_s");
        if (left && left->kind != J_NULL)
            printf("   certificate: %.0f days left", json_number(left, 0) / 86400);
        const double all = said_num(w, "fetch_bytes");
        if (all > 0) printf("   fetching: %.0f%%", 100 * said_num(w, "fetched_bytes") / all);
        printf("\n");
    }
    n = said_items(j, "links", &links);
    if (n) printf("\nlinks\n");
    for (size_t i = 0; i < n; i++) {
        char moved[32];
        bytes(moved, sizeof moved, said_num(&links[i], "bytes"));
        printf("  %s -> %s   %s   %.1f us   %.2f GB/s   %s moved\n", said_str(&links[i], "from"),
               said_str(&links[i], "to"), said_str(&links[i], "transport"),
               said_num(&links[i], "latency_us"), said_num(&links[i], "bytes_per_s") * 1e-9, moved);
    }
}

static void draw_requests(const struct json *j)
{
    const struct json *requests;
    size_t n = said_items(j, "requests", &requests);
    if (!n) return;
    printf("\nrequests\n");
    for (size_t i = 0; i < n && i < 20; i++) {
        const struct json *r = &requests[i];
        printf("  %-34s %-8s prompt %.0f of %.0f (%.0f cached), %.0f generated, %.1f s\n",
               said_str(r, "id"), said_str(r, "phase"), said_num(r, "n_prefilled"),
               said_num(r, "n_prompt"), said_num(r, "n_cached"), said_num(r, "n_generated"),
               said_num(r, "age_s"));
    }
    if (n > 20) printf("  and %zu more\n", n - 20);
}

static err_t save(const struct client_config *client, const char *path, struct err_text *why)
{
    struct buf body = {0};
    struct arena a;
    const struct json *j;
    arena_init(&a, 64 << 20);
    err_t err = client_get(client, "/v1/cluster", &body, why);
    if (!err) err = json_read(body.data ? body.data : "", body.len, &a, &j, NULL, why);
    if (!err) err = pairs_save(j, path, why);
    arena_fini(&a);
    buf_fini(&body);
    return err;
}

static err_t draw_experts(const struct client_config *client, bool json, struct err_text *why)
{
    struct buf body = {0};
    struct arena a;
    const struct json *j;
    arena_init(&a, 64 << 20);
    err_t err = client_get(client, "/v1/cluster/experts", &body, why);
    if (!err && json) printf("%s\n", body.data ? body.data : "");
    if (!err && !json) err = json_read(body.data ? body.data : "", body.len, &a, &j, NULL, why);
    if (!err && !json) experts_view_draw(j);
    arena_fini(&a);
    buf_fini(&body);
    return err;
}

static err_t draw(const struct client_config *client, bool json, bool clear, struct err_text *why)
{
    struct buf body = {0};
    struct arena a;
    const struct json *j;
    arena_init(&a, 64 << 20);
    err_t err = client_get(client, "/v1/cluster", &body, why);
    if (!err && json) {
        printf("%s\n", body.data ? body.data : "");
    } else if (!err) {
        err = json_read(body.data ? body.data : "", body.len, &a, &j, NULL, why);
        if (!err && clear) printf("\033[H\033[2J");
        if (!err) {
            draw_head(j);
            draw_lanes(j);
            draw_workers(j);
            pairs_draw(j);
            draw_requests(j);
        }
    }
    fflush(stdout);
    arena_fini(&a);
    buf_fini(&body);
    return err;
}

int cmd_status(int argc, char **argv)
{
    struct client_config client = {.url = "http://127.0.0.1:30000"};
    const char *cluster_file = NULL;
    bool json = false, watch = false, experts = false;
    const struct opt opts[] = {
        {"url", OPT_STR, &client.url, "URL", "server (http://127.0.0.1:30000)", 0, 0},
        {"api-key-file", OPT_STR, &client.key_file, "FILE", "file with the API key", 0, 0},
        {"ca", OPT_STR, &client.ca_file, "FILE", "CA certificate for https", 0, 0},
        {"json", OPT_FLAG, &json, NULL, "print the JSON of /v1/cluster", 0, 0},
        {"watch", OPT_FLAG, &watch, NULL, "draw again every second", 0, 0},
        {"experts", OPT_FLAG, &experts, NULL, "who computes which experts, and how often", 0, 0},
        {"save-cluster", OPT_STR, &cluster_file, "FILE",
         "write workers and measured links as a cluster file", 0, 0},
        {0},
    };
    const struct opt_spec spec = {"status [options]",
                                  "Shows lanes, stages, workers, links and requests.", opts, 0, 0};
    int code = opts_parse(&spec, argc, argv, NULL);
    if (code >= 0) return code;
    struct err_text why = {0};
    err_t err = OK;
    if (cluster_file) {
        err = save(&client, cluster_file, &why);
        return err ? cmd_fail(err, &why) : 0;
    }
    if (experts) {
        err = draw_experts(&client, json, &why);
        return err ? cmd_fail(err, &why) : 0;
    }
    // The first signal lets a picture be drawn to its end.
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    if (watch) {
        sigaction(SIGINT, &sa, NULL);
        sigaction(SIGTERM, &sa, NULL);
    }
    err = draw(&client, json, watch, &why);
    while (watch && !stop) {
        sleep(1);
        if (stop) break;
        // A coordinator that is being restarted is worth waiting for.
        err = draw(&client, json, true, &why);
        if (err) fprintf(stderr, "%s; trying again\n", why.s);
    }
    return err && !watch ? cmd_fail(err, &why) : 0;
}
