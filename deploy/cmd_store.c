// trireme store: the copies of models that a worker on this machine has fetched.
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "proto/base/buf.h"
#include "proto/base/hex.h"
#include "worker/store_keep.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print_json(const struct store_copy *copies, uint32_t n)
{
    struct buf b = {0};
    buf_str(&b, "{\"copies\":[");
    for (uint32_t i = 0; i < n; i++) {
        const struct store_copy *c = &copies[i];
        char hex[65];
        hex_write(c->hash, sizeof c->hash, hex);
        buf_printf(&b, "%s{\"hash\":\"%s\",\"file\":", i ? "," : "", hex);
        buf_json_str(&b, c->file, strlen(c->file));
        buf_printf(&b,
                   ",\"files\":%u,\"whole\":%s,\"disk_bytes\":%" PRIu64 ",\"model_bytes\":%" PRIu64
                   ",\"used_s\":%" PRId64 "}",
                   c->n_file, c->is_whole ? "true" : "false", c->disk_bytes, c->model_bytes,
                   c->used_s);
    }
    buf_str(&b, "]}\n");
    fwrite(b.data, 1, b.len, stdout);
    buf_fini(&b);
}

static void print_copies(const char *dir, const struct store_copy *copies, uint32_t n)
{
    const double mib = 1 << 20;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct store_copy *c = &copies[i];
        const time_t at = c->used_s;
        char hex[65], day[32];
        struct tm tm;
        hex_write(c->hash, sizeof c->hash, hex);
        strftime(day, sizeof day, "%Y-%m-%d %H:%M", localtime_r(&at, &tm));
        printf("%.12s  %s  %10.1f of %10.1f MiB  %-10s %s\n", hex, day, (double)c->disk_bytes / mib,
               (double)c->model_bytes / mib, c->is_whole ? "whole" : "in parts", c->file);
        sum += c->disk_bytes;
    }
    printf("%u copies in %s, %.1f MiB\n", n, dir, (double)sum / mib);
}

// The model's copy, and what is left of one in parts.
static err_t remove_one(const char *dir, const struct store_copy *copies, uint32_t n,
                        const char *start, struct err_text *why)
{
    const struct store_copy *found = NULL;
    for (uint32_t i = 0; i < n; i++) {
        char hex[65];
        hex_write(copies[i].hash, sizeof copies[i].hash, hex);
        if (!*start || strncmp(hex, start, strlen(start))) continue;
        if (found && memcmp(found->hash, copies[i].hash, sizeof found->hash))
            return err_say(why, ERR_CONFIG, "several copies begin with %.64s: tell more of it",
                           start);
        found = &copies[i];
    }
    if (!found) return err_say(why, ERR_NOT_FOUND, "no copy in %s begins with %.64s", dir, start);
    err_t e = OK;
    for (uint32_t i = 0; !e && i < n; i++)
        if (!memcmp(found->hash, copies[i].hash, sizeof found->hash))
            e = store_remove(dir, &copies[i], why);
    return e;
}

static err_t list(const char *dir, struct store_copy *copies, uint32_t *n, struct err_text *why)
{
    *n = STORE_COPIES_MAX;
    return store_copies(dir, copies, n, why);
}

// Nobody fetches or loads while something is removed.
static err_t change(const char *dir, const char *start, uint64_t limit, struct store_copy *copies,
                    uint32_t *n, struct err_text *why)
{
    int lock = -1;
    err_t e = store_lock(dir, &lock, why);
    if (e) return e;
    if (start) e = list(dir, copies, n, why);
    if (!e && start) e = remove_one(dir, copies, *n, start, why);
    if (!e && limit) store_trim(dir, limit, NULL, 0);
    if (!e) e = list(dir, copies, n, why);
    close(lock);
    return e;
}

int cmd_store(int argc, char **argv)
{
    char usual[4200];
    const char *dir = NULL, *start = NULL;
    uint64_t limit = 0;
    bool json = false;
    const struct opt opts[] = {
        {"store", OPT_STR, &dir, "DIR", "the worker's folder (STATE/worker/store)", 0, 0},
        {"remove", OPT_STR, &start, "HASH", "remove the copy whose hash begins so", 0, 0},
        {"limit", OPT_SIZE, &limit, "BYTES",
         "remove the copies used longest ago until so much is left", 0, 0},
        {"json", OPT_FLAG, &json, NULL, "print JSON", 0, 0},
        {0},
    };
    const struct opt_spec spec = {"store [options]",
                                  "Lists the copies of models that a worker here has fetched.",
                                  opts, 0, 0};
    int code = opts_parse(&spec, argc, argv, NULL);
    if (code >= 0) return code;
    snprintf(usual, sizeof usual, "%s/worker/store", cmd_state_dir(NULL));
    if (!dir) dir = usual;
    struct err_text why = {0};
    uint32_t n = 0;
    struct store_copy *copies = calloc(STORE_COPIES_MAX, sizeof *copies);
    err_t e = copies ? OK : err_say(&why, ERR_MEMORY, "out of memory");
    if (!e)
        e = start || limit ? change(dir, start, limit, copies, &n, &why)
                           : list(dir, copies, &n, &why);
    if (!e && json) print_json(copies, n);
    if (!e && !json) print_copies(dir, copies, n);
    free(copies);
    return e ? cmd_fail(e, &why) : 0;
}
