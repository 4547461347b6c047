// Copies of a store: listed oldest first, removed until the rest fits, never those in use.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/store_keep.h"

enum { KIB = 1024, COPIES = 3, EACH = 64 * KIB };

static char dir[64]; // of the test

static void hash_of(int i, uint8_t out[32])
{
    memset(out, 0x10 * (i + 1) + 0xa, 32);
}

static void path_of(int i, const char *end, char *out, size_t size)
{
    char hex[65];
    uint8_t hash[32];
    hash_of(i, hash);
    for (int k = 0; k < 32; k++)
        snprintf(hex + 2 * k, 3, "%02x", hash[k]);
    snprintf(out, size, "%s/%s%s", dir, hex, end);
}

static void write_file(const char *folder, const char *name)
{
    char path[600];
    static char bytes[EACH];
    memset(bytes, 7, sizeof bytes);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    assert_int_equal(fsync(fd), 0); // or it takes no blocks yet
    close(fd);
}

// Copy i was used at second 1000 + i; the last one is unfinished. And a folder of somebody else's.
static int setup(void **state)
{
    (void)state;
    char path[512];
    snprintf(dir, sizeof dir, "/tmp/trireme-keep-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < COPIES; i++) {
        path_of(i, i == COPIES - 1 ? ".part" : "", path, sizeof path);
        assert_int_equal(mkdir(path, 0700), 0);
        write_file(path, "model.gguf");
        const struct timespec times[2] = {{.tv_sec = 1000 + i}, {.tv_sec = 1000 + i}};
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    }
    snprintf(path, sizeof path, "%s/mine", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char path[512];
    store_trim(dir, 0, NULL, 0);
    snprintf(path, sizeof path, "%s/mine", dir);
    assert_int_equal(rmdir(path), 0); // still there, and nothing else is
    return rmdir(dir);
}

static uint32_t list(struct store_copy *out)
{
    struct err_text why;
    uint32_t n = COPIES + 1;
    assert_int_equal(store_copies(dir, out, &n, &why), OK);
    return n;
}

static void listed_by_use(void **state)
{
    (void)state;
    struct store_copy copies[COPIES + 1];
    uint8_t hash[32];
    assert_int_equal(list(copies), COPIES);
    for (int i = 0; i < COPIES; i++) {
        hash_of(i, hash);
        assert_memory_equal(copies[i].hash, hash, 32);
        assert_int_equal(copies[i].is_whole, i < COPIES - 1);
        assert_int_equal(copies[i].used_s, 1000 + i);
        assert_int_equal(copies[i].n_file, 1);
        assert_int_equal(copies[i].model_bytes, EACH);
        assert_true(copies[i].disk_bytes >= EACH);
        assert_string_equal(copies[i].file, "model.gguf");
    }
    hash_of(0, hash);
    store_used(dir, hash);
    list(copies);
    assert_memory_equal(copies[COPIES - 1].hash, hash, 32);
    uint32_t n = 4;
    assert_int_equal(store_copies("/nowhere/at/all", copies, &n, NULL), OK);
    assert_int_equal(n, 0);
}

static void the_oldest_goes_unless_in_use(void **state)
{
    (void)state;
    struct store_copy copies[COPIES + 1];
    uint8_t keep[1][32], hash[32];
    hash_of(0, keep[0]);
    list(copies);
    const uint64_t one = copies[0].disk_bytes;
    assert_int_equal(store_trim(dir, COPIES * one, NULL, 0), COPIES * one); // they fit
    assert_int_equal(list(copies), COPIES);
    assert_int_equal(store_trim(dir, 2 * one, (const uint8_t(*)[32])keep, 1), 2 * one);
    assert_int_equal(list(copies), 2);
    assert_memory_equal(copies[0].hash, keep[0], 32);
    hash_of(2, hash);
    assert_memory_equal(copies[1].hash, hash, 32);
    assert_int_equal(store_trim(dir, 0, (const uint8_t(*)[32])keep, 1), one); // more is in use
    assert_int_equal(list(copies), 1);
}

static void what_cannot_go_is_passed_over(void **state)
{
    (void)state;
    struct store_copy copies[COPIES + 1];
    char folder[512], inner[600];
    uint8_t hash[32];
    list(copies);
    const uint64_t one = copies[0].disk_bytes;
    path_of(0, "", folder, sizeof folder);
    snprintf(inner, sizeof inner, "%s/somebody-elses", folder);
    assert_int_equal(mkdir(inner, 0700), 0);
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, folder, times, 0), 0);
    assert_int_equal(store_trim(dir, 2 * one, NULL, 0), 2 * one);
    list(copies);
    hash_of(2, hash);
    assert_memory_equal(copies[0].hash, hash, 32);
    hash_of(0, hash);
    assert_memory_equal(copies[1].hash, hash, 32);
    assert_false(copies[1].is_whole); // whatever is left of it
    path_of(0, ".part", folder, sizeof folder);
    snprintf(inner, sizeof inner, "%s/somebody-elses", folder);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(rmdir(folder), 0); // empty: nothing makes a trim take it
}

static void room_is_what_the_limit_says(void **state)
{
    (void)state;
    const uint64_t all = store_keep_room(dir, 0, 0);
    assert_true(all > 0);
    assert_int_equal(store_keep_room(dir, 0, 100 * KIB), 100 * KIB);

    assert_true(store_keep_room(dir, UINT64_MAX, 2 * EACH) <= 2 * EACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(listed_by_use, setup, teardown),
        cmocka_unit_test_setup_teardown(the_oldest_goes_unless_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_go_is_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(room_is_what_the_limit_says, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
