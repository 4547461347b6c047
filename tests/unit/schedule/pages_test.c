#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/schedule/pages.h"

static struct arena arena;

static struct pages make(uint32_t n_page, uint32_t n_local, uint32_t n_snapshot, bool cache)
{
    struct pages p;
    const struct pages_config c = {
        .n = {n_page, n_local, n_snapshot}, .page_tok = 2, .cache = cache};
    arena_init(&arena, 0);
    assert_int_equal(pages_init(&p, &arena, &c), OK);
    return p;
}

static bool take(struct pages *p, uint32_t *page)
{
    return pages_take(p, PAGES_GLOBAL, page);
}

static void give_one(struct pages *p, uint32_t page)
{
    pages_give(p, PAGES_GLOBAL, page, false);
}

static void end(struct pages *p)
{
    assert_null(pages_check(p));
    arena_fini(&arena);
}

static void test_take_give(void **state)
{
    (void)state;
    struct pages p = make(3, 0, 0, false);
    uint32_t got[3], more;
    for (uint32_t i = 0; i < 3; i++)
        assert_true(take(&p, &got[i]));
    assert_false(take(&p, &more));
    assert_int_equal(got[0] + got[1] + got[2], 3); // 0, 1, 2 in some order
    assert_int_not_equal(got[0], got[1]);
    assert_int_equal(pages_room(&p, PAGES_GLOBAL), 0);
    give_one(&p, got[1]);
    assert_true(take(&p, &more));
    assert_int_equal(more, got[1]);
    const int32_t ids[2] = {1, 2};
    struct pages_key k = {0};
    assert_int_equal(pages_find(&p, &k, ids), POOL_NONE); // without a cache nothing is ever found
    pages_unlist(&p, got[0]);
    end(&p);
}

// Lists the pages of ids (n_page * 2 tokens) and gives them back from the end.
static void remember(struct pages *p, uint64_t tenant, const int32_t *ids, uint32_t n_page)
{
    struct pages_key k = {.tenant = tenant};
    uint32_t page[8];
    for (uint32_t i = 0; i < n_page; i++) {
        assert_true(take(p, &page[i]));
        pages_list(p, &k, ids + 2 * i, page[i]);
    }
    while (n_page)
        give_one(p, page[--n_page]);
    assert_null(pages_check(p));
}

static uint32_t find(struct pages *p, uint64_t tenant, const int32_t *ids, uint32_t n_page,
                     uint32_t *page)
{
    struct pages_key k = {.tenant = tenant};
    uint32_t n = 0;
    for (; n < n_page; n++) {
        page[n] = pages_find(p, &k, ids + 2 * n);
        if (page[n] == POOL_NONE) break;
        pages_hold(p, PAGES_GLOBAL, page[n]);
    }
    assert_null(pages_check(p));
    return n;
}

static void give(struct pages *p, uint32_t *page, uint32_t n)
{
    while (n)
        give_one(p, page[--n]);
}

static void test_prefix(void **state)
{
    (void)state;
    struct pages p = make(8, 0, 0, true);
    const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 2, 9, 9}, c[] = {3, 4};
    uint32_t got[8] = {0}, again[8] = {0};
    remember(&p, 7, a, 3);
    assert_int_equal(p.pool[PAGES_GLOBAL].n_idle, 3);
    assert_int_equal(find(&p, 7, a, 3, got), 3);
    assert_int_equal(find(&p, 7, a, 3, again), 3);
    assert_memory_equal(got, again, 3 * sizeof *got); // shared
    assert_int_equal(pool_refs(&p.pool[PAGES_GLOBAL], got[0]), 2);
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
    struct pages p = make(5, 0, 0, true);
    const int32_t a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9, 10};
    uint32_t got[8] = {0}, taken[5] = {0};
    remember(&p, 0, a, 3);
    remember(&p, 0, b, 2);
    assert_int_equal(p.pool[PAGES_GLOBAL].n_free, 0);
    // The oldest idle goes first, and of a chain its end.
    assert_true(take(&p, &taken[0]));
    assert_int_equal(find(&p, 0, a, 3, got), 2);
    give(&p, got, 2); // now newer than b
    assert_true(take(&p, &taken[1]));
    assert_true(take(&p, &taken[2]));
    assert_int_equal(find(&p, 0, b, 2, got), 0);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    assert_false(take(&p, &taken[3])); // held pages are never taken
    give(&p, got, 2);
    give(&p, taken, 3);
    assert_int_equal(pages_room(&p, PAGES_GLOBAL), 5);
    end(&p);
}

static void test_same_twice(void **state)
{
    (void)state;
    struct pages p = make(6, 0, 0, true);
    const int32_t a[] = {1, 2, 3, 4};
    struct pages_key k1 = {0}, k2 = {0};
    uint32_t page[4], got[2] = {0};
    for (uint32_t i = 0; i < 4; i++)
        assert_true(take(&p, &page[i]));
    // Two compute the same at the same time: the first stays, the second continues behind it.
    assert_int_equal(pages_list(&p, &k1, a, page[0]), page[0]);
    assert_int_equal(pages_list(&p, &k2, a, page[1]), page[0]);
    assert_int_equal(k1.last, k2.last);
    pages_list(&p, &k2, a + 2, page[2]);
    give(&p, page, 4);
    assert_int_equal(pages_room(&p, PAGES_GLOBAL), 6);
    assert_int_equal(p.pool[PAGES_GLOBAL].n_idle, 2);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    assert_int_equal(got[0], page[0]);
    assert_int_equal(got[1], page[2]);
    give(&p, got, 2);
    end(&p);
}

static void test_unlist(void **state)
{
    (void)state;
    struct pages p = make(4, 0, 0, true);
    const int32_t a[] = {1, 2, 3, 4};
    uint32_t got[2] = {0};
    remember(&p, 0, a, 2);
    assert_int_equal(find(&p, 0, a, 2, got), 2);
    pages_unlist(&p, got[0]); // held
    assert_null(pages_check(&p));
    give_one(&p, got[0]);
    give_one(&p, got[1]);
    pages_unlist(&p, got[1]); // idle
    pages_unlist(&p, got[1]); // nothing to do
    assert_int_equal(p.pool[PAGES_GLOBAL].n_free, 4);
    assert_int_equal(find(&p, 0, a, 2, got), 0);
    end(&p);
}

// One listed page with a local page and a snapshot, all given back.
static uint32_t attach_both(struct pages *p, const int32_t *ids, uint32_t *with)
{
    struct pages_key k = {0};
    uint32_t page;
    assert_true(take(p, &page));
    assert_int_equal(pages_list(p, &k, ids, page), page);
    for (int kind = PAGES_LOCAL; kind < PAGES_KINDS; kind++) {
        assert_int_equal(pages_attached(p, page, (enum pages_kind)kind), POOL_NONE);
        assert_true(pages_take(p, (enum pages_kind)kind, &with[kind]));
        assert_true(pages_attach(p, page, (enum pages_kind)kind, with[kind]));
        assert_int_equal(pages_attached(p, page, (enum pages_kind)kind), with[kind]);
        assert_null(pages_check(p));
        pages_give(p, (enum pages_kind)kind, with[kind], false);
    }
    give_one(p, page);
    assert_null(pages_check(p));
    return page;
}

static void test_attached(void **state)
{
    (void)state;
    struct pages p = make(2, 2, 2, true);
    const int32_t a[] = {1, 2}, b[] = {3, 4};
    uint32_t with_a[PAGES_KINDS], with_b[PAGES_KINDS], got, more, page;
    uint32_t page_a = attach_both(&p, a, with_a);
    uint32_t page_b = attach_both(&p, b, with_b);
    // Each pool gives up its own oldest, and the page is found without it.
    assert_true(pages_take(&p, PAGES_SNAPSHOT, &got));
    assert_int_equal(got, with_a[PAGES_SNAPSHOT]);
    assert_int_equal(pages_attached(&p, page_a, PAGES_SNAPSHOT), POOL_NONE);
    assert_int_equal(pages_attached(&p, page_a, PAGES_LOCAL), with_a[PAGES_LOCAL]);
    assert_null(pages_check(&p));
    // One that has its own takes no second.
    assert_false(pages_attach(&p, page_b, PAGES_SNAPSHOT, got));
    assert_true(pages_attach(&p, page_a, PAGES_SNAPSHOT, got));
    // A page that goes lets go of what it has: what is held stays held.
    assert_true(take(&p, &page));
    assert_int_equal(page, page_a);
    assert_null(pages_check(&p));
    assert_int_equal(p.pool[PAGES_LOCAL].n_free, 1);
    assert_int_equal(p.pool[PAGES_SNAPSHOT].n_free, 0);
    pages_give(&p, PAGES_SNAPSHOT, got, false);
    assert_int_equal(p.pool[PAGES_SNAPSHOT].n_free, 1);
    pages_unlist(&p, page_b);
    assert_int_equal(p.pool[PAGES_LOCAL].n_free, 2);
    assert_int_equal(p.pool[PAGES_SNAPSHOT].n_free, 2);
    assert_true(pages_take(&p, PAGES_LOCAL, &got));
    assert_true(pages_take(&p, PAGES_LOCAL, &more));
    assert_false(pages_take(&p, PAGES_LOCAL, &more));
    end(&p);
}

// Spare ones go first, the newest of them before the others; who is held again is worth keeping.
static void test_spare(void **state)
{
    (void)state;
    struct pool q;
    uint32_t got, keeper;
    arena_init(&arena, 0);
    assert_int_equal(pool_init(&q, &arena, 4), OK);
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(pool_has_spare(&q));
        assert_true(pool_take(&q, &got, &keeper));
        assert_int_equal(got, i);
        assert_int_equal(keeper, POOL_NONE);
        pool_keep(&q, i, 10 + i);
    }
    assert_false(pool_has_spare(&q));
    assert_false(pool_take(&q, &got, &keeper));
    pool_give(&q, 0, false);
    assert_false(pool_has_spare(&q));
    pool_give(&q, 1, true);
    pool_give(&q, 2, true);
    pool_give(&q, 3, false);
    assert_null(pool_check(&q));
    assert_true(pool_has_spare(&q));
    pool_hold(&q, 2);
    pool_give(&q, 2, false);
    const uint32_t order[] = {1, 0, 3, 2};
    for (int i = 0; i < 4; i++) {
        assert_true(pool_take(&q, &got, &keeper));
        assert_int_equal(got, order[i]);
        assert_int_equal(keeper, 10 + got);
        assert_false(pool_has_spare(&q));
        assert_null(pool_check(&q));
    }
    arena_fini(&arena);
}

static void test_memory(void **state)
{
    (void)state;
    struct pages p = {.page_tok = 77};
    const struct pages_config c = {.n = {1000, 0, 0}, .page_tok = 32, .cache = true};
    struct arena a;
    arena_init(&a, 1000);
    assert_int_equal(pages_init(&p, &a, &c), ERR_MEMORY);
    assert_int_equal(p.page_tok, 77); // written only on success
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_give), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_eviction),  cmocka_unit_test(test_same_twice),
        cmocka_unit_test(test_unlist),    cmocka_unit_test(test_attached),
        cmocka_unit_test(test_spare),     cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
