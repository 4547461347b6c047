#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/link/room.h"

#include <string.h>

static void test_one_process_is_in_one_room(void **state)
{
    (void)state;
    const struct room a = room_here(), b = room_here();
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.boot && a.net);
    assert_false(room_is_next_door(&a, &b));
}

static void test_any_wall_makes_two_rooms(void **state)
{
    (void)state;
    const struct room here = room_here();
    for (int wall = 0; wall < 3; wall++) {
        struct room other = here;
        uint64_t *const walls[] = {&other.memory, &other.net, &other.user};
        ++*walls[wall];
        assert_true(room_is_next_door(&here, &other));
        assert_true(room_is_next_door(&other, &here));
        other.boot++; // another machine: UCX knows that itself
        assert_false(room_is_next_door(&here, &other));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_process_is_in_one_room),
        cmocka_unit_test(test_any_wall_makes_two_rooms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
