// Steps of a model's layers are measured, by stages that compute at once too.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/tiny.h"
#include "worker/step_times.h"

#include <stdio.h>
#include <unistd.h>

static void steps_are_measured(void **state)
{
    (void)state;
    struct tiny_file file;
    struct model *m = NULL;
    struct err_text why = {{0}};
    struct pace_times t = {0};
    tiny_make(&file, 1, false);
    if (model_open(file.path, &m, &why)) fail_msg("%s", why.s);
    struct step_times_ask ask = {.model = m, .n_threads = 1, .n_at_once = 2, .kv_dtype = DT_F16};
    if (step_times_measure(&ask, &t, &why)) fail_msg("%s", why.s);
    assert_int_equal(t.layer_from, 0);
    assert_int_equal(t.layer_to, TINY_LAYERS);
    assert_int_equal(t.kv_elem_bits, 16);
    for (int i = 0; i < PACE_POINTS; i++) {
        assert_true(t.depth[i] > 1 && t.depth[i] < 512);
        assert_true(t.decode_s[i] > 0 && t.choose_s[i] > 0 && t.chunk_s[i] > 0);
    }
    assert_true(t.chunk_s[PACE_POINTS - 1] > t.decode_s[0]); // 512 rows and one
    ask.n_at_once = 0;
    assert_int_equal(step_times_measure(&ask, &t, &why), ERR_INVALID);
    model_close(m);
    unlink(file.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_are_measured)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
