// Backends by name, and what is said of a module that is not there or is none.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

static const struct kernels_limits least = {.n_threads = 1,
                                            .max_tok = 1,
                                            .max_cols = 256,
                                            .max_rows = 256,
                                            .max_head = 1,
                                            .max_head_dim = 64,
                                            .max_ctx = 64};

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {NULL, "cpu", "reference"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct kernels *k = NULL;
        struct err_text why = {0};
        struct kernels_about about;
        if (kernels_open(names[i], &least, &k, &why)) fail_msg("%s", why.s);
        assert_true(k->is_host);
        if (names[i]) assert_int_equal(!strcmp(k->ops->name, "cpu reference"), i == 2);
        k->ops->close(k);
        assert_int_equal(kernels_about(names[i], &about, &why), OK);
        assert_true(about.is_host);
    }
    static const char *const bad[] = {"",        "z80",     "cuda:",
                                      "cuda:-1", "cuda:1x", "cuda0",
                                      "cuda 0",  "CUDA",    "cuda:99999999999999999999",
                                      "cuda:0:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kernels *k = NULL;
        struct err_text why = {0};
        assert_int_equal(kernels_open(bad[i], &least, &k, &why), ERR_UNSUPPORTED);
        assert_null(k);
        assert_non_null(strstr(why.s, bad[i]));
    }
}

static void refused(const char *file, const char *word)
{
    struct kernels *k = NULL;
    struct kernels_about about;
    struct err_text why = {0};
    int32_t n = -1;
    if (file)
        setenv("TRIREME_CUDA", file, 1);
    else
        unsetenv("TRIREME_CUDA");
    assert_int_equal(kernels_open("cuda", &least, &k, &why), ERR_UNSUPPORTED);
    assert_non_null(strstr(why.s, word));
    assert_int_equal(kernels_count_cuda(&n, &why), ERR_UNSUPPORTED);
    assert_int_equal(kernels_about("cuda:3", &about, &why), ERR_UNSUPPORTED);
    assert_true(!k && n == -1);
}

// A shared object of the system's stands for one that is no module.
static void test_modules(void **state)
{
    (void)state;
    refused(NULL, "there is no libtrireme-cuda.so beside the program");
    refused("/proc/no/such/file.so", "cannot open the module");
    refused("/proc/self/exe", "cuda: ");
    refused("libm.so.6", "no module of this program");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_modules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
