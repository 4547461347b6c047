// State folders, tokens and certificates, without a network.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "proto/link/identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char base[64];
static struct identity *ca;

static const char *in_base(const char *name)
{
    static char path[8][160];
    static int at;
    at = (at + 1) % 8;
    snprintf(path[at], sizeof path[at], "%s/%s", base, name);
    return path[at];
}

static int setup(void **state)
{
    (void)state;
    struct err_text why;
    log_set_level(LOG_ERROR);
    snprintf(base, sizeof base, "/tmp/trireme-identity-XXXXXX");
    if (!mkdtemp(base)) return -1;
    return identity_open_coordinator(in_base("deep/ca"), "home", &ca, &why);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    identity_close(ca);
    identity_close(NULL);
    return nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static unsigned mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static char *slurp(const char *path)
{
    gnutls_datum_t d;
    assert_int_equal(gnutls_load_file(path, &d), 0);
    char *s = strndup((char *)d.data, d.size);
    gnutls_free(d.data);
    return s;
}

static char *new_token(int64_t now)
{
    struct buf b = {0};
    struct err_text why;
    if (identity_token_new(in_base("deep/ca"), now, &b, &why)) fail_msg("%s", why.s);
    return b.data;
}

static struct identity *open_worker(const char *state, const char *token)
{
    struct identity *id;
    struct err_text why;
    if (identity_open_worker(in_base(state), token, &id, &why)) fail_msg("%s", why.s);
    return id;
}

static err_t enroll(const char *secret, const char *name, const char *pem, int64_t now)
{
    struct buf cert = {0};
    struct err_text why = {{0}};
    err_t e = identity_enroll(ca, secret, name, pem, now, &cert, &why);
    assert_true(e == OK ? cert.len > 0 : cert.len == 0 && why.s[0]);
    buf_fini(&cert);
    return e;
}

// -- folders --

static void test_modes(void **state)
{
    (void)state;
    static const char *const files[] = {"deep/ca/ca.key", "deep/ca/ca.pem", "deep/ca/server.key",
                                        "deep/ca/server.pem"};
    assert_int_equal(mode_of(in_base("deep")), 0700);
    assert_int_equal(mode_of(in_base("deep/ca")), 0700);
    for (int i = 0; i < 4; i++)
        assert_int_equal(mode_of(in_base(files[i])), 0600);
    free(new_token(time(NULL)));
    assert_int_equal(mode_of(in_base("deep/ca/tokens")), 0700);
}

static void test_open_to_others(void **state)
{
    (void)state;
    struct identity *id;
    struct err_text why;
    assert_int_equal(chmod(in_base("deep/ca/ca.key"), 0640), 0);
    assert_int_equal(identity_open_coordinator(in_base("deep/ca"), "home", &id, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "chmod 600"));
    assert_non_null(strstr(why.s, "deep/ca/ca.key"));
    assert_int_equal(chmod(in_base("deep/ca/ca.key"), 0600), 0);
    assert_int_equal(chmod(in_base("deep/ca"), 0755), 0);
    assert_int_equal(identity_open_coordinator(in_base("deep/ca"), "home", &id, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "chmod 700"));
    assert_int_equal(chmod(in_base("deep/ca"), 0700), 0);
    char *token = new_token(time(NULL));
    identity_close(open_worker("leaky", token));
    assert_int_equal(chmod(in_base("leaky/worker.key"), 0604), 0);
    assert_int_equal(identity_open_worker(in_base("leaky"), token, &id, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "worker.key"));
    free(token);
}

static void test_same_again(void **state)
{
    (void)state;
    struct identity *id;
    struct err_text why;
    char *server = slurp(in_base("deep/ca/server.pem"));
    assert_int_equal(identity_open_coordinator(in_base("deep/ca"), "home", &id, &why), OK);
    assert_string_equal(identity_ca_pem(id), identity_ca_pem(ca));
    identity_close(id);
    char *again = slurp(in_base("deep/ca/server.pem"));
    assert_string_equal(server, again);
    free(again);
    // A new name of the cluster: a new server certificate, the same authority.
    assert_int_equal(identity_open_coordinator(in_base("deep/ca"), "office", &id, &why), OK);
    assert_string_equal(identity_ca_pem(id), identity_ca_pem(ca));
    identity_close(id);
    again = slurp(in_base("deep/ca/server.pem"));
    assert_string_not_equal(server, again);
    free(again);
    free(server);
}

static void test_broken_folders(void **state)
{
    (void)state;
    struct identity *id;
    struct err_text why;
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), OK);
    identity_close(id);
    // The authority is not replaced behind the workers' backs.
    assert_int_equal(rename(in_base("cut/ca.key"), in_base("cut/gone")), 0);
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "ca.key"));
    assert_int_equal(rename(in_base("cut/gone"), in_base("cut/ca.key")), 0);
    assert_int_equal(rename(in_base("cut/ca.pem"), in_base("cut/gone")), 0);
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), ERR_CONFIG);
    assert_int_equal(rename(in_base("cut/gone"), in_base("cut/ca.pem")), 0);
    // The server's files are made anew when they are bad.
    assert_int_equal(identity_write_file(in_base("cut/server.pem"), "rubbish", 7, &why), OK);
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), OK);
    identity_close(id);
    assert_int_equal(identity_write_file(in_base("cut/ca.key"), "rubbish", 7, &why), OK);
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), ERR_CONFIG);
    assert_int_equal(identity_write_file(in_base("cut/ca.key"), "", 0, &why), OK);
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), ERR_CONFIG);
    assert_int_equal(unlink(in_base("cut/ca.key")), 0);
    assert_int_equal(mkfifo(in_base("cut/ca.key"), 0600), 0); // must not hang
    assert_int_equal(identity_open_coordinator(in_base("cut"), "home", &id, &why), ERR_CONFIG);
    assert_int_equal(identity_open_coordinator("", "home", &id, &why), ERR_CONFIG);
    assert_int_equal(identity_open_coordinator(in_base("cut/ca.pem"), "home", &id, &why),
                     ERR_CONFIG);
    assert_int_equal(identity_open_coordinator(in_base("x"), "", &id, &why), ERR_CONFIG);
    assert_int_equal(identity_open_coordinator(in_base("x"), "a\nb", &id, &why), ERR_CONFIG);
}

static void test_write_file(void **state)
{
    (void)state;
    struct err_text why;
    char long_path[6000];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = 0;
    assert_int_equal(mkdir(in_base("w"), 0700), 0);
    assert_int_equal(identity_write_file(in_base("w/f"), "one", 3, &why), OK);
    assert_int_equal(identity_write_file(in_base("w/f"), "two", 3, &why), OK);
    char *s = slurp(in_base("w/f"));
    assert_string_equal(s, "two");
    free(s);
    assert_int_equal(mode_of(in_base("w/f")), 0600);
    assert_int_equal(identity_write_file(in_base("nowhere/f"), "x", 1, &why), ERR_SYSTEM);
    assert_int_equal(identity_write_file(long_path, "x", 1, &why), ERR_CONFIG);
    assert_int_equal(mkdir(in_base("w/dir"), 0700), 0);
    assert_int_equal(identity_write_file(in_base("w/dir"), "x", 1, &why), ERR_SYSTEM);
    int n = 0;
    DIR *d = opendir(in_base("w"));
    while (readdir(d))
        n++;
    closedir(d);
    assert_int_equal(n, 4); // . .. f dir: no half-written rest
}

// -- tokens --

static void test_token_text(void **state)
{
    (void)state;
    struct identity *id;
    struct err_text why;
    char *token = new_token(time(NULL)), with_newline[128];
    assert_int_equal(strlen(token), 9 + 64 + 1 + 32);
    assert_int_equal(strncmp(token, "trireme1.", 9), 0);
    snprintf(with_newline, sizeof with_newline, "%s\r\n", token);
    id = open_worker("text", with_newline);
    assert_string_equal(identity_token_secret(id), token + 74);
    assert_int_equal(strncmp(identity_public_key_pem(id), "-----BEGIN PUBLIC KEY-----", 26), 0);
    identity_close(id);
    static const char *const bad[] = {"", "trireme1.", "hello", "trireme2.00.00"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(identity_open_worker(in_base("text"), bad[i], &id, &why), ERR_CONFIG);
    for (size_t at = 0; token[at]; at++) {
        char was = token[at];
        token[at] = 'G';
        assert_int_equal(identity_open_worker(in_base("text"), token, &id, &why), ERR_CONFIG);
        token[at] = was;
    }
    assert_int_equal(identity_open_worker(in_base("text"), NULL, &id, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "token"));
    // The secret itself is nowhere in the folder.
    DIR *d = opendir(in_base("deep/ca/tokens"));
    for (struct dirent *f; (f = readdir(d));)
        assert_null(strstr(f->d_name, token + 74));
    closedir(d);
    struct buf b = {0};
    assert_int_equal(identity_token_new(in_base("text"), time(NULL), &b, &why), ERR_CONFIG);
    free(token);
}

static void test_token_once(void **state)
{
    (void)state;
    int64_t now = time(NULL);
    char *token = new_token(now), *other = new_token(now);
    struct identity *w = open_worker("once", token);
    const char *pem = identity_public_key_pem(w), *secret = token + 74;
    // What is refused for another reason does not use it up.
    assert_int_equal(enroll(secret, "Bad Name", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll(secret, "../../etc", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll(secret, "w", "no key", now), ERR_LINK_AUTH);
    assert_int_equal(enroll(secret, "w", "", now), ERR_LINK_AUTH);
    assert_int_equal(enroll(secret, "w", pem, now), OK);
    assert_int_equal(enroll(secret, "w", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll("", "w", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll("../../deep/ca/ca.key/../../aaaaaa", "w", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll("00000000000000000000000000000000", "w", pem, now), ERR_LINK_AUTH);
    assert_int_equal(enroll(other + 74, "w", pem, now), OK); // others are not touched
    identity_close(w);
    free(token);
    free(other);
}

static void test_token_times(void **state)
{
    (void)state;
    int64_t now = time(NULL);
    struct identity *w;
    char *a = new_token(now), *b = new_token(now), *c = new_token(now);
    w = open_worker("late", a);
    const char *pem = identity_public_key_pem(w);
    assert_int_equal(enroll(a + 74, "w", pem, now + IDENTITY_TOKEN_TTL_S + 1), ERR_LINK_AUTH);
    assert_int_equal(enroll(a + 74, "w", pem, now + IDENTITY_TOKEN_TTL_S), OK);
    // A clock that jumped back gives nobody more time.
    assert_int_equal(enroll(b + 74, "w", pem, now - 3600), ERR_LINK_AUTH);
    assert_int_equal(enroll(b + 74, "w", pem, now - 60), OK);
    // Expired ones are swept away when the next one is made.
    char *d = new_token(now + 2 * IDENTITY_TOKEN_TTL_S);
    assert_int_equal(enroll(c + 74, "w", pem, now), ERR_LINK_AUTH);
    identity_close(w);
    free(a);
    free(b);
    free(c);
    free(d);
}

struct race {
    const char *secret, *pem;
    int n_ok;
};

static void *race_main(void *arg)
{
    struct race *r = arg;
    struct buf cert = {0};
    if (identity_enroll(ca, r->secret, "racer", r->pem, time(NULL), &cert, NULL) == OK)
        __atomic_fetch_add(&r->n_ok, 1, __ATOMIC_RELAXED);
    buf_fini(&cert);
    return NULL;
}

static void test_token_race(void **state)
{
    (void)state;
    char *token = new_token(time(NULL));
    struct identity *w = open_worker("race", token);
    struct race r = {token + 74, identity_public_key_pem(w), 0};
    pthread_t t[8];
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&t[i], NULL, race_main, &r), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(r.n_ok, 1);
    identity_close(w);
    free(token);
}

// -- certificates --

static void test_accept(void **state)
{
    (void)state;
    struct err_text why;
    struct buf mine = {0}, others = {0};
    char *t1 = new_token(time(NULL)), *t2 = new_token(time(NULL));
    struct identity *w = open_worker("acc", t1), *o = open_worker("acc-other", t2), *ca2;
    assert_int_equal(identity_open_coordinator(in_base("ca2"), "home", &ca2, &why), OK);
    assert_int_equal(
        identity_enroll(ca, t1 + 74, "acc", identity_public_key_pem(w), time(NULL), &mine, &why),
        OK);
    assert_int_equal(identity_enroll(ca, t2 + 74, "acc-other", identity_public_key_pem(o),
                                     time(NULL), &others, &why),
                     OK);
    const char *ca_pem = identity_ca_pem(ca);
    assert_int_equal(identity_accept(w, others.data, ca_pem, &why), ERR_LINK_AUTH);
    assert_int_equal(identity_accept(w, mine.data, identity_ca_pem(ca2), &why), ERR_LINK_AUTH);
    assert_int_equal(identity_accept(w, "no", ca_pem, &why), ERR_CONFIG);
    assert_int_equal(identity_accept(w, mine.data, "no", &why), ERR_CONFIG);
    assert_int_equal(identity_accept(w, ca_pem, ca_pem, &why), ERR_LINK_AUTH);
    assert_false(identity_is_enrolled(w));
    assert_int_not_equal(access(in_base("acc/worker.pem"), F_OK), 0);
    assert_int_equal(identity_accept(w, mine.data, ca_pem, &why), OK);
    assert_int_equal(mode_of(in_base("acc/worker.pem")), 0600);
    assert_int_equal(mode_of(in_base("acc/ca.pem")), 0600);
    assert_int_equal(identity_accept(w, mine.data, ca_pem, &why), ERR_INVALID); // it has one
    identity_close(w);
    // The folder knows its cluster: a token for another one is a mistake, not a wish.
    struct buf alien = {0};
    assert_int_equal(identity_token_new(in_base("ca2"), time(NULL), &alien, &why), OK);
    assert_int_equal(identity_open_worker(in_base("acc"), alien.data, &w, &why), ERR_CONFIG);
    assert_int_equal(identity_open_worker(in_base("acc"), t2, &w, &why), OK);
    assert_true(identity_is_enrolled(w));
    identity_close(w);
    identity_close(o);
    identity_close(ca2);
    buf_fini(&mine);
    buf_fini(&others);
    buf_fini(&alien);
    free(t1);
    free(t2);
}

static void test_lifetime(void **state)
{
    (void)state;
    int64_t now = time(NULL);
    struct err_text why;
    struct buf pem = {0};
    char *token = new_token(now), name[64];
    size_t n = sizeof name;
    struct identity *w = open_worker("life", token);
    assert_int_equal(
        identity_enroll(ca, token + 74, "life", identity_public_key_pem(w), now, &pem, &why), OK);
    gnutls_x509_crt_t crt;
    gnutls_datum_t d = {(unsigned char *)pem.data, (unsigned)pem.len};
    gnutls_x509_crt_init(&crt);
    assert_int_equal(gnutls_x509_crt_import(crt, &d, GNUTLS_X509_FMT_PEM), 0);
    assert_int_equal(gnutls_x509_crt_get_expiration_time(crt), now + 90 * 86400);
    assert_int_equal(gnutls_x509_crt_get_activation_time(crt), now - 86400);
    assert_int_equal(
        gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &n), 0);
    assert_string_equal(name, "life");
    unsigned critical;
    assert_int_equal(gnutls_x509_crt_get_ca_status(crt, &critical), 0); // cannot sign others
    gnutls_x509_crt_deinit(crt);
    identity_close(w);
    buf_fini(&pem);
    free(token);
    // One that has expired: join again, with the same key.
    token = new_token(now - 91 * 86400);
    w = open_worker("old", token);
    char *key = strdup(identity_public_key_pem(w));
    assert_int_equal(identity_enroll(ca, token + 74, "old", key, now - 91 * 86400, &pem, &why), OK);
    assert_int_equal(identity_accept(w, pem.data, identity_ca_pem(ca), &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "expired"));
    identity_close(w);
    assert_int_equal(identity_write_file(in_base("old/worker.pem"), pem.data, pem.len, &why), OK);
    assert_int_equal(identity_write_file(in_base("old/ca.pem"), identity_ca_pem(ca),
                                         strlen(identity_ca_pem(ca)), &why),
                     OK);
    assert_int_equal(identity_open_worker(in_base("old"), NULL, &w, &why), ERR_CONFIG);
    w = open_worker("old", token);
    assert_false(identity_is_enrolled(w));
    assert_string_equal(identity_public_key_pem(w), key);
    identity_close(w);
    buf_fini(&pem);
    free(token);
    free(key);
}

// -- renewal --

enum { DAY = 86400 };

// A worker with a certificate that it got so many days ago.
static struct identity *enrolled_since(const char *name, int days)
{
    const int64_t then = time(NULL) - (int64_t)days * DAY;
    struct err_text why;
    struct buf pem = {0};
    char *token = new_token(then);
    struct identity *w = open_worker(name, token);
    if (identity_enroll(ca, token + 74, name, identity_public_key_pem(w), then, &pem, &why) ||
        identity_accept(w, pem.data, identity_ca_pem(ca), &why))
        fail_msg("%s", why.s);
    buf_fini(&pem);
    free(token);
    return w;
}

static void test_renewal(void **state)
{
    (void)state;
    const int64_t now = time(NULL);
    struct err_text why;
    struct buf pem = {0}, other = {0};
    struct identity *w = enrolled_since("renew", 55);
    char *before = slurp(in_base("renew/worker.pem"));
    assert_int_equal(identity_renewed(w, before, &why), ERR_INVALID); // nobody asked
    // In the last third of its life, and then once an hour.
    assert_null(identity_renewal(w, now));
    assert_null(identity_renewal(w, now + 4 * DAY));
    const char *request = identity_renewal(w, now + 6 * DAY);
    assert_non_null(request);
    assert_null(identity_renewal(w, now + 6 * DAY + 3599));
    assert_ptr_equal(identity_renewal(w, now + 6 * DAY + 3600), request);
    assert_non_null(identity_renewal(w, now + 6 * DAY)); // a clock that went back
    // What is not our name, key or authority changes nothing.
    assert_int_equal(identity_renew(ca, "robber", request, now, &other, &why), OK);
    assert_int_equal(identity_renewed(w, other.data, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "another name"));
    buf_clear(&other);
    struct identity *o = enrolled_since("robber", 80), *ca2;
    assert_int_equal(identity_renew(ca, "renew", identity_renewal(o, now), now, &other, &why), OK);
    assert_int_equal(identity_renewed(w, other.data, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "another key"));
    buf_clear(&other);
    assert_int_equal(identity_open_coordinator(in_base("ca-renew"), "home", &ca2, &why), OK);
    assert_int_equal(identity_renew(ca2, "renew", request, now, &other, &why), OK);
    assert_int_equal(identity_renewed(w, other.data, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "another authority"));
    assert_int_equal(identity_renewed(w, "no certificate", &why), ERR_CONFIG);
    assert_int_equal(identity_renew(ca, "renew", request, now - 91 * DAY, &pem, &why), OK);
    assert_int_equal(identity_renewed(w, pem.data, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "expired"));
    char *still = slurp(in_base("renew/worker.pem"));
    assert_string_equal(still, before);
    assert_false(identity_is_stale(w));
    // The right one is kept, and the next opening uses it.
    buf_clear(&pem);
    assert_int_equal(identity_renew(ca, "renew", request, now, &pem, &why), OK);
    assert_int_equal(identity_renewed(w, pem.data, &why), OK);
    assert_true(identity_is_stale(w) && identity_is_enrolled(w));
    assert_int_equal(identity_expires(w), now + 90 * DAY);
    assert_null(identity_renewal(w, now + 6 * DAY));
    assert_int_equal(identity_renewed(w, pem.data, &why), ERR_INVALID);
    char *after = slurp(in_base("renew/worker.pem"));
    assert_string_equal(after, pem.data);
    assert_int_equal(mode_of(in_base("renew/worker.pem")), 0600);
    identity_close(w);
    w = open_worker("renew", NULL);
    assert_true(identity_is_enrolled(w) && !identity_is_stale(w));
    assert_int_equal(identity_expires(w), now + 90 * DAY);
    identity_close(w);
    identity_close(o);
    identity_close(ca2);
    buf_fini(&pem);
    buf_fini(&other);
    free(before);
    free(still);
    free(after);
}

// A short life: a request when a third of it is left, and then each second.
static void test_short_life(void **state)
{
    (void)state;
    const int64_t now = time(NULL);
    identity_set_life(ca, 30);
    struct identity *w = enrolled_since("short", 0);
    identity_set_life(ca, IDENTITY_LIFE_S);
    assert_null(identity_renewal(w, now + 18));
    assert_non_null(identity_renewal(w, now + 22));
    assert_null(identity_renewal(w, now + 22));
    assert_non_null(identity_renewal(w, now + 23));
    assert_non_null(identity_renewal(w, now + 1000)); // as long as a connection is there to ask
    identity_close(w);
}

// A request over another kind of key, signed with it.
static void foreign_request(struct buf *pem)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crq_t crq;
    gnutls_datum_t d;
    gnutls_x509_privkey_init(&key);
    gnutls_x509_crq_init(&crq);
    assert_int_equal(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, 256, 0), 0);
    gnutls_x509_crq_set_version(crq, 1);
    assert_int_equal(gnutls_x509_crq_set_key(crq, key), 0);
    assert_int_equal(gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0), 0);
    assert_int_equal(gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &d), 0);
    buf_add(pem, d.data, d.size);
    gnutls_free(d.data);
    gnutls_x509_crq_deinit(crq);
    gnutls_x509_privkey_deinit(key);
}

static void test_bad_requests(void **state)
{
    (void)state;
    const int64_t now = time(NULL);
    struct err_text why;
    struct buf pem = {0}, foreign = {0};
    struct identity *w = enrolled_since("asker", 80);
    char *request = strdup(identity_renewal(w, now));
    assert_int_equal(identity_renew(w, "asker", request, now, &pem, &why), ERR_INVALID);
    assert_int_equal(identity_renew(ca, "../asker", request, now, &pem, &why), ERR_LINK_AUTH);
    assert_int_equal(identity_renew(ca, "asker", "", now, &pem, &why), ERR_LINK_AUTH);
    assert_int_equal(identity_renew(ca, "asker", "hello", now, &pem, &why), ERR_LINK_AUTH);
    assert_int_equal(identity_renew(ca, "asker", identity_ca_pem(ca), now, &pem, &why),
                     ERR_LINK_AUTH);
    foreign_request(&foreign);
    assert_int_equal(identity_renew(ca, "asker", foreign.data, now, &pem, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "Ed25519"));
    // One whose signature or key was altered: each letter of its text in turn.
    char *at = strchr(request, '\n') + 1;
    for (; *at != '-'; at += 7) {
        const char was = *at;
        if (was == '\n' || was == '=') continue;
        *at = was == 'A' ? 'B' : 'A';
        assert_int_equal(identity_renew(ca, "asker", request, now, &pem, &why), ERR_LINK_AUTH);
        *at = was;
    }
    assert_int_equal(pem.len, 0);
    assert_int_equal(identity_renew(ca, "asker", request, now, &pem, &why), OK);
    identity_close(w);
    buf_fini(&pem);
    buf_fini(&foreign);
    free(request);
}

// By its own clock expired: how to get in again, unless the clocks may differ.
static void test_expired(void **state)
{
    (void)state;
    struct err_text why;
    struct identity *w;
    struct buf pem = {0};
    const int64_t now = time(NULL);
    w = enrolled_since("past", 80);
    const char *request = identity_renewal(w, now);
    assert_int_equal(identity_renew(ca, "past", request, now - 90 * DAY - 3600, &pem, &why), OK);
    identity_close(w);
    assert_int_equal(identity_write_file(in_base("past/worker.pem"), pem.data, pem.len, &why), OK);
    w = open_worker("past", NULL); // the coordinator's clock decides
    assert_true(identity_is_enrolled(w));
    request = identity_renewal(w, now);
    buf_clear(&pem);
    assert_int_equal(identity_renew(ca, "past", request, now - 92 * DAY, &pem, &why), OK);
    identity_close(w);
    assert_int_equal(identity_write_file(in_base("past/worker.pem"), pem.data, pem.len, &why), OK);
    assert_int_equal(identity_open_worker(in_base("past"), NULL, &w, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "expired on 20"));
    assert_non_null(strstr(why.s, "trireme token new"));
    assert_non_null(strstr(why.s, "--token-file"));
    char *token = new_token(now);
    w = open_worker("past", token);
    assert_false(identity_is_enrolled(w));
    identity_close(w);
    buf_fini(&pem);
    free(token);
}

// -- the roll --

struct seen {
    const char *name;
    uint32_t n, n_good;
    bool is_revoked;
    int64_t expires_s;
};

static void see(void *arg, const struct identity_worker *w)
{
    struct seen *s = arg;
    assert_true(strlen(w->serial) == 32 && w->issued_s <= w->expires_s);
    if (strcmp(w->name, s->name) != 0) return;
    s->n++;
    s->n_good = w->n_good;
    s->is_revoked = w->is_revoked;
    s->expires_s = w->expires_s;
}

static struct seen look_up(const char *name, int64_t now)
{
    struct seen s = {.name = name};
    struct err_text why;
    assert_int_equal(identity_workers(in_base("deep/ca"), now, see, &s, &why), OK);
    return s;
}

static void test_roll(void **state)
{
    (void)state;
    const int64_t now = time(NULL);
    struct err_text why;
    struct buf pem = {0};
    struct identity *w = enrolled_since("roll", 80);
    char *request = strdup(identity_renewal(w, now));
    struct seen s = look_up("roll", now);
    assert_true(s.n == 1 && s.n_good == 1 && !s.is_revoked && s.expires_s == now + 10 * DAY);
    assert_int_equal(identity_renew(ca, "roll", request, now, &pem, &why), OK);
    s = look_up("roll", now);
    assert_true(s.n == 1 && s.n_good == 2 && s.expires_s == now + 90 * DAY);
    assert_int_equal(look_up("roll", now + 11 * DAY).n_good, 1);
    assert_int_equal(look_up("nobody", now).n, 0);
    // It does not grow without end, and is read whatever somebody wrote into it.
    for (int i = 0; i < 70; i++)
        assert_int_equal(identity_renew(ca, "roll", request, now, &pem, &why), OK);
    assert_int_equal(look_up("roll", now).n_good, 64);
    static const char odd[] = "rubbish\n\n0f 1 zwei\n00112233445566778899aabbccddeeff 1 2\nend";
    assert_int_equal(identity_write_file(in_base("deep/ca/roll/odd"), odd, sizeof odd - 1, &why),
                     OK);
    s = look_up("odd", 1);
    assert_true(s.n == 1 && s.n_good == 1 && s.expires_s == 2);
    assert_int_equal(unlink(in_base("deep/ca/roll/odd")), 0);
    // Revoked: no other certificate and no token, until that is taken back.
    bool was;
    assert_int_equal(identity_revoke(in_base("deep/ca"), "../x", true, &was, &why), ERR_INVALID);
    assert_int_equal(identity_revoke(in_base("deep"), "roll", true, &was, &why), ERR_CONFIG);
    assert_int_equal(identity_revoke(in_base("deep/ca"), "roll", true, &was, &why), OK);
    assert_false(was);
    assert_int_equal(identity_revoke(in_base("deep/ca"), "roll", true, &was, &why), OK);
    assert_true(was && look_up("roll", now).is_revoked);
    assert_int_equal(mode_of(in_base("deep/ca/revoked")), 0700);
    assert_int_equal(identity_renew(ca, "roll", request, now, &pem, &why), ERR_LINK_AUTH);
    assert_non_null(strstr(why.s, "revoked"));
    char *token = new_token(now);
    assert_int_equal(enroll(token + 74, "roll", identity_public_key_pem(w), now), ERR_LINK_AUTH);
    assert_int_equal(identity_revoke(in_base("deep/ca"), "roll", false, &was, &why), OK);
    assert_true(was && !look_up("roll", now).is_revoked);
    assert_int_equal(enroll(token + 74, "roll", identity_public_key_pem(w), now), OK);
    identity_close(w);
    buf_fini(&pem);
    free(request);
    free(token);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),      cmocka_unit_test(test_open_to_others),
        cmocka_unit_test(test_same_again), cmocka_unit_test(test_broken_folders),
        cmocka_unit_test(test_write_file), cmocka_unit_test(test_token_text),
        cmocka_unit_test(test_token_once), cmocka_unit_test(test_token_times),
        cmocka_unit_test(test_token_race), cmocka_unit_test(test_accept),
        cmocka_unit_test(test_lifetime),   cmocka_unit_test(test_renewal),
        cmocka_unit_test(test_short_life), cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_expired),    cmocka_unit_test(test_roll),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
