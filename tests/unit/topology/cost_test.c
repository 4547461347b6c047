// The cost model: memory line by line and times, against sums done by hand.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/topology/cost_make.h"
#include "topology/near.h"

#include <math.h>

// A tied head costs nothing extra on one device, and a second copy on the last of two.
static void tied_head_is_counted_once_per_stage(void **state)
{
    (void)state;
    struct cost_model m = model_of(4, 64 << 20);
    struct cost_ask a = cost_ask_of(1024, 1);
    struct cluster_device d = {.mem_free_bytes = 1000000000};
    m.tied_head = true;
    m.head.bytes = m.embed_bytes;
    m.head_vector_bytes = 4096;
    m.shared_bytes = 128;
    struct cost_memory whole = cost_memory_of(&m, &a, &d, 0, 4);
    struct cost_memory first = cost_memory_of(&m, &a, &d, 0, 2);
    struct cost_memory last = cost_memory_of(&m, &a, &d, 2, 4);
    assert_int_equal(whole.weights, m.embed_bytes + 4096 + 128 + 4 * (uint64_t)(64 << 20));
    assert_int_equal(first.weights + last.weights, whole.weights + m.embed_bytes + 128);
    assert_int_equal(whole.kv, 1024ull * 4 * 2 * 4 * 64 * 2);
    assert_int_equal(first.kv + last.kv, whole.kv);
    assert_int_equal(last.workspace - first.workspace, 4 * 32 * (32000 + 2 * 1024));
    assert_int_equal(whole.reserve, 80000000);
    d.unified = true;
    d.mem_bytes = 128000000000;
    assert_int_equal(cost_reserve(&d), 10240000000);
    d.mem_bytes = 64000000000;
    assert_int_equal(cost_reserve(&d), (uint64_t)8 << 30);
}

// Roofline by hand: a quantised layer at one row is bound by reading, at many rows by arithmetic.
static void times_follow_the_roofline(void **state)
{
    (void)state;
    struct cost_model m = model_of(2, 100000000);
    m.layers[0].kv_elems = 4;
    m.layers[0].seen_flops = 8;
    struct cluster_device d = {
        .read_bytes_per_s = 1e10, .int8_ops_per_s = 1e12, .f32_flops_per_s = 1e11};
    struct cost_step one = {1, 1, 1, 0, 2}, many = {1000, 1, 1, 0, 2};
    double read_ns = 1e7, math_ns = 2.0 * 1000 * 2e8 / 1e12 * 1e9;
    assert_true(fabs((double)cost_layer_ns(&m, &d, &one, 0) / read_ns - 1) < 1e-3);
    assert_true(fabs((double)cost_layer_ns(&m, &d, &many, 0) / math_ns - 1) < 1e-3);
    // Of the last layer's rows only one goes on behind the mixer; all would be asked for.
    m.layers[1] = m.layers[0];
    assert_true(fabs((double)cost_layer_ns(&m, &d, &many, 1) / read_ns - 1) < 1e-2);
    const struct cost_step asked = {1000, 1, 1000, 0, 2};
    assert_int_equal(cost_layer_ns(&m, &d, &asked, 1), cost_layer_ns(&m, &d, &many, 0));
    d.int8_ops_per_s = 0; // not known: at f32
    assert_true(fabs((double)cost_layer_ns(&m, &d, &many, 0) / (10 * math_ns) - 1) < 1e-3);
    struct cluster_link l = {100, 4096e6};
    struct cost_step step = {10, 10, 10, 0, 2};
    assert_int_equal(cost_hop_busy_ns(&m, &l, &step), 10000);
    assert_int_equal(cost_hop_ns(&m, &l, &step), 110000);
    // A window bounds what a local layer reads.
    m.layers[0].kv_elems = 128;
    m.window = 100;
    struct cost_step deep = {1, 1, 1, 100000, 2};
    int64_t global = cost_layer_ns(&m, &d, &deep, 0);
    m.layers[0].is_local = true;
    assert_true(cost_layer_ns(&m, &d, &deep, 0) < global);
}

// Of 64 experts a token passes 4: one row reads a sixteenth, many rows nearly all, and each row
// multiplies by a sixteenth.
static void experts_are_read_as_they_are_chosen(void **state)
{
    (void)state;
    struct cost_model m = model_of(2, 0);
    struct cluster_device d = {
        .read_bytes_per_s = 1e10, .int8_ops_per_s = 1e12, .f32_flops_per_s = 1e11};
    m.layers[0].kv_elems = 0;
    m.layers[0].seen_flops = 0;
    m.n_expert = 64;
    m.n_used = 4;
    add_experts(&m, 0, 655360000);
    struct cost_step step = {1, 1, 1, 0, 2};
    assert_true(fabs((double)cost_layer_ns(&m, &d, &step, 0) / 4.096e6 - 1) < 1e-3);
    step.rows = step.n_seq = 8; // 1 - (15/16)^8 of them
    assert_true(fabs((double)cost_layer_ns(&m, &d, &step, 0) / (65.536e6 * 0.40325) - 1) < 1e-3);
    step.rows = 10000;
    double math_ns = 2.0 * 10000 * 81920000 / 1e12 * 1e9;
    assert_true(fabs((double)cost_layer_ns(&m, &d, &step, 0) / math_ns - 1) < 1e-3);
    // All of them lie in memory.
    struct cost_ask a = cost_ask_of(1024, 1);
    struct cost_memory mem = cost_memory_of(&m, &a, &d, 0, 1);
    assert_int_equal(mem.weights, 655360000);
}

// Layers with a window hold what the requests see, recurrent ones a state each.
static void memory_follows_the_kinds_of_layers(void **state)
{
    (void)state;
    struct cost_model m = model_of(4, 1 << 20);
    struct cluster_device d = {.read_bytes_per_s = 1e10, .f32_flops_per_s = 1e11};
    struct cost_ask a = cost_ask_of(65536, 2);
    struct cost_memory all = cost_memory_of(&m, &a, &d, 0, 4);
    assert_int_equal(all.kv, 4 * 131072ull * 512 * 2);
    assert_int_equal(all.state, 0);
    m.window = 4096;
    m.layers[0].is_local = m.layers[1].is_local = true;
    struct cost_memory some = cost_memory_of(&m, &a, &d, 0, 4);
    assert_true(some.kv > all.kv / 2 && some.kv < all.kv * 6 / 10);
    a.local_tokens = 8192;
    some = cost_memory_of(&m, &a, &d, 0, 4);
    assert_int_equal(some.kv, (2 * 131072ull + 2 * 8192) * 512 * 2);
    m.chunk = 8192;
    m.window = 0;
    a.local_tokens = 0;
    assert_true(cost_memory_of(&m, &a, &d, 0, 4).kv < all.kv * 6 / 10);
    m.layers[3].kv_elems = 0;
    m.layers[3].state_bytes = 1000;
    some = cost_memory_of(&m, &a, &d, 3, 4);
    assert_int_equal(some.kv, 0);
    assert_int_equal(some.state, 3 * 2 * 1000);
    a.n_state = 40;
    some = cost_memory_of(&m, &a, &d, 3, 4);
    assert_int_equal(some.state, 40 * 1000);
    assert_int_equal(cost_memory_sum(&some),
                     some.weights + some.state + some.workspace + some.comms + some.reserve);
    // A state is read and written, however long the sequence.
    struct cost_step step = {1, 1, 1, 0, 2};
    m.layers[3].n_matrix = 0;
    m.layers[3].seen_flops = 0;
    m.layers[3].state_bytes = 50000000;
    int64_t ns = cost_layer_ns(&m, &d, &step, 3);
    assert_true(fabs((double)ns / 1e7 - 1) < 1e-3);
    step.depth = 1000000;
    assert_int_equal(cost_layer_ns(&m, &d, &step, 3), ns);
    step.n_seq = step.rows = 3;
    assert_true(fabs((double)cost_layer_ns(&m, &d, &step, 3) / 3e7 - 1) < 1e-3);
}

// A device's memory for handing on past the host, in its stage and before and behind it.
static void devices_hand_on_past_the_host(void **state)
{
    (void)state;
    struct cost_model m = model_of(4, 1 << 20);
    struct cluster_device d = {.mem_free_bytes = 1ull << 36};
    const struct cost_ask a = cost_ask_of(65536, 2);
    const uint64_t row = 4 * (uint64_t)m.dim;
    const struct group_bytes_of group = {
        .n_member = 2, .nccl = true, .peers = true, .row_bytes = row * 100};
    struct group_bytes_of way = {.nccl = true,
                                 .peers = true,
                                 .row_bytes = row,
                                 .queue_bytes = group_bytes_queue((uint64_t)a.chunk, row)};
    const uint64_t takes = group_bytes(&way);
    way.gives = true;
    const uint64_t gives = group_bytes(&way);
    m.wide_bytes = row * 100;
    for (int32_t me = 0; me < 2; me++) {
        const struct share s = {.split = SPLIT_TENSOR,
                                .n_member = 2,
                                .member = me,
                                .part = {SHARE_TOTAL / 2, SHARE_TOTAL - SHARE_TOTAL / 2}};
        uint64_t bytes[2][2]; // on the host, on a device; of all layers, of those in the middle
        for (int on = 0; on < 2; on++) {
            d.kind = on ? CLUSTER_CUDA : CLUSTER_CPU;
            bytes[on][0] = cost_memory_share(&m, &a, &d, 0, 4, &s).comms;
            bytes[on][1] = cost_memory_share(&m, &a, &d, 1, 3, &s).comms;
        }
        assert_int_equal(bytes[1][0] - bytes[0][0], group_bytes(&group));
        assert_int_equal(bytes[1][1] - bytes[0][1], group_bytes(&group) + takes + (me ? 0 : gives));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tied_head_is_counted_once_per_stage),
        cmocka_unit_test(times_follow_the_roofline),
        cmocka_unit_test(experts_are_read_as_they_are_chosen),
        cmocka_unit_test(memory_follows_the_kinds_of_layers),
        cmocka_unit_test(devices_hand_on_past_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
