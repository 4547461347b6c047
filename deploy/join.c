#include "deploy/join.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/wire/wire.h"

#include <poll.h>
#include <string.h>
#include <time.h>

enum { ENROL_MS = 10000 };

// Waits until the link has a message or the deadline passes.
static err_t next_message(struct link *l, int64_t until_us, struct arena *a, struct msg *out,
                          struct err_text *why)
{
    for (;;) {
        const void *data;
        size_t len;
        err_t err = link_recv(l, &data, &len, why);
        if (!err) return wire_unpack(data, len, a, out, why);
        if (err == ERR_END) return err_say(why, ERR_LINK, "the coordinator closed the connection");
        if (err != ERR_AGAIN) return err;
        int64_t left_us = until_us - clock_now_us();
        if (left_us <= 0) return err_say(why, ERR_TIMEOUT, "the coordinator does not answer");
        struct pollfd p = {0};
        p.fd = link_poll_fd(l, &p.events);
        poll(&p, 1, left_us > 50000 ? 50 : (int)(left_us / 1000) + 1);
    }
}

static err_t say_enroll(struct link *l, const struct join *j, struct err_text *why)
{
    struct buf b = {0};
    struct msg m = {.kind = MSG_ENROLL,
                    .enroll = {.secret = identity_token_secret(j->id),
                               .name = j->name,
                               .public_key_pem = identity_public_key_pem(j->id)}};
    err_t err = wire_pack(&m, &b);
    if (!err) err = link_send(l, b.data, b.len);
    buf_fini(&b);
    return err ? err_say(why, err, "cannot send the join request: %s", err_name(err)) : OK;
}

static err_t enrol(struct join *j, struct err_text *why)
{
    struct link *l;
    struct arena a;
    struct msg m;
    err_t err = link_tls_dial(j->address, j->id, &l, why);
    if (err) return err;
    arena_init(&a, WIRE_ARENA_MAX);
    err = say_enroll(l, j, why);
    if (!err) err = next_message(l, clock_now_us() + ENROL_MS * 1000LL, &a, &m, why);
    if (!err && m.kind == MSG_REFUSE)
        err = err_say(why, ERR_LINK_AUTH, "%s refuses this worker: %s", j->address, m.refuse.why);
    else if (!err && m.kind != MSG_ENROLLED)
        err = err_say(why, ERR_LINK_PROTOCOL, "%s answered the join request with %s", j->address,
                      wire_kind_name(m.kind));
    if (!err) err = identity_accept(j->id, m.enrolled.certificate_pem, m.enrolled.ca_pem, why);
    if (!err) log_info("enrolled at %s as %s", j->address, j->name);
    arena_fini(&a);
    link_close(l);
    return err;
}

err_t join_open(struct join *j, struct err_text *why)
{
    return identity_open_worker(j->state_dir, j->token, &j->id, why);
}

// Between two connections, so nothing uses the old certificate any more.
static err_t freshen(struct join *j, struct err_text *why)
{
    if (j->id && !identity_is_stale(j->id)) return OK;
    identity_close(j->id);
    j->id = NULL;
    return join_open(j, why);
}

err_t join_dial(void *arg, struct link **out, struct err_text *why)
{
    struct join *j = arg;
    err_t err = freshen(j, why);
    if (!err && !identity_is_enrolled(j->id)) err = enrol(j, why);
    if (!err) err = link_tls_dial(j->address, j->id, out, why);
    return err;
}

const char *join_renewal(void *arg)
{
    const struct join *j = arg;
    return identity_renewal(j->id, time(NULL));
}

err_t join_renewed(void *arg, const char *certificate_pem, struct err_text *why)
{
    const struct join *j = arg;
    err_t err = identity_renewed(j->id, certificate_pem, why);
    if (!err)
        log_info("got another certificate, good for %.1f days",
                 (double)(identity_expires(j->id) - time(NULL)) / 86400);
    return err;
}

void join_fini(struct join *j)
{
    identity_close(j->id);
    j->id = NULL;
}
