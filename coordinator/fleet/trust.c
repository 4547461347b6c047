// trust: workers renew their certificates over the connection that these have proven.
#include "coordinator/fleet/fleet_priv.h"
#include "proto/base/log.h"
#include <time.h>

// A worker asks once in weeks; one that asks all the time would keep us busy signing and writing.
enum { RENEW_PAUSE_US = 500000 };

// OK: it has another one; its link is proven by the old one and goes on.
static err_t renew(struct fleet_worker *w, const struct msg_renew *m, struct buf *certificate,
                   struct err_text *why)
{
    struct fleet *f = w->fleet;
    struct link *link = w->tether->link;
    const int64_t now_s = time(NULL), life_s = identity_life(f->identity);
    err_t e = identity_renew(f->identity, link->peer, m->request_pem, now_s, certificate, why);
    if (e) return e;
    link->expires_s = now_s + life_s;
    f->stats.renewed++;
    log_info("worker %s got another certificate, good for %.1f days", w->hello.name,
             (double)life_s / 86400);
    return OK;
}

err_t trust_take(struct fleet_worker *w, const struct msg_renew *m, int64_t now_us,
                 struct err_text *why)
{
    if (!w->fleet->identity || !w->tether->link->expires_s)
        return err_say(why, ERR_LINK_PROTOCOL, "it has no certificate to renew");
    if (w->renewed_us && now_us - w->renewed_us < RENEW_PAUSE_US)
        return err_say(why, ERR_LINK_PROTOCOL, "it renews its certificate again and again");
    w->renewed_us = now_us;
    struct buf certificate = {0};
    struct err_text said = {0};
    struct msg reply = {.kind = MSG_RENEWED};
    reply.renewed.code = renew(w, m, &certificate, &said);
    if (reply.renewed.code) {
        log_warn("the certificate of worker %s is not renewed: %s", w->hello.name, said.s);
        buf_clear(&certificate);
    }
    reply.renewed.why = said.s;
    reply.renewed.certificate_pem = certificate.len ? certificate.data : "";
    fleet_tell(w, &reply);
    buf_fini(&certificate);
    return OK;
}
