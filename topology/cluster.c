#include "topology/cluster.h"

#include "topology/cluster_rates.h"

#include "proto/base/buf.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILE_MAX = 256 << 10,
    HEAP_MAX = 8 << 20, // for the YAML library: a file cannot make it grow further
    LINKS_MAX = CLUSTER_DEVICES_MAX * (CLUSTER_DEVICES_MAX - 1),
    THREADS_MAX = 4096,
};

const struct cluster_link cluster_same_host = {.latency_us = 5, .bytes_per_s = 4e9};

// ---- the file as YAML gives it. Numbers come as text: the library takes "-5" for an unsigned
// integer and "10 GB" for the number 10 without a word.

struct file_device {
    char *name, *host;
    enum cluster_kind kind;
    bool unified;
    char *threads, *mem_bytes, *mem_free_bytes; // absent: NULL
    char *read_bytes_per_s, *int8_ops_per_s, *f32_flops_per_s;
    char *host_cores, *host_read_bytes_per_s;
    struct cluster_rates *kernels;
};

struct file_link {
    char *from, *to, *latency_us, *bytes_per_s;
};

struct file {
    struct file_device *devices;
    struct file_link *links;
    uint32_t n_device, n_link;
};

enum { PTR = CYAML_FLAG_POINTER, MAY = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL };

// As a boolean the library takes any word but a few for true.
static const cyaml_strval_t truths[] = {{"false", 0}, {"true", 1}, {"no", 0}, {"yes", 1}};
static const cyaml_strval_t kinds[] = {{"cpu", CLUSTER_CPU}, {"cuda", CLUSTER_CUDA}};

static const cyaml_schema_field_t device_fields[] = {
    CYAML_FIELD_STRING_PTR("name", PTR, struct file_device, name, 1, 31),
    CYAML_FIELD_STRING_PTR("host", PTR, struct file_device, host, 1, 63),
    CYAML_FIELD_ENUM("kind", CYAML_FLAG_STRICT, struct file_device, kind, kinds, 2),
    CYAML_FIELD_ENUM("unified", CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct file_device,
                     unified, truths, 4),
    CYAML_FIELD_STRING_PTR("threads", MAY, struct file_device, threads, 1, 40),
    CYAML_FIELD_STRING_PTR("mem_bytes", PTR, struct file_device, mem_bytes, 1, 40),
    CYAML_FIELD_STRING_PTR("mem_free_bytes", MAY, struct file_device, mem_free_bytes, 1, 40),
    CYAML_FIELD_STRING_PTR("read_bytes_per_s", PTR, struct file_device, read_bytes_per_s, 1, 40),
    CYAML_FIELD_STRING_PTR("int8_ops_per_s", MAY, struct file_device, int8_ops_per_s, 1, 40),
    CYAML_FIELD_STRING_PTR("f32_flops_per_s", PTR, struct file_device, f32_flops_per_s, 1, 40),
    CYAML_FIELD_STRING_PTR("host_cores", MAY, struct file_device, host_cores, 1, 40),
    CYAML_FIELD_STRING_PTR("host_read_bytes_per_s", MAY, struct file_device, host_read_bytes_per_s,
                           1, 40),
    CYAML_FIELD_MAPPING_PTR("kernels", MAY, struct file_device, kernels, cluster_rates_fields),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t link_fields[] = {
    CYAML_FIELD_STRING_PTR("from", PTR, struct file_link, from, 1, 31),
    CYAML_FIELD_STRING_PTR("to", PTR, struct file_link, to, 1, 31),
    CYAML_FIELD_STRING_PTR("latency_us", PTR, struct file_link, latency_us, 1, 40),
    CYAML_FIELD_STRING_PTR("bytes_per_s", PTR, struct file_link, bytes_per_s, 1, 40),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t device_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct file_device, device_fields)};
static const cyaml_schema_value_t link_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct file_link, link_fields)};
static const cyaml_schema_field_t file_fields[] = {
    {.key = "devices",
     .value = {CYAML_VALUE_SEQUENCE(PTR, struct file_device, &device_value, 1,
                                    CLUSTER_DEVICES_MAX)},
     .data_offset = offsetof(struct file, devices),
     .count_size = sizeof(uint32_t),
     .count_offset = offsetof(struct file, n_device)},
    {.key = "links",
     .value = {CYAML_VALUE_SEQUENCE(MAY, struct file_link, &link_value, 0, LINKS_MAX)},
     .data_offset = offsetof(struct file, links),
     .count_size = sizeof(uint32_t),
     .count_offset = offsetof(struct file, n_link)},
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t file_value = {CYAML_VALUE_MAPPING(PTR, struct file, file_fields)};

// What the library logs about a failure: its reason, then where, innermost first.
struct blame {
    char reason[120];
    int line;
};

__attribute__((format(printf, 3, 0))) static void on_log(cyaml_log_t level, void *ctx,
                                                         const char *fmt, va_list ap)
{
    struct blame *b = ctx;
    char text[160];
    (void)level;
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = 0;
    const char *at = strstr(text, "line: "), *s = text;
    if (b->line == 0 && at) b->line = atoi(at + 6);
    if (b->reason[0]) return;
    if (strncmp(s, "Load: ", 6) == 0) s += 6;
    if (strncmp(s, "Backtrace", 9) == 0) return; // no reason was given
    if (strncmp(s, "libyaml: ", 9) == 0) s += 9;
    snprintf(b->reason, sizeof b->reason, "%.*s", (int)sizeof b->reason - 1, s);
}

// A budget counts what was ever asked for: enough for files of this size, and simple.
static void *on_memory(void *ctx, void *p, size_t size)
{
    size_t *left = ctx;
    if (size == 0) {
        free(p);
        return NULL;
    }
    if (size > *left) return NULL;
    *left -= size;
    return realloc(p, size);
}

// ---- checks

// Which entry of the file a check complains about, to tell its line.
struct spot {
    const char *section;
    int32_t item; // -1: none
};

static bool is_word(const char *s, size_t max)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-");
    return n > 0 && n <= max && s[n] == 0;
}

// `min` and `max` are allowed; NaN is outside of every range.
static err_t check_number(const char *who, const char *what, double v, double min, double max,
                          struct err_text *why)
{
    if (v >= min && v <= max) return OK;
    return err_say(why, ERR_CONFIG, "device '%.31s': %s is %.9g, allowed %.9g to %.9g", who, what,
                   v, min, max);
}

err_t cluster_check_device(const struct cluster_device *d, struct err_text *why)
{
    if (!is_word(d->name, sizeof d->name - 1) || !is_word(d->host, sizeof d->host - 1))
        return err_say(why, ERR_CONFIG,
                       "device '%.31s' on host '%.63s': allowed are letters, digits and . _ : -",
                       d->name, d->host);
    err_t e = d->kind == CLUSTER_CPU
                  ? check_number(d->name, "threads", d->threads, 1, THREADS_MAX, why)
                  : OK;
    if (!e) e = check_number(d->name, "mem_bytes", (double)d->mem_bytes, 1 << 20, 0x1p50, why);
    if (!e)
        e = check_number(d->name, "mem_free_bytes", (double)d->mem_free_bytes, 1,
                         (double)d->mem_bytes, why);
    if (!e) e = check_number(d->name, "read_bytes_per_s", d->read_bytes_per_s, 1e6, 1e16, why);
    if (!e && d->int8_ops_per_s != 0)
        e = check_number(d->name, "int8_ops_per_s", d->int8_ops_per_s, 1e6, 1e19, why);
    if (!e) e = check_number(d->name, "host_cores", d->host_cores, 0, THREADS_MAX, why);
    if (!e && d->host_read_bytes_per_s != 0)
        e = check_number(d->name, "host_read_bytes_per_s", d->host_read_bytes_per_s, 1e6, 1e16,
                         why);
    return e ? e : check_number(d->name, "f32_flops_per_s", d->f32_flops_per_s, 1e6, 1e19, why);
}

static err_t check_devices(const struct cluster *c, struct spot *spot, struct err_text *why)
{
    for (int32_t i = 0; i < c->n_device; i++) {
        *spot = (struct spot){"devices", i};
        err_t e = cluster_check_device(&c->devices[i], why);
        if (e) return e;
        if (cluster_find(c, c->devices[i].name) != i)
            return err_say(why, ERR_CONFIG, "device '%s' is there twice, allowed once",
                           c->devices[i].name);
    }
    spot->item = -1;
    return OK;
}

static err_t check_link(const struct cluster_link *l, const char *from, const char *to,
                        struct err_text *why)
{
    bool ok = l->latency_us >= 0 && l->latency_us <= 1e8 &&
              (l->bytes_per_s == 0 || (l->bytes_per_s >= 1000 && l->bytes_per_s <= 1e15));
    return ok ? OK
              : err_say(why, ERR_CONFIG,
                        "link %.31s to %.31s: latency_us %.9g, allowed 0 to 1e8; bytes_per_s %.9g, "
                        "allowed 1000 to 1e15, or 0 for none",
                        from, to, l->latency_us, l->bytes_per_s);
}

err_t cluster_check(const struct cluster *c, struct err_text *why)
{
    struct spot spot;
    if (c->n_device < 1 || c->n_device > CLUSTER_DEVICES_MAX)
        return err_say(why, ERR_CONFIG, "a cluster of %d devices, allowed 1 to %d", c->n_device,
                       CLUSTER_DEVICES_MAX);
    err_t e = check_devices(c, &spot, why);
    for (int32_t i = 0; !e && i < c->n_device; i++)
        for (int32_t j = 0; !e && j < c->n_device; j++)
            e = check_link(&c->links[i][j], c->devices[i].name, c->devices[j].name, why);
    return e;
}

int32_t cluster_find(const struct cluster *c, const char *name)
{
    for (int32_t i = 0; i < c->n_device; i++)
        if (strcmp(c->devices[i].name, name) == 0) return i;
    return -1;
}

// ---- reading

// The whole text, in decimal; absent: `otherwise`. `who` is "device 'a'" or "link a to b".
static err_t take_number(const char *who, const char *what, const char *text, double otherwise,
                         double *out, struct err_text *why)
{
    char *end = NULL;
    if (!text) {
        *out = otherwise;
        return OK;
    }
    double v = strtod(text, &end);
    if (*end || text[strspn(text, "0123456789+-.eE")])
        return err_say(why, ERR_CONFIG, "%s: %s is '%s', allowed are numbers such as 12 or 1.2e9",
                       who, what, text);
    *out = v + 0.0; // no negative zero
    return OK;
}

static err_t take_whole(const char *who, const char *what, const char *text, double otherwise,
                        double *out, struct err_text *why)
{
    double v;
    err_t e = take_number(who, what, text, otherwise, &v, why);
    if (e) return e;
    if (!(v >= 0 && v <= 0x1p50 && v == floor(v)))
        return err_say(why, ERR_CONFIG, "%s: %s is %.9g, allowed whole numbers from 0 to 2^50", who,
                       what, v);
    *out = v;
    return OK;
}

static err_t take_device(const struct file_device *f, struct cluster_device *d,
                         struct err_text *why)
{
    char who[48];
    double threads, mem, left;
    snprintf(who, sizeof who, "device '%.31s'", f->name);
    err_t e = take_whole(who, "threads", f->threads, 0, &threads, why);
    if (!e) e = check_number(f->name, "threads", threads, 0, THREADS_MAX, why);
    if (!e) e = take_whole(who, "mem_bytes", f->mem_bytes, 0, &mem, why);
    if (!e) e = take_whole(who, "mem_free_bytes", f->mem_free_bytes, mem, &left, why);
    if (!e)
        e = take_number(who, "read_bytes_per_s", f->read_bytes_per_s, 0, &d->read_bytes_per_s, why);
    if (!e) e = take_number(who, "int8_ops_per_s", f->int8_ops_per_s, 0, &d->int8_ops_per_s, why);
    if (!e)
        e = take_number(who, "f32_flops_per_s", f->f32_flops_per_s, 0, &d->f32_flops_per_s, why);
    if (!e) e = take_number(who, "host_cores", f->host_cores, 0, &d->host_cores, why);
    if (!e)
        e = take_number(who, "host_read_bytes_per_s", f->host_read_bytes_per_s, 0,
                        &d->host_read_bytes_per_s, why);
    if (!e) e = cluster_rates_take(who, f->kernels, &d->rates, why);
    if (e) return e;
    snprintf(d->name, sizeof d->name, "%s", f->name);
    snprintf(d->host, sizeof d->host, "%s", f->host);
    d->kind = f->kind;
    d->threads = (int32_t)threads;
    d->mem_bytes = (uint64_t)mem;
    d->mem_free_bytes = (uint64_t)left;
    d->unified = f->unified;
    return OK;
}

static err_t take_link(const struct file_link *f, struct cluster_link *out, struct err_text *why)
{
    char who[80];
    struct cluster_link l;
    snprintf(who, sizeof who, "link %.31s to %.31s", f->from, f->to);
    err_t e = take_number(who, "latency_us", f->latency_us, 0, &l.latency_us, why);
    if (!e) e = take_number(who, "bytes_per_s", f->bytes_per_s, 0, &l.bytes_per_s, why);
    if (!e) e = check_link(&l, f->from, f->to, why);
    if (e) return e;
    *out = l.bytes_per_s == 0 ? (struct cluster_link){0, 0} : l; // none has no latency either
    return OK;
}

static void links_of_hosts(struct cluster *c)
{
    for (int32_t i = 0; i < c->n_device; i++)
        for (int32_t j = 0; j < c->n_device; j++)
            if (i != j && strcmp(c->devices[i].host, c->devices[j].host) == 0)
                c->links[i][j] = cluster_same_host;
}

// A link that is given in one direction holds for both.
static err_t take_links(const struct file *f, struct cluster *c, struct spot *spot,
                        struct err_text *why)
{
    static const uint8_t GIVEN = 1, MIRRORED = 2;
    uint8_t how[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX] = {{0}};
    links_of_hosts(c);
    for (uint32_t i = 0; i < f->n_link; i++) {
        const struct file_link *l = &f->links[i];
        *spot = (struct spot){"links", (int32_t)i};
        int32_t a = cluster_find(c, l->from), b = cluster_find(c, l->to);
        if (a < 0 || b < 0)
            return err_say(why, ERR_CONFIG, "link %.31s to %.31s: no device has the name '%.31s'",
                           l->from, l->to, a < 0 ? l->from : l->to);
        if (a == b || how[a][b] == GIVEN)
            return err_say(why, ERR_CONFIG, "link %.31s to %.31s: %s", l->from, l->to,
                           a == b ? "allowed between two devices" : "is there twice, allowed once");
        err_t e = take_link(l, &c->links[a][b], why);
        if (e) return e;
        how[a][b] = GIVEN;
        if (how[b][a] == GIVEN) continue;
        c->links[b][a] = c->links[a][b];
        how[b][a] = MIRRORED;
    }
    spot->item = -1;
    return OK;
}

static err_t take_file(const struct file *f, struct cluster *c, struct spot *spot,
                       struct err_text *why)
{
    c->n_device = (int32_t)f->n_device;
    for (int32_t i = 0; i < c->n_device; i++) {
        *spot = (struct spot){"devices", i};
        err_t e = take_device(&f->devices[i], &c->devices[i], why);
        if (e) return e;
    }
    err_t e = check_devices(c, spot, why);
    return e ? e : take_links(f, c, spot, why);
}

// Line of the item-th "- " below "section:", 0 if the file is written in another style.
static int line_of(const char *text, size_t len, const struct spot *spot)
{
    int line = 0, seen = -1;
    bool inside = false;
    const char *end = text + len, *next;
    for (const char *p = text; p < end; p = next) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        next = nl ? nl + 1 : end;
        line++;
        size_t n = strlen(spot->section);
        if (p[0] != ' ' && p[0] != '-' && p[0] != '#' && next - p > 1)
            inside = (size_t)(next - p) > n && memcmp(p, spot->section, n) == 0 && p[n] == ':';
        while (p < next && *p == ' ')
            p++;
        if (inside && next - p >= 2 && p[0] == '-' && p[1] == ' ' && ++seen == spot->item)
            return line;
    }
    return 0;
}

// Of a key that is not allowed the library tells the line of the value before: the key is on that
// line or below.
static int line_of_key(const char *text, size_t len, const struct blame *blame)
{
    static const char *const reasons[] = {"Unexpected key: ", "Mapping field already seen: "};
    const char *key = NULL, *end = text + len;
    for (int i = 0; i < 2; i++)
        if (strncmp(blame->reason, reasons[i], strlen(reasons[i])) == 0)
            key = blame->reason + strlen(reasons[i]);
    if (!key) return blame->line;
    int line = 1;
    for (const char *p = text; p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        while (p < stop && (*p == ' ' || *p == '-'))
            p++;
        if (line > blame->line && (size_t)(stop - p) > strlen(key) &&
            memcmp(p, key, strlen(key)) == 0 && p[strlen(key)] == ':')
            return line;
        p = nl ? nl + 1 : end;
    }
    return blame->line;
}

// The end of a path says more than its beginning.
static const char *path_tail(const char *path)
{
    size_t len = strlen(path);
    return len > 80 ? path + len - 80 : path;
}

static err_t at_line(const char *path, int line, err_t code, const char *said, struct err_text *why)
{
    return line ? err_say(why, code, "%s:%d: %s", path_tail(path), line, said)
                : err_say(why, code, "%s: %s", path_tail(path), said);
}

err_t cluster_read(const char *path, const char *text, size_t len, struct cluster **out,
                   struct err_text *why)
{
    struct blame blame = {{0}, 0};
    size_t heap = HEAP_MAX;
    struct file *f = NULL;
    if (len > FILE_MAX)
        return err_say(why, ERR_CONFIG, "%s: has %zu bytes, allowed %d", path_tail(path), len,
                       FILE_MAX);
    cyaml_config_t config = {.log_fn = on_log,
                             .log_ctx = &blame,
                             .log_level = CYAML_LOG_ERROR,
                             .mem_fn = on_memory,
                             .mem_ctx = &heap,
                             .flags = CYAML_CFG_NO_ALIAS};
    cyaml_err_t failed = cyaml_load_data((const uint8_t *)text, len, &config, &file_value,
                                         (cyaml_data_t **)(void *)&f, NULL);
    if (failed)
        return at_line(path, line_of_key(text, len, &blame), ERR_CONFIG,
                       blame.reason[0] ? blame.reason : cyaml_strerror(failed), why);
    if (!f) return at_line(path, 0, ERR_CONFIG, "is empty, expected devices", why);
    struct cluster *c = calloc(1, sizeof *c);
    struct spot spot = {"", -1};
    struct err_text said = {{0}};
    err_t e = c ? take_file(f, c, &spot, &said) : err_say(&said, ERR_MEMORY, "no memory");
    cyaml_free(&config, &file_value, f, 0);
    if (e) {
        free(c);
        return at_line(path, spot.item < 0 ? 0 : line_of(text, len, &spot), e, said.s, why);
    }
    *out = c;
    return OK;
}

err_t cluster_load(const char *path, struct cluster **out, struct err_text *why)
{
    struct stat st;
    err_t e = OK;
    char *text = NULL;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st))
        e = err_say(why, ERR_SYSTEM, "%s: cannot open: %m", path_tail(path));
    else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
        e = err_say(why, ERR_CONFIG, "%s: allowed is a regular file of up to %d bytes",
                    path_tail(path), FILE_MAX);
    else if (!(text = malloc(FILE_MAX)))
        e = err_say(why, ERR_MEMORY, "%s: no memory", path_tail(path));
    else if ((n = read(fd, text, FILE_MAX)) < 0)
        e = err_say(why, ERR_SYSTEM, "%s: cannot read: %m", path_tail(path));
    if (fd >= 0) close(fd);
    if (!e) e = cluster_read(path, text, (size_t)n, out, why);
    free(text);
    return e;
}

// ---- writing

static void field(struct buf *out, const char *name, double v)
{
    buf_printf(out, "    %s: ", name);
    buf_json_num(out, v);
    buf_char(out, '\n');
}

static void write_link(const struct cluster *c, int32_t from, int32_t to, struct buf *out)
{
    buf_printf(out, "  - from: %s\n    to: %s\n", c->devices[from].name, c->devices[to].name);
    field(out, "latency_us", c->links[from][to].latency_us);
    field(out, "bytes_per_s", c->links[from][to].bytes_per_s);
}

void cluster_write(const struct cluster *c, struct buf *out)
{
    buf_str(out, "devices:\n");
    for (int32_t i = 0; i < c->n_device; i++) {
        const struct cluster_device *d = &c->devices[i];
        buf_printf(out, "  - name: %s\n    host: %s\n    kind: %s\n    unified: %s\n", d->name,
                   d->host, kinds[d->kind].str, d->unified ? "true" : "false");
        field(out, "threads", d->threads);
        field(out, "mem_bytes", (double)d->mem_bytes);
        field(out, "mem_free_bytes", (double)d->mem_free_bytes);
        field(out, "read_bytes_per_s", d->read_bytes_per_s);
        field(out, "int8_ops_per_s", d->int8_ops_per_s);
        field(out, "f32_flops_per_s", d->f32_flops_per_s);
        if (d->host_cores > 0) field(out, "host_cores", d->host_cores);
        if (d->host_read_bytes_per_s > 0)
            field(out, "host_read_bytes_per_s", d->host_read_bytes_per_s);
        cluster_rates_write(&d->rates, out);
    }
    bool any = false;
    for (int32_t i = 0; i < c->n_device; i++) {
        for (int32_t j = i + 1; j < c->n_device; j++) {
            const struct cluster_link *there = &c->links[i][j], *back = &c->links[j][i];
            bool same =
                there->latency_us == back->latency_us && there->bytes_per_s == back->bytes_per_s;
            bool near = strcmp(c->devices[i].host, c->devices[j].host) == 0;
            if (same && there->bytes_per_s == 0 && !near) continue; // what no entry means, too
            if (!any) buf_str(out, "links:\n");
            any = true;
            write_link(c, i, j, out);
            if (!same) write_link(c, j, i, out);
        }
    }
}

static err_t write_all(int fd, const struct buf *text)
{
    for (size_t at = 0; at < text->len;) {
        ssize_t n = write(fd, text->data + at, text->len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ERR_SYSTEM;
        at += (size_t)n;
    }
    return fsync(fd) ? ERR_SYSTEM : OK;
}

static void write_about(const char *about, struct buf *out)
{
    for (const char *at = about; at && *at;) {
        const size_t n = strcspn(at, "\n");
        buf_str(out, n ? "# " : "#");
        buf_add(out, at, n);
        buf_char(out, '\n');
        at += n + (at[n] == '\n');
    }
}

err_t cluster_save(const struct cluster *c, const char *about, const char *path,
                   struct err_text *why)
{
    err_t e = cluster_check(c, why);
    if (e) return e;
    struct buf text = {0}, temp = {0};
    write_about(about, &text);
    cluster_write(c, &text);
    buf_printf(&temp, "%s.XXXXXX", path);
    if (!buf_ok(&text) || !buf_ok(&temp)) {
        e = err_say(why, ERR_MEMORY, "%s: no memory", path_tail(path));
    } else {
        int fd = mkostemp(temp.data, O_CLOEXEC);
        bool ok = fd >= 0 && !write_all(fd, &text) && !fchmod(fd, 0644);
        if (fd >= 0 && close(fd)) ok = false;
        if (!ok || rename(temp.data, path)) {
            e = err_say(why, ERR_SYSTEM, "%s: cannot write: %m", path_tail(path));
            if (fd >= 0) unlink(temp.data);
        }
    }
    buf_fini(&text);
    buf_fini(&temp);
    return e;
}
