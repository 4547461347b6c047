// H21, H22: keys, the brake on guessing, and that the time taken tells nothing.
#include "coordinator/door/auth.h"
#include "coordinator/door/hosts.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include <time.h>

static const char *const keys[] = {"sk-one-0123456789abcdef", "sk-two", NULL};
static const struct auth_addr here = {.b = {[10] = 0xff, 0xff, 127, 0, 0, 1}, .loopback = true};

static void right_and_wrong(void **state)
{
    (void)state;
    struct auth a;
    struct auth_key *t1 = NULL, *t2 = NULL;
    assert_int_equal(auth_open(&a, keys, NULL), OK);
    assert_int_equal(auth_check(&a, &here, "Bearer sk-two", NULL, 0, &t1), AUTH_OK);
    assert_int_equal(auth_check(&a, &here, "bEARER sk-two", NULL, 0, &t2), AUTH_OK);
    assert_true(t1 == t2 && t1->tenant != 0);
    assert_string_equal(t1->name, "key-2");
    assert_true(t1->is_admin);
    assert_int_equal(auth_check(&a, &here, NULL, keys[0], 0, &t2), AUTH_OK);
    assert_true(t1 != t2 && t1->tenant != t2->tenant);
    assert_int_equal(auth_check(&a, &here, "Bearer no", "sk-two", 0, &t2), AUTH_OK);
    static const char *const bad[] = {"",
                                      "Bearer",
                                      "Bearer ",
                                      "Bearer  sk-two",
                                      "Bearer sk-two ",
                                      "Basic sk-two",
                                      "sk-two",
                                      "Bearer sk-tw",
                                      "Bearer sk-twoo"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(auth_check(&a, &here, bad[i], NULL, (int64_t)i * 2000000, &t2),
                         AUTH_WRONG);
    auth_close(&a);
    static const char *const empty[] = {"x", "", NULL};
    assert_int_equal(auth_open(&a, empty, NULL), ERR_CONFIG);
    assert_int_equal(auth_open(&a, NULL, NULL), OK);
    assert_int_equal(auth_check(&a, &here, NULL, NULL, 0, &t2), AUTH_NONE);
    assert_null(t2);
    auth_close(&a);
}

static void too_many(void **state)
{
    (void)state;
    struct auth a;
    struct auth_key *t;
    struct auth_addr other = here;
    other.b[15] = 9;
    assert_int_equal(auth_open(&a, keys, NULL), OK);
    for (int i = 0; i < 100; i++) // no key at all is no guess
        assert_int_equal(auth_check(&a, &here, NULL, NULL, 0, &t), AUTH_WRONG);
    for (int i = 0; i < AUTH_WRONG_MAX; i++)
        assert_int_equal(auth_check(&a, &here, NULL, "guess", i, &t), AUTH_WRONG);
    assert_int_equal(auth_check(&a, &here, NULL, "guess", 10, &t), AUTH_TOO_MANY);
    assert_int_equal(auth_check(&a, &here, NULL, "sk-two", 999999, &t), AUTH_TOO_MANY);
    assert_int_equal(auth_check(&a, &other, NULL, "sk-two", 10, &t), AUTH_OK);
    assert_int_equal(auth_check(&a, &here, NULL, "sk-two", 1000000, &t), AUTH_OK);
    auth_close(&a);
}

static void lines(void **state)
{
    (void)state;
    // printf %s sk-two | sha256sum
    static const char *const good[] = {
        "sk-one\tname=anna concurrency=2  rate=30/min priority=-7",
        "sha256:5E31278545505db1d65bf1dd696e8eaa1edfb00ba455e21c83200c04ef643c91 name=x.y_z-1 "
        "admin",
        " sk-three # admin", NULL};
    struct auth a;
    struct auth_key *k = NULL;
    assert_int_equal(auth_open(&a, good, NULL), OK);
    assert_int_equal(auth_check(&a, &here, "Bearer sk-one", NULL, 0, &k), AUTH_OK);
    assert_string_equal(k->name, "anna");
    assert_int_equal(k->limit.at_once, 2);
    assert_int_equal(k->limit.per_min, 30);
    assert_int_equal(k->priority, -7);
    assert_false(k->is_admin);
    assert_int_equal(auth_check(&a, &here, "Bearer sk-two", NULL, 0, &k), AUTH_OK);
    assert_string_equal(k->name, "x.y_z-1");
    assert_true(k->is_admin);
    assert_int_equal(k->limit.at_once, 0);
    assert_int_equal(auth_check(&a, &here, "Bearer sk-three", NULL, 0, &k), AUTH_OK);
    assert_string_equal(k->name, "key-3");
    assert_false(k->is_admin);
    // The hash is no key.
    assert_int_equal(
        auth_check(&a, &here, NULL,
                   "sha256:5e31278545505db1d65bf1dd696e8eaa1edfb00ba455e21c83200c04ef643c91", 0,
                   &k),
        AUTH_WRONG);
    auth_close(&a);
}

static void wrong_lines(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "sk-secret-1 nmae=x",
        "sk-secret-1 name=",
        "sk-secret-1 name=a/b",
        "sk-secret-1 name=a\"b",
        "sk-secret-1 name=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-secret-1 concurrency=0",
        "sk-secret-1 concurrency=",
        "sk-secret-1 concurrency=-1",
        "sk-secret-1 concurrency=1x",
        "sk-secret-1 concurrency=100001",
        "sk-secret-1 concurrency=4294967297",
        "sk-secret-1 rate=5",
        "sk-secret-1 priority=",
        "sk-secret-1 priority=-",
        "sk-secret-1 priority=1000001",
        "sk-secret-1 priority=+1",
        "sk-secret-1 rate=5/s",
        "sk-secret-1 rate=0/min",
        "sk-secret-1 rate=/min",
        "sk-secret-1 rate=5/minute",
        "sk-secret-1 Admin",
        "sk-secret-1 secret-2",
        "sha256:secret",
        "sha256:",
        " \t",
        "sha256:5e31278545505db1d65bf1dd696e8eaa1edfb00ba455e21c83200c04ef643c91a",
        "sk-first",
        "sk-secret-1 name=key-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *const both[] = {"sk-first", bad[i], NULL};
        struct auth a;
        struct err_text why = {.s = ""};
        assert_int_equal(auth_open(&a, both, &why), ERR_CONFIG);
        assert_non_null(strstr(why.s, "2"));
        assert_null(strstr(why.s, "secret"));
    }
}

static void a_v6_network_is_one_address(void **state)
{
    (void)state;
    struct auth a;
    struct auth_addr x = {.b = {0x20, 1, 0xd, 0xb8, 1, 2, 3, 4}};
    assert_int_equal(auth_open(&a, keys, NULL), OK);
    for (int i = 0; i < AUTH_WRONG_MAX; i++) {
        x.b[15] = (uint8_t)i;
        auth_count_wrong(&a, &x, 0);
    }
    x.b[15] = 77;
    assert_true(auth_is_blocked(&a, &x, 5));
    x.b[7] = 9;
    assert_false(auth_is_blocked(&a, &x, 5));
    auth_close(&a);
}

static double ns_of(struct auth *a, const char *key)
{
    struct timespec s, e;
    struct auth_key *t;
    clock_gettime(CLOCK_MONOTONIC, &s);
    auth_check(a, &here, NULL, key, INT64_MIN, &t);
    clock_gettime(CLOCK_MONOTONIC, &e);
    a->wrong[0] = (struct auth_wrong){.n = 0};
    memset(a->wrong, 0, sizeof a->wrong);
    return (double)(e.tv_sec - s.tv_sec) * 1e9 + (double)(e.tv_nsec - s.tv_nsec);
}

// Welch's t of wrong-at-the-first against wrong-at-the-last byte, interrupted calls left out.
static double welch(struct auth *a)
{
    enum { N = 20000 };
    static const char *const sides[] = {"xk-one-0123456789abcdef", "sk-one-0123456789abcdex"};
    double sum[2] = {0}, square[2] = {0}, n[2] = {0}, usual = 1e9;
    for (int i = 0; i < 1000; i++) {
        double ns = ns_of(a, sides[i & 1]);
        usual = ns < usual ? ns : usual;
    }
    for (int i = 0; i < 2 * N; i++) {
        double ns = ns_of(a, sides[i & 1]);
        if (ns > 4 * usual) continue; // interrupted
        sum[i & 1] += ns;
        square[i & 1] += ns * ns;
        n[i & 1]++;
    }
    double m0 = sum[0] / n[0], m1 = sum[1] / n[1];
    double v0 = square[0] / n[0] - m0 * m0, v1 = square[1] / n[1] - m1 * m1;
    return fabs(m0 - m1) / sqrt(v0 / n[0] + v1 / n[1]);
}

static void time_tells_nothing(void **state)
{
    (void)state;
    struct auth a;
    assert_int_equal(auth_open(&a, keys, NULL), OK);
    double best = 1e9;
    for (int i = 0; i < 5 && best >= 4.5; i++) {
        double t = welch(&a);
        best = t < best ? t : best;
    }
    print_message("|t| = %.2f\n", best);
    assert_true(best < 4.5);
    auth_close(&a);
}

static void host_names(void **state)
{
    (void)state;
    static const char *const names[] = {"box.lan", "10.0.0.5", NULL};
    struct hosts h = {.names = names};
    assert_true(hosts_allow(&h, "Box.LAN:80", NULL));
    assert_true(hosts_allow(&h, "10.0.0.5", NULL));
    assert_true(hosts_allow(&h, "[2001:db8::1]:80", "2001:db8::1"));
    assert_true(hosts_allow(&h, "192.0.2.7", "192.0.2.7"));
    assert_false(hosts_allow(&h, "192.0.2.7", NULL));
    assert_false(hosts_allow(&h, "", "192.0.2.7"));
    assert_false(hosts_allow(&h, ":80", NULL));
    assert_false(hosts_allow(&h, "[]", NULL));
    assert_false(hosts_allow(&h, "box.lan:80:80", NULL));
    assert_null(hosts_origin(&h, "http://x"));
    h.origins = names;
    assert_null(hosts_origin(&h, NULL));
    assert_string_equal(hosts_origin(&h, "BOX.lan"), "box.lan");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_and_wrong),
        cmocka_unit_test(too_many),
        cmocka_unit_test(lines),
        cmocka_unit_test(wrong_lines),
        cmocka_unit_test(a_v6_network_is_one_address),
        cmocka_unit_test(time_tells_nothing),
        cmocka_unit_test(host_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
