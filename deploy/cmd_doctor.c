// trireme doctor: looks at what may keep this machine, a model or a running server from working;
// one line per finding, with a remedy. Changes nothing.
#include "deploy/cmd.h"
#include "deploy/doctor.h"
#include "deploy/opts.h"
#include "proto/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const levels[] = {
    [DOCTOR_OK] = "ok", [DOCTOR_WARN] = "warn", [DOCTOR_BAD] = "bad"};

static void json_text(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_str(b, value, strlen(value));
}

static int count(const struct doctor *d, enum doctor_level level)
{
    int n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->at[i].level == level;
    return n;
}

static void print_json(const struct doctor *d)
{
    struct buf b = {0};
    buf_str(&b, "{\"version\":\"" TRIREME_VERSION "\",\"findings\":[");
    for (int i = 0; i < d->n; i++) {
        const struct doctor_finding *f = &d->at[i];
        buf_str(&b, i ? ",{" : "{");
        json_text(&b, "area", f->area);
        buf_char(&b, ',');
        json_text(&b, "level", levels[f->level]);
        buf_char(&b, ',');
        json_text(&b, "said", f->said);
        if (f->remedy[0]) {
            buf_char(&b, ',');
            json_text(&b, "remedy", f->remedy);
        }
        buf_char(&b, '}');
    }
    buf_printf(&b, "],\"n_warn\":%d,\"n_bad\":%d}\n", count(d, DOCTOR_WARN), count(d, DOCTOR_BAD));
    if (buf_ok(&b)) fputs(b.data, stdout);
    buf_fini(&b);
}

static void print_text(const struct doctor *d)
{
    for (int i = 0; i < d->n; i++) {
        const struct doctor_finding *f = &d->at[i];
        printf("%-4s  %-8s %s%s%s\n", levels[f->level], f->area, f->said, f->remedy[0] ? "; " : "",
               f->remedy);
    }
    printf("%d findings, %d warnings, %d bad\n", d->n, count(d, DOCTOR_WARN), count(d, DOCTOR_BAD));
}

int cmd_doctor(int argc, char **argv)
{
    struct doctor_ask ask = {0};
    bool json = false;
    const char *args[1] = {NULL};
    const struct opt opts[] = {
        {"json", OPT_FLAG, &json, NULL, "print JSON", 0, 0},
        {"kernels", OPT_FLAG, &ask.kernels, NULL, "how each type of MODEL's weights is computed", 0,
         0},
        {"ctx", OPT_U32, &ask.ctx, "N", "tokens of one sequence (model's, at most 8192)", 16,
         1 << 24},
        {"state", OPT_STR, &ask.state_dir, "DIR", "state folder (~/.local/state/trireme)", 0, 0},
        {"transports", OPT_STR, &ask.transports, "LIST", "UCX transports of the data road", 0, 0},
        {"devices", OPT_STR, &ask.devices, "LIST", "trusted network devices of the data road (lo)",
         0, 0},
        {"url", OPT_STR, &ask.client.url, "URL", "also look at this running server", 0, 0},
        {"api-key-file", OPT_STR, &ask.client.key_file, "FILE", "file with its API key", 0, 0},
        {"ca", OPT_STR, &ask.client.ca_file, "FILE", "CA certificate for https", 0, 0},
        {0},
    };
    const struct opt_spec spec = {
        "doctor [MODEL] [options]",
        "Looks at what may keep this machine, MODEL or a server from working; changes nothing.\n"
        "Exit code 1 if something is bad.",
        opts, 0, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    if (ask.kernels && !args[0]) {
        fprintf(stderr, "error: --kernels needs a MODEL (trireme %s)\n", spec.usage);
        return 2;
    }
    ask.model = args[0];
    ask.state_dir = cmd_state_dir(ask.state_dir);
    struct err_text why = {0};
    struct doctor *d = calloc(1, sizeof *d);
    if (!d) return cmd_fail(err_say(&why, ERR_MEMORY, "out of memory"), &why);
    // What a part has to say of a failure is in its finding.
    log_set_level(LOG_ERROR);
    const uint64_t available = doctor_machine(&ask, d);
    doctor_road(&ask, d);
    doctor_groups(d);
    if (ask.model) doctor_model(&ask, available, d);
    if (ask.client.url) doctor_server(&ask, d);
    if (json)
        print_json(d);
    else
        print_text(d);
    code = count(d, DOCTOR_BAD) ? 1 : 0;
    free(d);
    return code;
}
