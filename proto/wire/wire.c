#include "proto/wire/wire.h"

#include "proto/base/utf8.h"
#include "proto/wire/wire_priv.h"

#include <string.h>

enum {
    PEM_MAX_BYTES = 16384,
    ROADS_KNOWN = ROAD_LOCAL | ROAD_UCX,
};

static const char *const kind_names[] = {
    [MSG_HELLO] = "hello",         [MSG_WELCOME] = "welcome",   [MSG_REFUSE] = "refuse",
    [MSG_PLAN] = "plan",           [MSG_PREPARED] = "prepared", [MSG_CONNECT] = "connect",
    [MSG_LINKED] = "linked",       [MSG_STEP] = "step",         [MSG_RESULT] = "result",
    [MSG_HEARTBEAT] = "heartbeat", [MSG_FAILED] = "failed",     [MSG_DRAIN] = "drain",
    [MSG_ENROLL] = "enroll",       [MSG_ENROLLED] = "enrolled", [MSG_SURVEY] = "survey",
    [MSG_SURVEYED] = "surveyed",   [MSG_FETCH] = "fetch",       [MSG_CHUNK] = "chunk",
    [MSG_USAGE] = "usage",         [MSG_RENEW] = "renew",       [MSG_RENEWED] = "renewed",
};
enum { N_KIND = sizeof kind_names / sizeof *kind_names };

const char *wire_kind_name(enum msg_kind k)
{
    return (unsigned)k < N_KIND && kind_names[k] ? kind_names[k] : "unknown";
}

// -- checks --

bool wire_text_ok(const char *s, size_t max, enum wire_text rule)
{
    const size_t len = strlen(s);
    if (len > max) return false;
    for (size_t at = 0, n; at < len; at += n) {
        n = utf8_len(s + at, len - at);
        if (n == 0) return false;
        if (utf8_is_control(s + at) && !(rule == WIRE_LINES && s[at] == '\n')) return false;
    }
    return true;
}

static bool name_ok(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n >= 1 && n <= 63 && s[n] == 0;
}

err_t wire_hash_in(struct wire_in *in, const char *what, ProtobufCBinaryData b, uint8_t out[32])
{
    WIRE_NEED(in, b.len == 32, "%s of %zu bytes instead of 32", what, b.len);
    memcpy(out, b.data, 32);
    return OK;
}

// -- in --

static err_t devices_in(struct wire_in *in, const Trireme__Hello *h, struct msg_hello *out)
{
    WIRE_NEED(in, h->n_devices <= WIRE_DEVICES_MAX, "hello: %zu devices, limit %d", h->n_devices,
              WIRE_DEVICES_MAX);
    struct msg_device *to = arena_take_n(in->arena, h->n_devices, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "hello: no memory for its devices");
    for (size_t i = 0; i < h->n_devices; i++) {
        const Trireme__Device *d = h->devices[i];
        WIRE_NEED(in,
                  wire_text_ok(d->name, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE) &&
                      wire_text_ok(d->kind, 63, WIRE_ONE_LINE) &&
                      wire_text_ok(d->isa, 63, WIRE_ONE_LINE),
                  "hello: device %zu has a bad name, kind or isa", i);
        WIRE_NEED(in,
                  wire_speed_ok(d->read_bytes_per_s) && wire_speed_ok(d->int8_ops_per_s) &&
                      wire_speed_ok(d->f32_flops_per_s) && wire_speed_ok(d->host_read_bytes_per_s),
                  "hello: device %zu has a speed that is negative or not finite", i);
        to[i] = (struct msg_device){
            .name = d->name,
            .kind = d->kind,
            .isa = d->isa,
            .threads = d->threads,
            .mem_bytes = d->mem_bytes,
            .mem_free_bytes = d->mem_free_bytes,
            .read_bytes_per_s = d->read_bytes_per_s,
            .int8_ops_per_s = d->int8_ops_per_s,
            .f32_flops_per_s = d->f32_flops_per_s,
            .unified = d->unified,
            .n_core = d->n_core,
            .n_numa = d->n_numa,
            .l2_bytes = d->l2_bytes,
            .l3_bytes = d->l3_bytes,
            .host_read_bytes_per_s = d->host_read_bytes_per_s,
        };
        err_t e = wire_rates_in(in, d->rates, &to[i].rates);
        if (e) return e;
    }
    out->devices = to;
    out->n_device = (uint32_t)h->n_devices;
    return OK;
}

static err_t models_in(struct wire_in *in, const Trireme__Hello *h, struct msg_hello *out)
{
    WIRE_NEED(in, h->n_models <= WIRE_MODELS_MAX, "hello: %zu models, limit %d", h->n_models,
              WIRE_MODELS_MAX);
    struct msg_model *to = arena_take_n(in->arena, h->n_models, sizeof *to);
    if (!to) return err_say(in->why, ERR_MEMORY, "hello: no memory for its models");
    for (size_t i = 0; i < h->n_models; i++) {
        const Trireme__Model *m = h->models[i];
        WIRE_NEED(in, wire_text_ok(m->name, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE),
                  "hello: model %zu has a bad name", i);
        err_t e = wire_hash_in(in, "hello: model hash", m->hash, to[i].hash);
        if (e) return e;
        to[i].name = m->name;
    }
    out->models = to;
    out->n_model = (uint32_t)h->n_models;
    return OK;
}

static err_t hello_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Hello *h = env->hello;
    WIRE_NEED(in, name_ok(h->name), "hello: name is not 1 to 63 of a-z, 0-9 and -");
    WIRE_NEED(in,
              wire_text_ok(h->build, 63, WIRE_ONE_LINE) &&
                  wire_text_ok(h->host, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE),
              "hello: bad build or host text");
    WIRE_NEED(in, h->held_from <= h->held_to, "hello: held layers %u to %u", h->held_from,
              h->held_to);
    WIRE_NEED(in,
              h->held_hash.len || (h->held_from == h->held_to && !h->held_embed && !h->held_head),
              "hello: holds layers of no model");
    WIRE_NEED(in, wire_speed_ok(h->disk_bytes_per_s),
              "hello: a disk speed that is negative or not finite");
    struct msg_hello *o = &out->hello;
    *o = (struct msg_hello){
        .version = h->version,
        .build = h->build,
        .name = h->name,
        .instance = h->instance,
        .host = h->host,
        .pid = h->pid,
        .held_from = h->held_from,
        .held_to = h->held_to,
        .held_embed = h->held_embed,
        .held_head = h->held_head,
        .roads = h->roads & ROADS_KNOWN, // a newer worker may offer roads that we cannot take
        .process = h->process,
        .store_bytes = h->store_bytes,
        .disk_bytes_per_s = h->disk_bytes_per_s,
        .own_lane = h->own_lane,
    };
    err_t e =
        h->held_hash.len ? wire_hash_in(in, "hello: held hash", h->held_hash, o->held_hash) : OK;
    if (!e) e = devices_in(in, h, o);
    if (!e) e = models_in(in, h, o);
    return e;
}

static err_t welcome_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Welcome *w = env->welcome;
    WIRE_NEED(in, wire_text_ok(w->cluster, WIRE_NAME_BYTES_MAX, WIRE_ONE_LINE),
              "welcome: bad cluster name");
    out->welcome = (struct msg_welcome){.worker = w->worker, .cluster = w->cluster};
    return wire_file_list_in(in, w, &out->welcome);
}

static err_t refuse_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Refuse *r = env->refuse;
    WIRE_NEED(in, wire_text_ok(r->why, sizeof in->why->s, WIRE_ONE_LINE), "refuse: bad text");
    out->refuse = (struct msg_refuse){.code = r->code, .why = r->why, .is_final = r->is_final};
    return OK;
}

static err_t step_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    return wire_step_in(in, env->step, &out->step);
}

static err_t result_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    return wire_step_result_in(in, env->result, &out->result);
}

static err_t heartbeat_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    (void)in;
    const Trireme__Heartbeat *h = env->heartbeat;
    out->heartbeat = (struct msg_heartbeat){
        .epoch = h->epoch,
        .step_done = h->step_done,
        .step_now = h->step_now,
        .progress = h->progress,
        .mem_used_bytes = h->mem_used_bytes,
        .mem_free_bytes = h->mem_free_bytes,
        .frame_bytes_out = h->frame_bytes_out,
        .frame_bytes_in = h->frame_bytes_in,
        .busy_us = h->busy_us,
        .wait_us = h->wait_us,
        .steps_queued = h->steps_queued,
        .exchange_us = h->exchange_us,
        .sent_us = h->sent_us,
        .echo_us = h->echo_us,
        .echo_age_us = h->echo_age_us,
        .fetched_bytes = h->fetched_bytes,
        .fetch_bytes = h->fetch_bytes,
    };
    return OK;
}

static err_t failed_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Failed *f = env->failed;
    WIRE_NEED(in, wire_text_ok(f->why, sizeof in->why->s, WIRE_ONE_LINE), "failed: bad text");
    out->failed = (struct msg_failed){.epoch = f->epoch, .code = f->code, .why = f->why};
    return OK;
}

static err_t drain_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    (void)in, (void)env, (void)out;
    return OK;
}

static err_t enroll_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Enroll *e = env->enroll;
    WIRE_NEED(in, name_ok(e->name), "enroll: name is not 1 to 63 of a-z, 0-9 and -");
    WIRE_NEED(in, wire_text_ok(e->secret, 63, WIRE_ONE_LINE), "enroll: bad secret");
    WIRE_NEED(in, wire_text_ok(e->public_key_pem, PEM_MAX_BYTES, WIRE_LINES),
              "enroll: bad public key");
    out->enroll = (struct msg_enroll){
        .secret = e->secret, .name = e->name, .public_key_pem = e->public_key_pem};
    return OK;
}

static err_t enrolled_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Enrolled *e = env->enrolled;
    WIRE_NEED(in,
              wire_text_ok(e->certificate_pem, PEM_MAX_BYTES, WIRE_LINES) &&
                  wire_text_ok(e->ca_pem, PEM_MAX_BYTES, WIRE_LINES),
              "enrolled: bad certificate text");
    out->enrolled =
        (struct msg_enrolled){.certificate_pem = e->certificate_pem, .ca_pem = e->ca_pem};
    return OK;
}

static err_t renew_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Renew *r = env->renew;
    WIRE_NEED(in, wire_text_ok(r->request_pem, PEM_MAX_BYTES, WIRE_LINES), "renew: bad request");
    out->renew = (struct msg_renew){.request_pem = r->request_pem};
    return OK;
}

static err_t renewed_in(struct wire_in *in, const Trireme__Envelope *env, struct msg *out)
{
    const Trireme__Renewed *r = env->renewed;
    WIRE_NEED(in, wire_text_ok(r->certificate_pem, PEM_MAX_BYTES, WIRE_LINES),
              "renewed: bad certificate text");
    WIRE_NEED(in, wire_text_ok(r->why, sizeof in->why->s, WIRE_ONE_LINE), "renewed: bad text");
    out->renewed =
        (struct msg_renewed){.certificate_pem = r->certificate_pem, .code = r->code, .why = r->why};
    return OK;
}

static wire_in_fn *const from_wire[N_KIND] = {
    [MSG_HELLO] = hello_in,
    [MSG_WELCOME] = welcome_in,
    [MSG_REFUSE] = refuse_in,
    [MSG_PLAN] = wire_plan_in,
    [MSG_PREPARED] = wire_prepared_in,
    [MSG_CONNECT] = wire_connect_in,
    [MSG_LINKED] = wire_linked_in,
    [MSG_STEP] = step_in,
    [MSG_RESULT] = result_in,
    [MSG_HEARTBEAT] = heartbeat_in,
    [MSG_FAILED] = failed_in,
    [MSG_DRAIN] = drain_in,
    [MSG_ENROLL] = enroll_in,
    [MSG_ENROLLED] = enrolled_in,
    [MSG_SURVEY] = wire_survey_in,
    [MSG_SURVEYED] = wire_surveyed_in,
    [MSG_FETCH] = wire_file_fetch_in,
    [MSG_CHUNK] = wire_file_chunk_in,
    [MSG_USAGE] = wire_usage_in,
    [MSG_RENEW] = renew_in,
    [MSG_RENEWED] = renewed_in,
};

// protobuf-c asks for memory as the bytes tell it to (20 times the message and more: an empty
// string in a list costs 2 bytes on the wire); the budget ends that. Nothing is given back one by
// one: the arena does it.
struct budget {
    ProtobufCAllocator allocator;
    struct arena *arena;
    size_t left;
    bool is_over;
};

static void *budget_take(void *data, size_t bytes)
{
    struct budget *b = data;
    if (bytes > b->left) {
        b->is_over = true;
        return NULL;
    }
    b->left -= bytes;
    void *p = arena_take(b->arena, bytes);
    b->is_over |= !p;
    return p;
}

static void budget_give(void *data, void *p)
{
    (void)data, (void)p;
}

err_t wire_unpack(const void *data, size_t len, struct arena *arena, struct msg *out,
                  struct err_text *why)
{
    struct err_text unused;
    struct wire_in in = {arena, why ? why : &unused};
    WIRE_NEED(&in, len <= WIRE_MESSAGE_MAX, "message of %zu bytes, limit %d", len,
              WIRE_MESSAGE_MAX);
    struct budget b = {.arena = arena, .left = WIRE_ARENA_MAX};
    b.allocator = (ProtobufCAllocator){budget_take, budget_give, &b};
    const Trireme__Envelope *env = trireme__envelope__unpack(&b.allocator, len, data);
    WIRE_NEED(&in, !b.is_over, "message of %zu bytes needs more memory to unpack than it may have",
              len);
    WIRE_NEED(&in, env, "message of %zu bytes does not parse", len);
    unsigned kind = (unsigned)env->kind_case;
    WIRE_NEED(&in, kind < N_KIND && from_wire[kind], "message of an unknown kind");
    struct msg m = {.kind = (enum msg_kind)kind};
    err_t e = from_wire[kind](&in, env, &m);
    if (!e) *out = m;
    return e;
}

// -- out --

static bool devices_out(struct arena *a, const struct msg_hello *h, Trireme__Hello *out)
{
    Trireme__Device *to = arena_take_n(a, h->n_device, sizeof *to);
    out->devices = arena_take_n(a, h->n_device, sizeof *out->devices);
    if (!to || !out->devices) return false;
    out->n_devices = h->n_device;
    for (uint32_t i = 0; i < h->n_device; i++) {
        const struct msg_device *d = &h->devices[i];
        trireme__device__init(out->devices[i] = &to[i]);
        to[i].name = wire_text_out(d->name);
        to[i].kind = wire_text_out(d->kind);
        to[i].isa = wire_text_out(d->isa);
        to[i].threads = d->threads;
        to[i].mem_bytes = d->mem_bytes;
        to[i].mem_free_bytes = d->mem_free_bytes;
        to[i].read_bytes_per_s = d->read_bytes_per_s;
        to[i].int8_ops_per_s = d->int8_ops_per_s;
        to[i].f32_flops_per_s = d->f32_flops_per_s;
        to[i].unified = d->unified;
        to[i].n_core = d->n_core;
        to[i].n_numa = d->n_numa;
        to[i].l2_bytes = d->l2_bytes;
        to[i].l3_bytes = d->l3_bytes;
        to[i].host_read_bytes_per_s = d->host_read_bytes_per_s;
        if (!wire_rates_out(a, &d->rates, &to[i].rates)) return false;
    }
    return true;
}

static bool hello_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    const struct msg_hello *h = &m->hello;
    Trireme__Hello *out = env->hello;
    out->version = h->version;
    out->build = wire_text_out(h->build);
    out->name = wire_text_out(h->name);
    out->instance = h->instance;
    out->host = wire_text_out(h->host);
    out->pid = h->pid;
    out->held_from = h->held_from;
    out->held_to = h->held_to;
    out->held_embed = h->held_embed;
    out->held_head = h->held_head;
    if (h->held_from != h->held_to || h->held_embed || h->held_head)
        out->held_hash = wire_bytes_out(h->held_hash, sizeof h->held_hash);
    out->roads = h->roads;
    out->process = h->process;
    out->store_bytes = h->store_bytes;
    out->disk_bytes_per_s = h->disk_bytes_per_s;
    out->own_lane = h->own_lane;
    Trireme__Model *models = arena_take_n(a, h->n_model, sizeof *models);
    out->models = arena_take_n(a, h->n_model, sizeof *out->models);
    if (!models || !out->models) return false;
    out->n_models = h->n_model;
    for (uint32_t i = 0; i < h->n_model; i++) {
        trireme__model__init(out->models[i] = &models[i]);
        models[i].name = wire_text_out(h->models[i].name);
        models[i].hash = wire_bytes_out(h->models[i].hash, sizeof h->models[i].hash);
    }
    return devices_out(a, h, out);
}

static bool welcome_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    env->welcome->worker = m->welcome.worker;
    env->welcome->cluster = wire_text_out(m->welcome.cluster);
    return wire_file_list_out(a, &m->welcome, env->welcome);
}

static bool refuse_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->refuse->code = m->refuse.code;
    env->refuse->why = wire_text_out(m->refuse.why);
    env->refuse->is_final = m->refuse.is_final;
    return true;
}

static bool step_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    return wire_step_out(a, &m->step, env->step);
}

static bool result_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    return wire_step_result_out(a, &m->result, env->result);
}

static bool heartbeat_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    const struct msg_heartbeat *h = &m->heartbeat;
    Trireme__Heartbeat *out = env->heartbeat;
    out->epoch = h->epoch;
    out->step_done = h->step_done;
    out->step_now = h->step_now;
    out->progress = h->progress;
    out->mem_used_bytes = h->mem_used_bytes;
    out->mem_free_bytes = h->mem_free_bytes;
    out->frame_bytes_out = h->frame_bytes_out;
    out->frame_bytes_in = h->frame_bytes_in;
    out->busy_us = h->busy_us;
    out->wait_us = h->wait_us;
    out->steps_queued = h->steps_queued;
    out->exchange_us = h->exchange_us;
    out->sent_us = h->sent_us;
    out->echo_us = h->echo_us;
    out->echo_age_us = h->echo_age_us;
    out->fetched_bytes = h->fetched_bytes;
    out->fetch_bytes = h->fetch_bytes;
    return true;
}

static bool failed_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->failed->epoch = m->failed.epoch;
    env->failed->code = m->failed.code;
    env->failed->why = wire_text_out(m->failed.why);
    return true;
}

static bool drain_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a, (void)m, (void)env;
    return true;
}

static bool enroll_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->enroll->secret = wire_text_out(m->enroll.secret);
    env->enroll->name = wire_text_out(m->enroll.name);
    env->enroll->public_key_pem = wire_text_out(m->enroll.public_key_pem);
    return true;
}

static bool enrolled_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->enrolled->certificate_pem = wire_text_out(m->enrolled.certificate_pem);
    env->enrolled->ca_pem = wire_text_out(m->enrolled.ca_pem);
    return true;
}

static bool renew_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->renew->request_pem = wire_text_out(m->renew.request_pem);
    return true;
}

static bool renewed_out(struct arena *a, const struct msg *m, Trireme__Envelope *env)
{
    (void)a;
    env->renewed->certificate_pem = wire_text_out(m->renewed.certificate_pem);
    env->renewed->code = m->renewed.code;
    env->renewed->why = wire_text_out(m->renewed.why);
    return true;
}

static const struct {
    const ProtobufCMessageDescriptor *type;
    wire_out_fn *fill;
} to_wire[N_KIND] = {
    [MSG_HELLO] = {&trireme__hello__descriptor, hello_out},
    [MSG_WELCOME] = {&trireme__welcome__descriptor, welcome_out},
    [MSG_REFUSE] = {&trireme__refuse__descriptor, refuse_out},
    [MSG_PLAN] = {&trireme__plan__descriptor, wire_plan_out},
    [MSG_PREPARED] = {&trireme__prepared__descriptor, wire_prepared_out},
    [MSG_CONNECT] = {&trireme__connect__descriptor, wire_connect_out},
    [MSG_LINKED] = {&trireme__linked__descriptor, wire_linked_out},
    [MSG_STEP] = {&trireme__step__descriptor, step_out},
    [MSG_RESULT] = {&trireme__result__descriptor, result_out},
    [MSG_HEARTBEAT] = {&trireme__heartbeat__descriptor, heartbeat_out},
    [MSG_FAILED] = {&trireme__failed__descriptor, failed_out},
    [MSG_DRAIN] = {&trireme__drain__descriptor, drain_out},
    [MSG_ENROLL] = {&trireme__enroll__descriptor, enroll_out},
    [MSG_ENROLLED] = {&trireme__enrolled__descriptor, enrolled_out},
    [MSG_SURVEY] = {&trireme__survey__descriptor, wire_survey_out},
    [MSG_SURVEYED] = {&trireme__surveyed__descriptor, wire_surveyed_out},
    [MSG_FETCH] = {&trireme__fetch__descriptor, wire_file_fetch_out},
    [MSG_CHUNK] = {&trireme__chunk__descriptor, wire_file_chunk_out},
    [MSG_USAGE] = {&trireme__usage__descriptor, wire_usage_out},
    [MSG_RENEW] = {&trireme__renew__descriptor, renew_out},
    [MSG_RENEWED] = {&trireme__renewed__descriptor, renewed_out},
};

static err_t pack_in_arena(struct arena *a, const struct msg *m, struct buf *out)
{
    Trireme__Envelope env;
    trireme__envelope__init(&env);
    ProtobufCMessage *inner = arena_take(a, to_wire[m->kind].type->sizeof_message);
    if (!inner) return ERR_MEMORY;
    protobuf_c_message_init(to_wire[m->kind].type, inner);
    env.kind_case = (Trireme__Envelope__KindCase)m->kind;
    env.drain = (Trireme__Drain *)inner; // any member: the oneof is a union of pointers
    if (!to_wire[m->kind].fill(a, m, &env)) return ERR_MEMORY;
    size_t len = trireme__envelope__get_packed_size(&env);
    if (len > WIRE_MESSAGE_MAX) return ERR_TOO_LARGE;
    if (!buf_reserve(out, len)) return ERR_MEMORY;
    out->len += trireme__envelope__pack(&env, (uint8_t *)out->data + out->len);
    out->data[out->len] = 0;
    return OK;
}

err_t wire_pack(const struct msg *m, struct buf *out)
{
    BUG_ON((unsigned)m->kind >= N_KIND || !to_wire[m->kind].fill);
    struct arena a;
    arena_init(&a, 0);
    err_t e = pack_in_arena(&a, m, out);
    arena_fini(&a);
    return e;
}
