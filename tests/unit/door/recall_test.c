// Where a prompt parts from the history that it goes on with.
#include "coordinator/door/recall.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

// The ids first, first + 1, ..; from `at` on other ones. `made` more tokens were generated.
static struct request *history(const char *id, uint64_t tenant, uint64_t session, int32_t first,
                               uint32_t n, uint32_t at, uint32_t made)
{
    struct request *r = request_new(1 << 24);
    assert_non_null(r);
    int32_t *ids = arena_take_n(&r->arena, n, sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = first + (int32_t)i + (i >= at ? 5000 : 0);
    snprintf(r->id, sizeof r->id, "%s", id);
    r->tenant = tenant;
    r->session = session;
    r->prompt = ids;
    r->n_prompt = n;
    r->max_tokens = made + 1;
    assert_int_equal(request_init_choices(r, 1), OK);
    for (uint32_t i = 0; i < made; i++)
        r->choices[0].generated[i] = first + (int32_t)(n + i);
    r->choices[0].n_generated = made;
    return r;
}

static void keep(struct recall *r, struct request *req)
{
    recall_keep(r, req);
    request_free(req);
}

static bool look(struct recall *r, struct request *req, struct recall_miss *m)
{
    const bool parts = recall_look(r, req, m);
    request_free(req);
    return parts;
}

static void conversations(void **state)
{
    (void)state;
    struct recall_miss m;
    struct recall *r = recall_new();
    keep(r, history("one", 1, 7, 0, 100, 999, 20));
    keep(r, history("title", 1, 7, 900, 30, 999, 5));
    // It goes on, or all but the last token of it; it is shorter.
    assert_false(look(r, history("x", 1, 7, 0, 150, 999, 0), &m));
    assert_false(look(r, history("x", 1, 7, 0, 150, 119, 0), &m));
    assert_false(look(r, history("x", 1, 7, 0, 60, 999, 0), &m));
    // It parts inside what was generated, and inside the prompt.
    assert_true(look(r, history("x", 1, 7, 0, 150, 118, 0), &m));
    assert_string_equal(m.id, "one");
    assert_int_equal(m.at, 118);
    assert_int_equal(m.n_known, 120);
    assert_int_equal(m.was, 118);
    assert_int_equal(m.is, 5118);
    assert_true(look(r, history("x", 1, 7, 0, 150, 40, 0), &m));
    assert_int_equal(m.at, 40);
    // Nothing in common worth a word; another conversation; another tenant.
    assert_false(look(r, history("x", 1, 7, 0, 150, 10, 0), &m));
    assert_false(look(r, history("x", 1, 8, 0, 150, 40, 0), &m));
    assert_false(look(r, history("x", 2, 7, 0, 150, 40, 0), &m));
    // Without a name: the one that has most of it.
    keep(r, history("two", 1, 0, 0, 100, 999, 20));
    assert_false(look(r, history("x", 1, 0, 0, 150, 40, 0), &m));
    assert_true(look(r, history("x", 1, 0, 0, 150, 110, 0), &m));
    assert_string_equal(m.id, "two");
    recall_free(r);
}

static void bounds(void **state)
{
    (void)state;
    struct recall_miss m;
    struct recall *r = recall_new();
    for (int i = 0; i < 3 * RECALL_HISTORIES; i++)
        keep(r, history("old", 1, 7, 0, 100, 999, 0));
    for (int i = 0; i < 20; i++)
        keep(r, history("large", 1, 9, i, RECALL_TOKENS_MAX / 4, UINT32_MAX, 0));
    keep(r, history("huge", 1, 9, 0, RECALL_TOKENS_MAX + 1, UINT32_MAX, 0));
    assert_false(look(r, history("x", 1, 7, 0, 150, 40, 0), &m)); // gone
    assert_true(look(r, history("x", 1, 9, 19, 150, 40, 0), &m));
    assert_string_equal(m.id, "large");
    recall_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
