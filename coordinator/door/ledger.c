#include "coordinator/door/ledger.h"
#include "proto/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const finishes[LEDGER_FINISHES] = {
    [LEDGER_STOP] = "stop",
    [LEDGER_LENGTH] = "length",
    [LEDGER_TOOL_CALLS] = "tool_calls",
    [LEDGER_CANCELLED] = "cancelled",
    [LEDGER_FAILED] = "failed",
};

// Not blocking: a pipe of this name must not hold the server up.
static int open_file(const char *path, struct err_text *why)
{
    struct stat st;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0) {
        err_say(why, ERR_CONFIG, "cannot append to %s: %s", path, strerror(errno));
        return -1;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
    close(fd);
    err_say(why, ERR_CONFIG, "cannot append to %s: it is not a file", path);
    return -1;
}

err_t ledger_open(struct ledger *l, const char *path, struct err_text *why)
{
    int fd = path ? open_file(path, why) : -1;
    if (path && fd < 0) return ERR_CONFIG;
    *l = (struct ledger){.path = path, .fd = fd};
    return OK;
}

void ledger_close(struct ledger *l)
{
    if (l->path) close(l->fd);
    *l = (struct ledger){0};
}

// Said at the first of a row only: a full disk must not fill the log as well.
static void fail(struct ledger *l, const char *why)
{
    if (!l->failing) log_error("ledger: %s; requests go on, unrecorded ones are counted", why);
    l->failing = true;
}

// The file may have been moved away since the last record. If no new one can be had, the old one
// still takes it.
static bool follow(struct ledger *l)
{
    struct stat named, ours;
    struct err_text why;
    if (stat(l->path, &named) == 0 && fstat(l->fd, &ours) == 0 && named.st_ino == ours.st_ino &&
        named.st_dev == ours.st_dev)
        return true;
    int fd = open_file(l->path, &why);
    if (fd < 0) {
        fail(l, why.s);
        return false;
    }
    close(l->fd);
    l->fd = fd;
    l->torn = false;
    return true;
}

static void put_name(struct buf *b, const char *name, const char *value)
{
    buf_printf(b, "\"%s\":", name);
    if (value)
        buf_json_str(b, value, strlen(value));
    else
        buf_str(b, "null");
    buf_char(b, ',');
}

static void put_ms(struct buf *b, const char *name, int64_t us)
{
    buf_printf(b, ",\"%s\":", name);
    if (us < 0)
        buf_str(b, "null");
    else
        buf_printf(b, "%.3f", (double)us / 1e3);
}

static void put_record(struct buf *b, const struct ledger_record *r)
{
    struct timespec now;
    struct tm t;
    char day[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &t);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &t);
    buf_printf(b, "{\"time\":\"%s.%03dZ\",", day, (int)(now.tv_nsec / 1000000));
    put_name(b, "id", r->id);
    put_name(b, "request_id", r->request_id);
    put_name(b, "key", r->key);
    put_name(b, "path", r->path);
    put_name(b, "model", r->model);
    put_name(b, "finish", finishes[r->finish]);
    put_name(b, "reason", r->reason);
    buf_printf(b,
               "\"streamed\":%s,\"prompt_tokens\":%llu,\"cached_tokens\":%llu,"
               "\"output_tokens\":%llu,\"reasoning_tokens\":%llu",
               r->streamed ? "true" : "false", (unsigned long long)r->prompt,
               (unsigned long long)r->cached, (unsigned long long)r->output,
               (unsigned long long)r->reasoning);
    put_ms(b, "queue_ms", r->queue_us);
    put_ms(b, "ttft_ms", r->ttft_us);
    put_ms(b, "total_ms", r->total_us);
    buf_str(b, "}\n");
}

static bool write_record(struct ledger *l, const struct ledger_record *r, bool followed)
{
    struct buf line = {0};
    if (l->torn) buf_char(&line, '\n'); // behind the part of one that a full disk left
    put_record(&line, r);
    ssize_t n = buf_ok(&line) ? write(l->fd, line.data, line.len) : -1;
    bool ok = n == (ssize_t)line.len && buf_ok(&line);
    if (ok)
        l->torn = false;
    else
        l->torn |= n > 0;
    if (!ok) {
        struct err_text why;
        err_say(&why, ERR_SYSTEM, "cannot append to %s: %s", l->path,
                n < 0 ? strerror(errno) : "no room for a whole line");
        fail(l, why.s);
    } else if (l->failing && followed) {
        log_info("ledger: %s is written again, %llu records are missing", l->path,
                 (unsigned long long)l->n_lost);
        l->failing = false;
    }
    buf_fini(&line);
    return ok;
}

void ledger_add(struct ledger *l, const struct ledger_record *r)
{
    l->n[r->finish]++;
    if (!l->path) return;
    bool followed = follow(l);
    l->n_lost += !write_record(l, r, followed);
}

void ledger_metrics(const struct ledger *l, struct buf *out)
{
    buf_str(out, "# HELP trireme_requests_total Requests the engine took, by how they ended.\n"
                 "# TYPE trireme_requests_total counter\n");
    for (int i = 0; i < LEDGER_FINISHES; i++)
        buf_printf(out, "trireme_requests_total{finish=\"%s\"} %llu\n", finishes[i],
                   (unsigned long long)l->n[i]);
    buf_printf(out,
               "# HELP trireme_ledger_lost_total Records that could not be written.\n"
               "# TYPE trireme_ledger_lost_total counter\ntrireme_ledger_lost_total %llu\n",
               (unsigned long long)l->n_lost);
}
