// share: every division covers everything once, nobody strays from his part, and all members agree.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "topology/share.h"

#include <stdlib.h>
#include <string.h>

static uint32_t rng = 12345;

static uint32_t any(uint32_t n)
{
    rng = rng * 1664525 + 1013904223;
    return (rng >> 8) % n;
}

static struct share any_share(enum share_split split)
{
    struct share s = {.split = split, .n_member = 1 + (int32_t)any(SHARE_MEMBERS_MAX)};
    double speed[SHARE_MEMBERS_MAX];
    for (int32_t i = 0; i < s.n_member; i++)
        speed[i] = 1 + any(20);
    share_parts(speed, s.n_member, s.part);
    return s;
}

static void parts_follow_speeds(void **state)
{
    (void)state;
    uint32_t part[SHARE_MEMBERS_MAX];
    share_parts((double[]){3, 1}, 2, part);
    assert_int_equal(part[0], 3 * SHARE_TOTAL / 4);
    assert_int_equal(part[1], SHARE_TOTAL / 4);
    share_parts((double[]){0, 0}, 2, part);
    assert_int_equal(part[0], part[1]);
    for (int round = 0; round < 500; round++) {
        double speed[SHARE_MEMBERS_MAX], total = 0;
        const int32_t n = 1 + (int32_t)any(SHARE_MEMBERS_MAX);
        for (int32_t i = 0; i < n; i++)
            total += speed[i] = any(4) ? any(1000) : 1e-9 * any(2);
        share_parts(speed, n, part);
        uint64_t sum = 0;
        for (int32_t i = 0; i < n; i++) {
            assert_true(part[i] >= 1);
            sum += part[i];
            const double want = (total > 0 ? speed[i] / total : 1.0 / n) * SHARE_TOTAL;
            assert_true(part[i] < want + 2 && part[i] > want - 2 - SHARE_MEMBERS_MAX);
        }
        assert_int_equal(sum, SHARE_TOTAL);
    }
}

static void cuts_cover_everything_once(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        const struct share s = any_share(SPLIT_TENSOR);
        const int64_t n = any(5) ? any(300) : (int64_t)INT32_MAX - any(9);
        const int64_t unit = 1 + any(32);
        int64_t from[SHARE_MEMBERS_MAX + 1], next = 0;
        share_cut(&s, n, from);
        assert_int_equal(from[0], 0);
        assert_int_equal(from[s.n_member], n);
        for (int32_t i = 0; i < s.n_member; i++) {
            const double part = (double)n * s.part[i] / SHARE_TOTAL;
            const double have = (double)(from[i + 1] - from[i]);
            assert_true(have >= 0 && have - part <= 1 && part - have <= 1);
            const struct share_range r = share_rows(&s, i, n, unit);
            assert_int_equal(r.from, next);
            assert_true((r.from % unit == 0 || r.from == n) && (r.to % unit == 0 || r.to == n));
            next = r.to;
        }
        assert_int_equal(next, n);
    }
}

// -- which rows --

static struct model_shape shape_of(int32_t n_head, int32_t n_head_kv)
{
    return (struct model_shape){.n_layer = 1,
                                .dim = 576,
                                .ffn_dim = 1536,
                                .n_vocab = 1000,
                                .n_head = n_head,
                                .n_head_kv = n_head_kv,
                                .head_dim = 64,
                                .moe = {.n_expert = 12, .n_used = 2, .dim = 96, .shared_dim = 128},
                                .layers = {{.ffn = FFN_MOE}}};
}

// Rows of all members follow each other and end at n_row.
static void covers(const struct share *s, const struct model_shape *m, enum slot slot,
                   int64_t n_row)
{
    int64_t next = 0;
    for (int32_t i = 0; i < s->n_member; i++) {
        const struct share_range r = share_of(s, i, m, &m->layers[0], slot);
        assert_int_equal(r.from, next);
        next = r.to;
    }
    assert_int_equal(next, n_row);
}

static void everybody_has(const struct share *s, const struct model_shape *m, enum slot slot,
                          int64_t n_row)
{
    for (int32_t i = 0; i < s->n_member; i++) {
        const struct share_range r = share_of(s, i, m, &m->layers[0], slot);
        assert_true(r.from == 0 && r.to == n_row);
    }
}

static void tensor_members_share_rows_and_heads(void **state)
{
    (void)state;
    static const int32_t heads[][2] = {{9, 3}, {4, 1}, {64, 8}, {16, 2}, {12, 12}};
    for (int round = 0; round < 300; round++) {
        const int32_t *h = heads[round % 5];
        const struct model_shape m = shape_of(h[0], h[1]);
        const struct share s = any_share(SPLIT_TENSOR);
        covers(&s, &m, SLOT_ATTN_Q, h[0] * 64);
        covers(&s, &m, SLOT_ATTN_Q_BIAS, h[0] * 64);
        covers(&s, &m, SLOT_ATTN_SINKS, h[0]);
        covers(&s, &m, SLOT_ATTN_OUT, m.dim);
        covers(&s, &m, SLOT_FFN_GATE, m.ffn_dim);
        covers(&s, &m, SLOT_FFN_DOWN, m.dim);
        covers(&s, &m, SLOT_MOE_UP, m.moe.dim);
        covers(&s, &m, SLOT_MOE_GATE_BIAS, m.moe.dim);
        covers(&s, &m, SLOT_MOE_DOWN, m.dim);
        covers(&s, &m, SLOT_MOE_DOWN_BIAS, m.dim);
        covers(&s, &m, SLOT_SHARED_UP, m.moe.shared_dim);
        covers(&s, &m, SLOT_HEAD, m.n_vocab);
        everybody_has(&s, &m, SLOT_ATTN_NORM, m.dim);
        everybody_has(&s, &m, SLOT_MOE_ROUTER, m.moe.n_expert);
        everybody_has(&s, &m, SLOT_EMBED, m.n_vocab);
        // Whose heads read which keys: all that they need, and no others.
        for (int32_t i = 0; i < s.n_member; i++) {
            const struct share_range q = share_heads(&s, i, &m, &m.layers[0]);
            const struct share_range kv = share_kv_heads(&s, i, &m, &m.layers[0]);
            const struct share_range rows = share_of(&s, i, &m, &m.layers[0], SLOT_ATTN_K);
            assert_true(rows.from == kv.from * 64 && rows.to == kv.to * 64);
            bool needed[64] = {false};
            for (int64_t head = q.from; head < q.to; head++)
                needed[head / (h[0] / h[1])] = true;
            for (int32_t k = 0; k < h[1]; k++)
                assert_int_equal(needed[k], k >= kv.from && k < kv.to);
        }
    }
}

static void mixers_that_cannot_be_cut_are_whole(void **state)
{
    (void)state;
    const struct share s = any_share(SPLIT_TENSOR);
    struct model_shape m = shape_of(8, 8);
    m.qk_norm = QK_NORM_ALL;
    everybody_has(&s, &m, SLOT_ATTN_Q, 512);
    everybody_has(&s, &m, SLOT_ATTN_K, 512);
    everybody_has(&s, &m, SLOT_ATTN_OUT, m.dim);
    covers(&s, &m, SLOT_FFN_UP, m.ffn_dim);
    m.qk_norm = QK_NORM_NONE;
    m.layers[0].mixer = MIXER_MLA;
    m.mla = (struct model_mla){.kv_rank = 32, .nope_dim = 16, .rope_dim = 16, .v_dim = 16};
    everybody_has(&s, &m, SLOT_ATTN_Q, 8 * 32);
    everybody_has(&s, &m, SLOT_ATTN_OUT, m.dim);
    everybody_has(&s, &m, SLOT_MLA_V_B, 16);
    m.layers[0].mixer = MIXER_DELTA;
    m.delta = (struct model_delta){.n_head_k = 2, .n_head_v = 4, .dim_k = 16, .dim_v = 16};
    everybody_has(&s, &m, SLOT_DELTA_CONV, 128);
    everybody_has(&s, &m, SLOT_ATTN_OUT, m.dim);
}

static void owners_of_experts_hold_nothing_else(void **state)
{
    (void)state;
    const struct model_shape m = shape_of(8, 2);
    struct share s = any_share(SPLIT_EXPERTS);
    while (s.n_member < 2)
        s = any_share(SPLIT_EXPERTS);
    covers(&s, &m, SLOT_MOE_DOWN, m.moe.n_expert);
    for (int slot = 0; slot < SLOT_COUNT; slot++) {
        if (slot >= SLOT_MOE_GATE && slot <= SLOT_MOE_DOWN_BIAS) continue;
        struct share_range r = share_of(&s, 1, &m, &m.layers[0], (enum slot)slot);
        assert_int_equal(r.from, r.to);
        r = share_of(&s, 0, &m, &m.layers[0], (enum slot)slot);
        assert_int_equal(r.from, 0);
    }
    const struct share_range heads = share_heads(&s, 1, &m, &m.layers[0]);
    const struct share_range kv = share_kv_heads(&s, 1, &m, &m.layers[0]);
    assert_true(heads.from == heads.to && kv.from == kv.to);
    assert_true(share_is_dense(&s, 0) && !share_is_dense(&s, 1));
}

static void alone_is_everything(void **state)
{
    (void)state;
    const struct share s = share_alone();
    const struct model_shape m = shape_of(9, 3);
    everybody_has(&s, &m, SLOT_ATTN_K, 192);
    everybody_has(&s, &m, SLOT_FFN_UP, m.ffn_dim);
    for (int32_t e = 0; e < 12; e++)
        assert_true(share_owns(&s, 0, 0, e, 12));
    assert_string_equal(share_split_name(s.split), "none");
}

// -- experts --

enum { LAYERS = 3, EXPERTS = 12 };

static void somebody_who_holds_it_computes_each_product(void **state)
{
    (void)state;
    for (int round = 0; round < 500; round++) {
        struct share s = any_share(SPLIT_EXPERTS);
        uint8_t owner[LAYERS * EXPERTS];
        struct share_replica copies[LAYERS * EXPERTS];
        for (int32_t i = 0; i < LAYERS * EXPERTS; i++)
            owner[i] = (uint8_t)any((uint32_t)s.n_member);
        uint32_t n_copy = 0;
        for (uint16_t i = 0; i < LAYERS * EXPERTS; i++) {
            const uint8_t m = (uint8_t)any((uint32_t)s.n_member);
            if (any(3) || m == owner[i]) continue;
            copies[n_copy++] = (struct share_replica){5 + i / EXPERTS, i % EXPERTS, m};
        }
        const bool has_table = round % 4;
        if (has_table)
            s.experts = (struct share_experts){5, LAYERS, EXPERTS, owner, copies, n_copy};
        int32_t expert[200], n = 0;
        for (int32_t e = 0; e < EXPERTS; e++)
            for (uint32_t k = any(16); k > 0; k--)
                expert[n++] = e;
        uint8_t to[200], again[200];
        uint64_t load[SHARE_MEMBERS_MAX];
        const int32_t layer = 5 + (int32_t)any(LAYERS);
        share_assign(&s, layer, EXPERTS, expert, n, to, load);
        for (int32_t i = 0; i < n; i++) {
            assert_true(to[i] < s.n_member);
            assert_true(share_owns(&s, to[i], layer, expert[i], EXPERTS));
        }
        s.member = s.n_member - 1; // whoever asks
        share_assign(&s, layer, EXPERTS, expert, n, again, load);
        assert_memory_equal(to, again, (size_t)n);
        // each expert has at least one holder, and every member's range is its part's
        for (int32_t e = 0; e < EXPERTS; e++) {
            int holders = 0;
            for (int32_t i = 0; i < s.n_member; i++)
                holders += share_owns(&s, i, layer, e, EXPERTS);
            assert_true(has_table ? holders >= 1 : holders == 1);
        }
    }
}

static int32_t count_of(const uint8_t *to, int32_t n, uint8_t member)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += to[i] == member;
    return sum;
}

// Two members of equal parts; one owns all, the other has copies of some: it takes all of those.
// With copies of all each computes half, by whole experts where those are small.
static void copies_take_their_share_of_the_work(void **state)
{
    (void)state;
    enum { PER = 16 };
    struct share s = {.split = SPLIT_EXPERTS, .n_member = 2};
    share_parts((double[]){1, 1}, 2, s.part);
    const uint8_t owner[EXPERTS] = {0};
    const struct share_replica copies[] = {{0, 2, 1}, {0, 5, 1}, {0, 6, 1}, {0, 9, 1}};
    s.experts = (struct share_experts){0, 1, EXPERTS, owner, copies, 4};
    int32_t expert[EXPERTS * PER], n = 0;
    for (int32_t e = 0; e < EXPERTS; e++)
        for (int k = 0; k < PER; k++)
            expert[n++] = e;
    uint8_t to[EXPERTS * PER];
    uint64_t load[2];
    share_assign(&s, 0, EXPERTS, expert, n, to, load);
    assert_int_equal(count_of(to, n, 1), 4 * PER);
    struct share_replica all[EXPERTS];
    for (uint32_t e = 0; e < EXPERTS; e++)
        all[e] = (struct share_replica){0, e, 1};
    s.experts.replicas = all;
    s.experts.n_replica = EXPERTS;
    share_assign(&s, 0, EXPERTS, expert, n, to, load);
    assert_int_equal(count_of(to, n, 1), n / 2);
    for (int32_t i = 1; i < n; i++)
        assert_true(expert[i] != expert[i - 1] || to[i] == to[i - 1]);
    share_parts((double[]){3, 1}, 2, s.part);
    share_assign(&s, 0, EXPERTS, expert, n, to, load);
    assert_int_equal(count_of(to, n, 1), n / 4);
    // one expert of many products is split
    for (int32_t i = 0; i < n; i++)
        expert[i] = 3;
    share_assign(&s, 0, EXPERTS, expert, n, to, load);
    assert_true(count_of(to, n, 1) > 0 && count_of(to, n, 1) < n / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_follow_speeds),
        cmocka_unit_test(cuts_cover_everything_once),
        cmocka_unit_test(tensor_members_share_rows_and_heads),
        cmocka_unit_test(mixers_that_cannot_be_cut_are_whole),
        cmocka_unit_test(owners_of_experts_hold_nothing_else),
        cmocka_unit_test(alone_is_everything),
        cmocka_unit_test(somebody_who_holds_it_computes_each_product),
        cmocka_unit_test(copies_take_their_share_of_the_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
