// The models a worker finds: files and folders it is given, and whole copies in its store.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/worker/tiny.h"
#include "worker/models.h"

#include <sys/stat.h>
#include <unistd.h>

static struct tiny_file first, second;
static char dir[64];

static int setup(void **state)
{
    (void)state;
    tiny_make(&first, 21, true);
    tiny_make(&second, 22, false);
    snprintf(dir, sizeof dir, "/tmp/trireme-models-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(first.path);
    unlink(second.path);
    return 0;
}

static void path_in(char out[200], const char *folder, const char *name)
{
    snprintf(out, 200, "%s/%s%s%s", dir, folder, name[0] ? "/" : "", name);
}

// A folder of this name with the model in it.
static void put(const char *folder, const struct tiny_file *model)
{
    char path[200];
    path_in(path, folder, "");
    assert_int_equal(mkdir(path, 0700), 0);
    path_in(path, folder, "model.gguf");
    assert_int_equal(symlink(model->path, path), 0);
}

static void take(const char *folder)
{
    char path[200];
    path_in(path, folder, "model.gguf");
    unlink(path);
    path_in(path, folder, "");
    rmdir(path);
}

static void whole_copies_are_found(void **state)
{
    (void)state;
    static const char whole[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    static const char part[] =
        "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff.part";
    static const char other[] = "notes";
    const char *const given[] = {first.path, NULL};
    struct models m;
    struct err_text why;
    put(whole, &second);
    put(part, &first);
    put(other, &first);
    if (models_scan(given, &m, &why)) fail_msg("%s", why.s);
    assert_int_equal(m.n, 1);
    models_add_store(&m, dir);
    assert_int_equal(m.n, 2);
    assert_non_null(strstr(m.files[1].path, whole));
    assert_ptr_equal(models_find(&m, m.files[1].hash), &m.files[1]);
    models_add_store(&m, dir); // nothing twice
    assert_int_equal(m.n, 2);
    models_free(&m);

    const char *const none[] = {NULL};
    if (models_scan(none, &m, &why)) fail_msg("%s", why.s);
    models_add_store(&m, "/nowhere/at/all");
    assert_int_equal(m.n, 0);
    models_free(&m);
    take(whole);
    take(part);
    take(other);
    rmdir(dir);
}

static void a_broken_copy_is_left_out(void **state)
{
    (void)state;
    static const char whole[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    struct models m;
    struct err_text why;
    put(whole, &first);
    assert_int_equal(truncate(first.path, 3000), 0);
    const char *const none[] = {NULL};
    if (models_scan(none, &m, &why)) fail_msg("%s", why.s);
    models_add_store(&m, dir);
    assert_int_equal(m.n, 0);
    models_free(&m);
    take(whole);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole_copies_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(a_broken_copy_is_left_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
