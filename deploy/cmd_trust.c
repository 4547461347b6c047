// trireme trust: which workers this coordinator's state folder has given certificates, and whom it
// does not let in any more. It works on the folder, so whoever may read the authority's key may do
// it, whether the coordinator runs or not.
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "proto/base/buf.h"
#include "proto/link/identity.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct view {
    int64_t now_s;
    bool json;
    const char *wanted; // name; NULL: all
    uint32_t n;
    struct buf out;
};

static const char *state_of(const struct view *v, const struct identity_worker *w)
{
    if (w->is_revoked) return "revoked";
    return w->expires_s > v->now_s ? "valid" : "expired";
}

static void add(void *arg, const struct identity_worker *w)
{
    struct view *v = arg;
    char given[16] = "", ends[16] = "";
    const time_t from = w->issued_s, to = w->expires_s;
    struct tm tm;
    if (v->wanted && strcmp(v->wanted, w->name) != 0) return;
    v->n++;
    if (v->json) {
        buf_printf(&v->out,
                   "%s{\"name\":\"%s\",\"state\":\"%s\",\"serial\":\"%s\",\"given\":%lld,"
                   "\"expires\":%lld,\"n_certificate\":%u}",
                   v->n > 1 ? "," : "", w->name, state_of(v, w), w->serial, (long long)w->issued_s,
                   (long long)w->expires_s, w->n_good);
        return;
    }
    if (gmtime_r(&from, &tm)) strftime(given, sizeof given, "%Y-%m-%d", &tm);
    if (gmtime_r(&to, &tm)) strftime(ends, sizeof ends, "%Y-%m-%d", &tm);
    buf_printf(&v->out, "%-24s %-8s given %s   expires %s (%.0f days)   serial %s\n", w->name,
               state_of(v, w), given, ends, (double)(w->expires_s - v->now_s) / 86400, w->serial);
}

static err_t list(const char *dir, const char *name, bool json, struct err_text *why)
{
    struct view v = {.now_s = time(NULL), .json = json, .wanted = name};
    err_t err = identity_workers(dir, v.now_s, add, &v, why);
    if (!err && !buf_ok(&v.out)) err = ERR_MEMORY;
    if (!err && json) printf("{\"workers\":[%s]}\n", v.n ? v.out.data : "");
    if (!err && !json && v.n) fputs(v.out.data, stdout);
    if (!err && !json && !v.n) printf("no worker has a certificate on record in %s\n", dir);
    buf_fini(&v.out);
    return err;
}

static err_t revoke(const char *dir, const char *name, bool is_revoked, struct err_text *why)
{
    struct view v = {.now_s = time(NULL), .wanted = name};
    bool was_revoked;
    err_t err = identity_revoke(dir, name, is_revoked, &was_revoked, why);
    if (!err) err = identity_workers(dir, v.now_s, add, &v, why);
    buf_fini(&v.out);
    if (err) return err;
    if (is_revoked == was_revoked)
        printf("%s is %s already\n", name, is_revoked ? "revoked" : "not revoked");
    else if (is_revoked)
        printf("%s is revoked: its connections end within a second, and no token lets this name "
               "in%s\n",
               name, v.n ? "" : " (no certificate of it is on record here)");
    else
        printf("%s may come back: its certificates are as good as they were\n", name);
    return OK;
}

int cmd_trust(int argc, char **argv)
{
    const char *state = NULL, *args[2] = {NULL, NULL};
    bool json = false;
    const struct opt opts[] = {
        {"state", OPT_STR, &state, "DIR", "the coordinator's state folder", 0, 0},
        {"json", OPT_FLAG, &json, NULL, "list: as JSON", 0, 0},
        {0},
    };
    const struct opt_spec spec = {
        "trust list|revoke|restore [NAME] [options]",
        "Shows which workers have certificates of this coordinator, revokes NAME, or takes that "
        "back.",
        opts, 1, 2};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    const bool is_list = strcmp(args[0], "list") == 0, is_revoke = strcmp(args[0], "revoke") == 0;
    if (!is_list && !is_revoke && strcmp(args[0], "restore") != 0) {
        fprintf(stderr, "error: trireme trust knows only: list, revoke, restore\n");
        return 2;
    }
    if (!is_list && !args[1]) {
        fprintf(stderr, "error: trireme trust %s: of which worker?\n", args[0]);
        return 2;
    }
    struct err_text why = {0};
    const char *dir = cmd_state_dir(state);
    err_t err = is_list ? list(dir, args[1], json, &why) : revoke(dir, args[1], is_revoke, &why);
    return err ? cmd_fail(err, &why) : 0;
}
