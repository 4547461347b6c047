// Mutual TLS over real sockets: who gets in, who does not, and what bad manners lead to.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/link/identity.h"
#include "proto/link/link.h"
#include "proto/wire/wire.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char base[64];
static struct identity *coordinator, *enrolled;
static struct link_listener *listener;
static char address[32];

static const char *in_base(const char *name)
{
    static char path[4][128];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", base, name);
    return path[at];
}

static char *new_token(const char *state, int64_t now)
{
    struct buf b = {0};
    struct err_text why;
    if (identity_token_new(in_base(state), now, &b, &why)) fail_msg("%s", why.s);
    return b.data;
}

static struct identity *open_worker(const char *state, const char *token)
{
    struct identity *id;
    struct err_text why;
    if (identity_open_worker(in_base(state), token, &id, &why)) fail_msg("%s", why.s);
    return id;
}

static struct identity *join(const char *ca_state, struct identity *ca, const char *name)
{
    char *token = new_token(ca_state, time(NULL));
    struct identity *w = open_worker(name, token);
    struct buf pem = {0};
    struct err_text why = {{0}};
    if (identity_enroll(ca, identity_token_secret(w), name, identity_public_key_pem(w), time(NULL),
                        &pem, &why) ||
        identity_accept(w, pem.data, identity_ca_pem(ca), &why))
        fail_msg("%s", why.s);
    buf_fini(&pem);
    free(token);
    return w;
}

static int setup(void **state)
{
    (void)state;
    struct err_text why = {{0}};
    snprintf(base, sizeof base, "/tmp/trireme-tls-XXXXXX");
    if (!mkdtemp(base)) return -1;
    log_set_level(LOG_ERROR);
    if (identity_open_coordinator(in_base("ca"), "home", &coordinator, &why) ||
        link_tls_listen("127.0.0.1:0", coordinator, &listener, &why)) {
        print_error("%s\n", why.s);
        return -1;
    }
    snprintf(address, sizeof address, "127.0.0.1:%d", link_tls_listener_port(listener));
    enrolled = join("ca", coordinator, "spark-1");
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    link_tls_listener_close(listener);
    identity_close(enrolled);
    identity_close(coordinator);
    return nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int64_t after_ms(int ms)
{
    return clock_now_us() + (int64_t)ms * 1000;
}

static struct link *accept_within(int ms)
{
    struct link *l = NULL;
    for (int64_t until = after_ms(ms); clock_now_us() < until;) {
        if (link_tls_accept(listener, &l) == OK) return l;
        struct pollfd p = {.fd = link_tls_listener_fd(listener), .events = POLLIN};
        poll(&p, 1, 5);
    }
    return NULL;
}

// Both ends turn until the one has a message or an error.
static err_t recv_within(struct link *l, int ms, const void **data, size_t *len,
                         struct err_text *why)
{
    for (int64_t until = after_ms(ms);;) {
        err_t e = link_recv(l, data, len, why);
        if (e != ERR_AGAIN || clock_now_us() > until) return e;
        short events;
        struct pollfd p = {.fd = link_poll_fd(l, &events)};
        p.events = events;
        poll(&p, 1, 5);
    }
}

static err_t meet(struct identity *id, struct link **client, struct link **server)
{
    struct err_text why = {{0}};
    const void *data;
    size_t len;
    assert_int_equal(link_tls_dial(address, id, client, &why), OK);
    *server = NULL;
    for (int64_t until = after_ms(3000); clock_now_us() < until && !*server;) {
        err_t e = link_recv(*client, &data, &len, &why);
        if (e != ERR_AGAIN) return e;
        if (link_tls_accept(listener, server) == ERR_AGAIN) usleep(500);
    }
    return *server ? OK : ERR_TIMEOUT;
}

// -- good --

static void test_mutual(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why;
    const void *data;
    size_t len;
    assert_int_equal(meet(enrolled, &c, &s), OK);
    assert_true(s->is_authenticated && c->is_authenticated);
    assert_string_equal(s->peer, "spark-1");
    assert_string_equal(c->peer, "home");
    assert_int_equal(link_send(c, "hello", 5), OK);
    assert_int_equal(link_send(c, "", 0), OK);
    assert_int_equal(recv_within(s, 2000, &data, &len, &why), OK);
    assert_int_equal(len, 5);
    assert_memory_equal(data, "hello", 5);
    assert_int_equal(recv_within(s, 2000, &data, &len, &why), OK);
    assert_int_equal(len, 0);
    assert_int_equal(link_recv(s, &data, &len, &why), ERR_AGAIN);
    // Large ones both ways, more than the sockets hold.
    char *big = malloc(WIRE_MESSAGE_MAX);
    for (size_t i = 0; i < WIRE_MESSAGE_MAX; i++)
        big[i] = (char)(i * 7 + i / 1000);
    assert_int_equal(link_send(s, big, WIRE_MESSAGE_MAX + 1), ERR_TOO_LARGE);
    int n_sent = 0, n_got = 0;
    while (n_sent < 10 && link_send(s, big, WIRE_MESSAGE_MAX) == OK)
        n_sent++;
    assert_int_equal(n_sent, 10);
    assert_int_equal(link_send(s, "end", 3), OK);
    for (int64_t until = after_ms(20000); clock_now_us() < until;) {
        err_t e = link_recv(c, &data, &len, &why);
        assert_int_equal(link_recv(s, &(const void *){0}, &(size_t){0}, &why), ERR_AGAIN);
        if (e == ERR_AGAIN) continue;
        assert_int_equal(e, OK);
        if (len == 3) break;
        assert_int_equal(len, WIRE_MESSAGE_MAX);
        assert_memory_equal(data, big, WIRE_MESSAGE_MAX);
        n_got++;
    }
    assert_int_equal(n_got, 10);
    free(big);
    // An orderly end, after the last message.
    assert_int_equal(link_send(s, "bye", 3), OK);
    link_close(s);
    assert_int_equal(recv_within(c, 2000, &data, &len, &why), OK);
    assert_memory_equal(data, "bye", 3);
    assert_int_equal(recv_within(c, 2000, &data, &len, &why), ERR_END);
    assert_int_equal(link_recv(c, &data, &len, &why), ERR_END);
    assert_int_equal(link_send(c, "x", 1), ERR_LINK);
    link_close(c);
}

static void test_backlog(void **state)
{
    (void)state;
    struct link *c, *s;
    assert_int_equal(meet(enrolled, &c, &s), OK);
    char *big = calloc(1, WIRE_MESSAGE_MAX);
    err_t e;
    size_t n = 0;
    while ((e = link_send(s, big, WIRE_MESSAGE_MAX)) == OK && n < 200)
        n++;
    assert_int_equal(e, ERR_AGAIN); // the peer does not read
    assert_in_range(n, LINK_BACKLOG_MAX / WIRE_MESSAGE_MAX - 1, 64);
    short events;
    link_poll_fd(s, &events);
    assert_int_equal(events, POLLIN | POLLOUT);
    free(big);
    link_close(s);
    link_close(c);
}

static void test_queued_before_the_handshake(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why;
    const void *data;
    size_t len;
    assert_int_equal(link_tls_dial(address, enrolled, &c, &why), OK);
    assert_int_equal(link_send(c, "early", 5), OK);
    for (s = NULL; !s;) {
        assert_int_equal(link_recv(c, &data, &len, &why), ERR_AGAIN);
        link_tls_accept(listener, &s);
    }
    assert_int_equal(link_recv(c, &data, &len, &why), ERR_AGAIN);
    assert_int_equal(recv_within(s, 2000, &data, &len, &why), OK);
    assert_memory_equal(data, "early", 5);
    link_close(c);
    link_close(s);
}

// -- joining --

static void test_join_over_the_wire(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why = {{0}};
    const void *data;
    size_t len;
    struct buf pem = {0}, again = {0};
    char *token = new_token("ca", time(NULL));
    struct identity *w = open_worker("fresh", token);
    assert_false(identity_is_enrolled(w));
    assert_int_equal(meet(w, &c, &s), OK);
    assert_true(c->is_authenticated);  // the server, by the token's fingerprint
    assert_false(s->is_authenticated); // no certificate
    // A stranger may not send much.
    assert_int_equal(link_send(c, identity_token_secret(w), 32), OK);
    assert_int_equal(recv_within(s, 2000, &data, &len, &why), OK);
    char secret[33] = {0};
    memcpy(secret, data, 32);
    assert_int_equal(identity_enroll(coordinator, secret, "fresh", identity_public_key_pem(w),
                                     time(NULL), &pem, &why),
                     OK);
    // Once.
    assert_int_equal(identity_enroll(coordinator, secret, "fresh", identity_public_key_pem(w),
                                     time(NULL), &again, &why),
                     ERR_LINK_AUTH);
    assert_int_equal(identity_accept(w, pem.data, identity_ca_pem(coordinator), &why), OK);
    assert_true(identity_is_enrolled(w));
    link_close(c);
    link_close(s);
    assert_int_equal(meet(w, &c, &s), OK);
    assert_true(s->is_authenticated);
    assert_string_equal(s->peer, "fresh");
    link_close(c);
    link_close(s);
    identity_close(w);
    // From the folder alone.
    w = open_worker("fresh", NULL);
    assert_true(identity_is_enrolled(w));
    assert_int_equal(meet(w, &c, &s), OK);
    link_close(c);
    link_close(s);
    identity_close(w);
    buf_fini(&pem);
    free(token);
}

static void test_stranger_sends_too_much(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why;
    const void *data;
    size_t len;
    char *token = new_token("ca", time(NULL)), big[40000] = {0};
    struct identity *w = open_worker("stranger", token);
    assert_int_equal(meet(w, &c, &s), OK);
    assert_int_equal(link_send(c, big, sizeof big), OK);
    assert_int_equal(recv_within(s, 2000, &data, &len, &why), ERR_LINK_PROTOCOL);
    link_close(c);
    link_close(s);
    identity_close(w);
    free(token);
}

static void test_wrong_fingerprint(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why;
    const void *data;
    size_t len;
    char *token = new_token("ca", time(NULL));
    token[12] = token[12] == '0' ? '1' : '0';
    struct identity *w = open_worker("pinned", token);
    assert_int_equal(link_tls_dial(address, w, &c, &why), OK);
    s = NULL;
    err_t e = ERR_AGAIN;
    for (int64_t until = after_ms(3000); e == ERR_AGAIN && clock_now_us() < until;) {
        link_tls_accept(listener, &s);
        e = link_recv(c, &data, &len, &why);
    }
    assert_int_equal(e, ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "authority"));
    assert_null(accept_within(100));
    link_close(c);
    identity_close(w);
    free(token);
}

// -- not let in --

// The server refuses; the client learns it from the server's alert.
static void refused(struct identity *id, const char *words)
{
    struct link *c, *s;
    struct err_text why = {{0}};
    const void *data;
    size_t len;
    assert_int_equal(link_tls_dial(address, id, &c, &why), OK);
    s = NULL;
    err_t e = ERR_AGAIN;
    for (int64_t until = after_ms(3000); e == ERR_AGAIN && clock_now_us() < until;) {
        link_tls_accept(listener, &s);
        assert_null(s);
        e = link_recv(c, &data, &len, &why);
    }
    assert_int_equal(e, ERR_LINK_AUTH);
    if (words && !strstr(why.s, words)) fail_msg("%s", why.s);
    link_close(c);
}

static void test_other_cluster(void **state)
{
    (void)state;
    struct identity *other;
    struct err_text why = {{0}};
    assert_int_equal(identity_open_coordinator(in_base("ca2"), "home", &other, &why), OK);
    struct identity *w = join("ca2", other, "alien");
    refused(w, NULL); // here already the client sees that the server is not its own
    identity_close(w);
    identity_close(other);
}

// A worker's certificate of another CA, but knowing ours: only the server can refuse it.
static void test_foreign_certificate(void **state)
{
    (void)state;
    struct identity *other;
    struct err_text why = {{0}};
    assert_int_equal(identity_open_coordinator(in_base("ca3"), "home", &other, &why), OK);
    struct identity *w = join("ca3", other, "forger");
    identity_close(w);
    assert_int_equal(identity_write_file(in_base("forger/ca.pem"), identity_ca_pem(coordinator),
                                         strlen(identity_ca_pem(coordinator)), &why),
                     OK);
    w = open_worker("forger", NULL);
    refused(w, "refused us");
    identity_close(w);
    identity_close(other);
}

// An enrolled worker is no coordinator, whatever it claims: its certificate has the wrong purpose.
static void test_worker_as_server(void **state)
{
    (void)state;
    struct link_listener *fake;
    struct link *c, *s = NULL;
    struct err_text why;
    const void *data;
    size_t len;
    char to[32];
    assert_int_equal(link_tls_listen("127.0.0.1:0", enrolled, &fake, &why), OK);
    snprintf(to, sizeof to, "127.0.0.1:%d", link_tls_listener_port(fake));
    struct identity *w = join("ca", coordinator, "victim");
    assert_int_equal(link_tls_dial(to, w, &c, &why), OK);
    err_t e = ERR_AGAIN;
    for (int64_t until = after_ms(3000); e == ERR_AGAIN && clock_now_us() < until;) {
        link_tls_accept(fake, &s);
        e = link_recv(c, &data, &len, &why);
    }
    assert_int_equal(e, ERR_LINK_AUTH);
    link_close(c);
    link_close(s);
    link_tls_listener_close(fake);
    identity_close(w);
}

static void test_revoked(void **state)
{
    (void)state;
    struct link *c, *s;
    struct err_text why;
    const void *data;
    size_t len;
    struct identity *w = join("ca", coordinator, "leaver");
    assert_int_equal(meet(w, &c, &s), OK);
    assert_int_equal(mkdir(in_base("ca/revoked"), 0700), 0);
    assert_int_equal(identity_write_file(in_base("ca/revoked/leaver"), "", 0, &why), OK);
    // An open link ends within 3 s.
    int64_t from = clock_now_us();
    assert_int_equal(recv_within(s, 3000, &data, &len, &why), ERR_LINK_AUTH);
    assert_true(clock_now_us() - from < 3000000);
    assert_non_null(strstr(why.s, "revoked"));
    link_close(c);
    link_close(s);
    refused(w, "has revoked this worker");
    // Nor does the name come back with a new token.
    struct buf pem = {0};
    char *token = new_token("ca", time(NULL));
    assert_int_equal(identity_enroll(coordinator, token + 74, "leaver", identity_public_key_pem(w),
                                     time(NULL), &pem, &why),
                     ERR_LINK_AUTH);
    assert_int_equal(identity_enroll(coordinator, token + 74, "leaver-2",
                                     identity_public_key_pem(w), time(NULL), &pem, &why),
                     OK); // which did not use the token up
    buf_fini(&pem);
    free(token);
    identity_close(w);
    assert_int_equal(meet(enrolled, &c, &s), OK); // the others stay
    link_close(c);
    link_close(s);
}

// -- other protocols --

static int plain_connect(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)link_tls_listener_port(listener)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) fail_msg("%s", strerror(errno));
    return fd;
}

static bool is_closed(int fd)
{
    char scrap[256];
    ssize_t n;
    while ((n = recv(fd, scrap, sizeof scrap, MSG_DONTWAIT)) > 0)
        ;
    return n == 0 || (n < 0 && errno != EAGAIN);
}

static void test_plaintext(void **state)
{
    (void)state;
    int http = plain_connect(), noise = plain_connect();
    assert_true(write(http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27) == 27);
    char junk[2000];
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (char)(i * i * 31 + 7);
    assert_true(write(noise, junk, sizeof junk) == (ssize_t)sizeof junk);
    assert_null(accept_within(200));
    assert_true(is_closed(http));
    assert_true(is_closed(noise));
    close(http);
    close(noise);
}

static void shake_by_hand(const char *priority, int *rc)
{
    gnutls_session_t session;
    gnutls_certificate_credentials_t cred;
    assert_int_equal(gnutls_certificate_allocate_credentials(&cred), 0);
    assert_int_equal(gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
    assert_int_equal(gnutls_priority_set_direct(session, priority, NULL), 0);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, cred);
    int fd = plain_connect();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    gnutls_transport_set_int(session, fd);
    *rc = GNUTLS_E_AGAIN;
    struct link *s = NULL;
    for (int64_t until = after_ms(3000); *rc == GNUTLS_E_AGAIN && clock_now_us() < until;) {
        *rc = gnutls_handshake(session);
        link_tls_accept(listener, &s);
    }
    if (*rc == 0 && !s) s = accept_within(1000);
    assert_true(*rc != 0 || (s && !s->is_authenticated));
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(cred);
    close(fd);
    link_close(s);
}

static void test_old_tls(void **state)
{
    (void)state;
    int rc;
    shake_by_hand("NORMAL:-VERS-ALL:+VERS-TLS1.2", &rc);
    assert_int_equal(rc, GNUTLS_E_FATAL_ALERT_RECEIVED);
    shake_by_hand("NORMAL:-VERS-ALL:+VERS-TLS1.3", &rc); // the same by hand works
    assert_int_equal(rc, 0);
}

// A certificate that its bearer signed: for the server it comes from nowhere.
static void test_self_signed(void **state)
{
    (void)state;
    struct err_text why;
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    gnutls_datum_t pem, text;
    identity_close(join("ca", coordinator, "selfie")); // for its folder
    assert_int_equal(gnutls_load_file(in_base("selfie/worker.key"), &text), 0);
    gnutls_x509_privkey_init(&key);
    assert_int_equal(gnutls_x509_privkey_import(key, &text, GNUTLS_X509_FMT_PEM), 0);
    gnutls_x509_crt_init(&crt);
    gnutls_x509_crt_set_version(crt, 3);
    gnutls_x509_crt_set_serial(crt, "\1", 1);
    gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, "spark-1", 7);
    gnutls_x509_crt_set_activation_time(crt, time(NULL) - 10);
    gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 1000);
    gnutls_x509_crt_set_key(crt, key);
    gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
    assert_int_equal(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA512, 0), 0);
    assert_int_equal(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem), 0);
    assert_int_equal(identity_write_file(in_base("selfie/worker.pem"), pem.data, pem.size, &why),
                     OK);
    struct identity *w = open_worker("selfie", NULL);
    refused(w, "refused us");
    identity_close(w);
    gnutls_free(pem.data);
    gnutls_free(text.data);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
}

// -- bad manners --

static void test_silent_and_many(void **state)
{
    (void)state;
    int fds[70];
    struct link *c, *s;
    for (int i = 0; i < 70; i++) {
        fds[i] = plain_connect();
        if (i % 10 == 9) assert_null(accept_within(20));
    }
    // The first ones had to give way, the others hold their places; honest peers come through.
    for (int i = 0; i < 6; i++)
        assert_true(is_closed(fds[i]));
    assert_false(is_closed(fds[69]));
    assert_int_equal(meet(enrolled, &c, &s), OK);
    link_close(c);
    link_close(s);
    int64_t from = clock_now_us();
    while (!is_closed(fds[69]) && clock_now_us() - from < 12000000)
        accept_within(20);
    assert_in_range(clock_now_us() - from, 3500000, 8000000); // of 5 s, some passed before
    for (int i = 0; i < 70; i++)
        close(fds[i]);
    // Nothing to do: the listener sleeps.
    struct pollfd p = {.fd = link_tls_listener_fd(listener), .events = POLLIN};
    while (link_tls_accept(listener, &s) != ERR_AGAIN)
        ;
    assert_int_equal(poll(&p, 1, 300), 0);
}

static void test_nobody_answers(void **state)
{
    (void)state;
    struct link *c;
    struct err_text why;
    const void *data;
    size_t len;
    // A socket that accepts and says nothing.
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&a, &n);
    char to[32];
    snprintf(to, sizeof to, "127.0.0.1:%d", ntohs(a.sin_port));
    assert_int_equal(link_tls_dial(to, enrolled, &c, &why), OK);
    int64_t from = clock_now_us();
    assert_int_equal(recv_within(c, 12000, &data, &len, &why), ERR_LINK);
    assert_in_range(clock_now_us() - from, 4500000, 9000000);
    link_close(c);
    // Nobody there at all.
    close(fd);
    assert_int_equal(link_tls_dial(to, enrolled, &c, &why), OK);
    assert_int_equal(recv_within(c, 2000, &data, &len, &why), ERR_LINK);
    link_close(c);
    assert_int_equal(link_tls_dial("nonsense", enrolled, &c, &why), ERR_CONFIG);
    assert_int_equal(link_tls_dial(":1", enrolled, &c, &why), ERR_CONFIG);
    assert_int_equal(link_tls_dial("127.0.0.1:", enrolled, &c, &why), ERR_CONFIG);
    struct link_listener *l;
    assert_int_equal(link_tls_listen(address, coordinator, &l, &why), ERR_SYSTEM); // taken
    assert_int_equal(link_tls_listen("[::1]:0", coordinator, &l, &why), OK);
    link_tls_listener_close(l);
}

// A hand-made worker that says what it wants inside its TLS session.
struct rude {
    gnutls_session_t session;
    gnutls_certificate_credentials_t cred;
    int fd;
    struct link *server;
};

static void rude_meet(struct rude *r)
{
    gnutls_certificate_allocate_credentials(&r->cred);
    assert_int_equal(gnutls_certificate_set_x509_key_file(r->cred, in_base("spark-1/worker.pem"),
                                                          in_base("spark-1/worker.key"),
                                                          GNUTLS_X509_FMT_PEM),
                     0);
    gnutls_init(&r->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(r->session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);
    gnutls_credentials_set(r->session, GNUTLS_CRD_CERTIFICATE, r->cred);
    r->fd = plain_connect();
    fcntl(r->fd, F_SETFL, O_NONBLOCK);
    gnutls_transport_set_int(r->session, r->fd);
    r->server = NULL;
    bool is_done = false;
    for (int64_t until = after_ms(3000); !r->server && clock_now_us() < until;) {
        if (!is_done) is_done = gnutls_handshake(r->session) == 0;
        link_tls_accept(listener, &r->server);
    }
    assert_non_null(r->server);
    assert_true(r->server->is_authenticated);
}

static void rude_part(struct rude *r)
{
    gnutls_deinit(r->session);
    gnutls_certificate_free_credentials(r->cred);
    close(r->fd);
    link_close(r->server);
}

static void test_rude_lengths(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        bool closes;
        err_t want;
    } cases[] = {
        {"\x00\x10\x00\x01", 4, false, ERR_LINK_PROTOCOL}, // one over the limit
        {"\xff\xff\xff\xff", 4, false, ERR_LINK_PROTOCOL},
        {"\x00\x00", 2, true, ERR_LINK}, // ends inside a head
        {"\x00\x00\x00\x09"
         "abc",
         7, true, ERR_LINK}, // and inside a message
        {"", 0, true, ERR_END},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rude r;
        const void *data;
        size_t len;
        struct err_text why;
        rude_meet(&r);
        if (cases[i].len) gnutls_record_send(r.session, cases[i].bytes, cases[i].len);
        if (cases[i].closes) gnutls_bye(r.session, GNUTLS_SHUT_WR);
        err_t e = recv_within(r.server, 2000, &data, &len, &why);
        if (e != cases[i].want) fail_msg("case %zu: %d %s", i, e, why.s);
        rude_part(&r);
    }
    // Cut off without a goodbye.
    struct rude r;
    const void *data;
    size_t len;
    struct err_text why;
    rude_meet(&r);
    shutdown(r.fd, SHUT_RDWR);
    assert_int_equal(recv_within(r.server, 2000, &data, &len, &why), ERR_LINK);
    rude_part(&r);
    // A promise of much takes nothing; a message in drops arrives.
    rude_meet(&r);
    gnutls_record_send(r.session, "\x00\x00\x00\x05", 4);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(recv_within(r.server, 5, &data, &len, &why), ERR_AGAIN);
        gnutls_record_send(r.session, &"drops"[i], 1);
    }
    assert_int_equal(recv_within(r.server, 2000, &data, &len, &why), OK);
    assert_memory_equal(data, "drops", 5);
    // Rubbish instead of records.
    assert_true(write(r.fd, "rubbish rubbish rubbish", 23) == 23);
    err_t e = recv_within(r.server, 2000, &data, &len, &why);
    assert_true(e == ERR_LINK_PROTOCOL);
    rude_part(&r);
}

// Takes 30 s; on by TRIREME_SLOW_TESTS.
static void test_endless_message(void **state)
{
    (void)state;
    if (!getenv("TRIREME_SLOW_TESTS")) {
        print_message("skipped: takes 30 s (set TRIREME_SLOW_TESTS)\n");
        skip();
    }
    struct rude r;
    const void *data;
    size_t len;
    struct err_text why;
    rude_meet(&r);
    gnutls_record_send(r.session, "\x00\x00\xff\xff", 4);
    int64_t from = clock_now_us();
    err_t e = ERR_AGAIN;
    while (e == ERR_AGAIN && clock_now_us() - from < 40000000) {
        gnutls_record_send(r.session, "x", 1);
        e = recv_within(r.server, 200, &data, &len, &why);
    }
    assert_int_equal(e, ERR_LINK);
    assert_in_range(clock_now_us() - from, 29000000, 36000000);
    rude_part(&r);
}

static void test_no_descriptors(void **state)
{
    (void)state;
    struct rlimit was, now;
    struct link *c, *s = NULL;
    struct err_text why;
    getrlimit(RLIMIT_NOFILE, &was);
    assert_int_equal(link_tls_dial(address, enrolled, &c, &why), OK);
    int lowest = dup(0); // the next accept would get this number
    close(lowest);
    now = was;
    now.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
    int n_turns = 0;
    for (int64_t until = after_ms(500); clock_now_us() < until; n_turns++) {
        struct pollfd p = {.fd = link_tls_listener_fd(listener), .events = POLLIN};
        assert_int_equal(link_tls_accept(listener, &s), ERR_AGAIN);
        poll(&p, 1, 500);
    }
    setrlimit(RLIMIT_NOFILE, &was);
    assert_true(n_turns < 30); // no spinning
    for (int64_t until = after_ms(3000); !s && clock_now_us() < until;) {
        link_recv(c, &(const void *){0}, &(size_t){0}, &why);
        link_tls_accept(listener, &s);
    }
    assert_non_null(s);
    link_close(c);
    link_close(s);
}

static int n_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void test_no_leaks(void **state)
{
    (void)state;
    struct link *c, *s;
    int before = n_fds();
    int64_t from = clock_now_us();
    for (int i = 0; i < 50; i++) {
        assert_int_equal(meet(enrolled, &c, &s), OK);
        link_close(i % 2 ? c : s);
        link_close(i % 2 ? s : c);
    }
    print_message("connect, shake hands, close: %.2f ms\n",
                  (double)(clock_now_us() - from) / 50000);
    assert_int_equal(n_fds(), before);
}

static void test_speed(void **state)
{
    (void)state;
    struct link *c, *s;
    const void *data;
    size_t len;
    assert_int_equal(meet(enrolled, &c, &s), OK);
    char msg[64] = {0};
    int64_t from = clock_now_us();
    enum { N = 2000 };
    for (int i = 0; i < N; i++) {
        assert_int_equal(link_send(c, msg, sizeof msg), OK);
        while (link_recv(s, &data, &len, NULL) == ERR_AGAIN)
            ;
    }
    print_message("tls: %.1f us for a message of 64 bytes\n", (double)(clock_now_us() - from) / N);
    link_close(c);
    link_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutual),
        cmocka_unit_test(test_backlog),
        cmocka_unit_test(test_queued_before_the_handshake),
        cmocka_unit_test(test_join_over_the_wire),
        cmocka_unit_test(test_stranger_sends_too_much),
        cmocka_unit_test(test_wrong_fingerprint),
        cmocka_unit_test(test_other_cluster),
        cmocka_unit_test(test_foreign_certificate),
        cmocka_unit_test(test_worker_as_server),
        cmocka_unit_test(test_revoked),
        cmocka_unit_test(test_plaintext),
        cmocka_unit_test(test_old_tls),
        cmocka_unit_test(test_self_signed),
        cmocka_unit_test(test_silent_and_many),
        cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_rude_lengths),
        cmocka_unit_test(test_endless_message),
        cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_no_leaks),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
