#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/schedule/pages.h"

static struct arena arena;

static struct pages make(uint32_t n_page, uint32_t page_tok, bool cache)
{
    struct pages p;
    arena_init(&arena, 0);
    assert_int_equal(pages_init(&p, &arena, n_page, page_tok, cache), OK);
    return p;
}

static void end(struct pages *p)
{
    assert_null(pages_check(p));
    arena_fini(&arena);
}

static void test_take_give(void **state)
{
    (void)state;
    struct pages p = make(3, 4, false);
    uint32_t got[3], more;
    for (uint32_t i = 0; i < 3; i++)
        assert_true(pages_take(&p, &got[i]));
    assert_false(pages_take(&p, &more));
    assert_int_equal(got[0] + got[1] + got[2], 3); // 0, 1, 2 in some order
    assert_int_not_equal(got[0], got[1]);
    assert_int_equal(pages_room(&p), 0);
    pages_give(&p, got[1]);
    assert_true(pages_take(&p, &more));
    assert_int_equal(more, got[1]);
    const int32_t ids[4] = {1, 2, 3, 4};
    struct pages_key k = {0};
    pages_list(&p, &k, ids, got[0]); // without a cache nothing is ever found
    assert_false(pages_find(&p, &k, ids, &more));
    end(&p);
}

// Lists the pages of ids (n_page * 2 tokens) and gives them back from the end.
static void remember(struct pages *p, uint64_t tenant, const int32_t *ids, uint32_t n_page)
{
    struct pages_key k = {.tenant = tenant};
    uint32_t page[8];
    for (uint32_t i = 0; i < n_page; i++) {
        assert_true(pages_take(p, &page[i]));
        pages_list(p, &k, ids + 2 * i, page[i]);
    }
    while (n_page)
        pages_give(p, page[--n_page]);
    assert_null(pages_check(p));
}

static uint32_t find(struct pages *p, uint64_t tenant, const int32_t *ids, uint32_t n_page,
                     uint32_t *page)
{
    struct pages_key k = {.tenant = tenant};
    uint32_t n = 0;
    while (n < n_page && pages_find(p, &k, ids + 2 * n, &page[n]))
        n++;
    assert_null(pages_check(p));
    return n;
}

static void give(struct pages *p, uint32_t *page, uint32_t n)
{
    while (n)
        pages_give(p, page[--n]);
}

static void test_prefix(void **state)
{
    (void)state;
    struct pages p = make(8, 2, true);
    const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 9, 9}, c[] = {3, 4};
    uint32_t got[8], again[8];
    remember(&p, 7, a, 3);
    assert_int_equal(p.n_idle, 3);
    assert_int_equal(find(&p, 7, a, 3, got), 3);
    assert_int_equal(find(&p, 7, a, 3, again), 3);
    assert_memory_equal(got, again, 3 * sizeof *got); // shared
    assert_int_equal(p.ref[got[0]], 2);
    give(&p, again, 3);
    give(&p, got, 3);
    assert_int_equal(find(&p, 7, b, 2, got), 1); // common start only
    give(&p, got, 1);
    assert_int_equal(find(&p, 7, c, 1, got), 0); // same tokens, other place
    assert_int_equal(find(&p, 8, a, 3, got), 0); // another tenant
    end(&p);
}

static void test_eviction(void **state)
{
    (void)state;
    struct pages p = make(5, 2, true);
    const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9, 10};
    uint32_t got[8], taken[5];
    remember(&p, 0, a, 3);
    remember(&p, 0, b, 2);
    assert_int_equal(p.n_free, 0);
    // The oldest idle goes first, and of a chain its end.
    assert_true(pages_take(&p, &taken[0]));
    assert_int_equal(find(&p, 0, a, 3, got), 2);
    give(&p, got, 2); // now newer than b
    assert_true(pages_take(&p, &taken[1]));
    assert_true(pages_take(&p, &taken[2]));
    assert_int_equal(find(&p, 0, b, 2, got), 0);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    assert_false(pages_take(&p, &taken[3])); // held pages are never taken
    give(&p, got, 2);
    give(&p, taken, 3);
    assert_int_equal(pages_room(&p), 5);
    end(&p);
}

static void test_same_twice(void **state)
{
    (void)state;
    struct pages p = make(6, 2, true);
    const int32_t a[] = {1, 2, 3, 4};
    struct pages_key k1 = {0}, k2 = {0};
    uint32_t page[4], got[2];
    for (uint32_t i = 0; i < 4; i++)
        assert_true(pages_take(&p, &page[i]));
    // Two compute the same at the same time: the first stays, the second continues behind it.
    pages_list(&p, &k1, a, page[0]);
    pages_list(&p, &k2, a, page[1]);
    assert_int_equal(k1.last, k2.last);
    pages_list(&p, &k2, a + 2, page[2]);
    give(&p, page, 4);
    assert_int_equal(pages_room(&p), 6);
    assert_int_equal(p.n_idle, 2);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    assert_int_equal(got[0], page[0]);
    assert_int_equal(got[1], page[2]);
    give(&p, got, 2);
    end(&p);
}

static void test_unlist(void **state)
{
    (void)state;
    struct pages p = make(4, 2, true);
    const int32_t a[] = {1, 2, 3, 4};
    uint32_t got[2];
    remember(&p, 0, a, 2);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    pages_unlist(&p, got[0]); // held
    assert_null(pages_check(&p));
    pages_give(&p, got[0]);
    pages_give(&p, got[1]);
    pages_unlist(&p, got[1]); // idle
    pages_unlist(&p, got[1]); // nothing to do
    assert_int_equal(p.n_free, 4);
    assert_int_equal(find(&p, 0, a, 2, got), 0);
    end(&p);
}

static void test_memory(void **state)
{
    (void)state;
    struct pages p = {.n_page = 77};
    struct arena a;
    arena_init(&a, 1000);
    assert_int_equal(pages_init(&p, &a, 1000, 32, true), ERR_MEMORY);
    assert_int_equal(p.n_page, 77); // written only on success
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_give), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_eviction),  cmocka_unit_test(test_same_twice),
        cmocka_unit_test(test_unlist),    cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
