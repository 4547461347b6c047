// The store: ranges come, maps survive, what is damaged or does not fit is noticed.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/log.h"
#include "proto/wire/frame.h"
#include "worker/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNIT = STORE_UNIT_BYTES };
#define BIG_BYTES ((uint64_t)10 * UNIT + 77)

static const uint8_t hash[32] = {0xab, 1, 2, 3};
static struct offer_file files[2] = {
    {.name = "big.gguf", .bytes = BIG_BYTES, .header_bytes = 100},
    {.name = "config.json", .bytes = 10, .header_bytes = 10},
};
static const struct offer offered = {files, 2};
static char dir[64], part[200], whole[160];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/trireme-store-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(whole, sizeof whole, "%s/ab010203%056d", dir, 0);
    snprintf(part, sizeof part, "%s.part", whole);
    return 0;
}

static void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *x; d && (x = readdir(d));) {
        char file[500];
        snprintf(file, sizeof file, "%s/%s", path, x->d_name);
        if (strcmp(x->d_name, ".") && strcmp(x->d_name, "..")) unlink(file);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int teardown(void **state)
{
    (void)state;
    remove_all(part);
    remove_all(whole);
    remove_all(dir);
    return 0;
}

static struct store *open_store(void)
{
    struct store *s;
    struct err_text why;
    if (store_open(dir, hash, &offered, &s, &why)) fail_msg("%s", why.s);
    return s;
}

static uint8_t byte_at(uint32_t file, uint64_t at)
{
    return (uint8_t)(at * 7 + at / 251 + file * 31 + 1);
}

static void put(struct store *s, const struct store_range *r)
{
    struct err_text why;
    uint8_t *data = malloc(r->bytes);
    for (uint32_t i = 0; i < r->bytes; i++)
        data[i] = byte_at(r->file, r->from + i);
    if (store_put(s, r, data, &why)) fail_msg("%s", why.s);
    free(data);
}

static int put_all(struct store *s)
{
    struct store_range r;
    int n = 0;
    for (; store_next(s, &r); n++)
        put(s, &r);
    return n;
}

static void save(struct store *s)
{
    struct err_text why;
    if (store_save(s, &why)) fail_msg("%s", why.s);
}

static void check_bytes(const char *folder, uint32_t file, uint64_t from, uint64_t bytes)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, files[file].name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, (long)from, SEEK_SET);
    for (uint64_t i = from; i < from + bytes; i++)
        assert_int_equal(fgetc(f), byte_at(file, i));
    fclose(f);
}

static void ranges_are_asked_for_once(void **state)
{
    (void)state;
    struct store *s = open_store();
    struct store_range r;
    assert_false(store_next(s, &r));
    store_need(s, 0, 3 * UNIT + 5, 5 * UNIT); // touches six units
    store_need(s, 0, 4 * UNIT, 10);           // nothing new
    store_need(s, 1, 0, 1000);                // cut at the end
    assert_int_equal(store_need_bytes(s), 6 * UNIT + 10);
    assert_true(store_next(s, &r));
    assert_int_equal(r.file, 0);
    assert_int_equal(r.from, 3 * UNIT);
    assert_int_equal(r.bytes, STORE_RANGE_BYTES);
    assert_true(store_next(s, &r));
    assert_int_equal(r.from, 7 * UNIT);
    assert_int_equal(r.bytes, 2 * UNIT);
    assert_true(store_next(s, &r));
    assert_int_equal(r.file, 1);
    assert_int_equal(r.bytes, 10);
    assert_false(store_next(s, &r));
    // What is needed later and lies before is asked for too.
    store_need(s, 0, 0, 1);
    assert_true(store_next(s, &r));
    assert_int_equal(r.from, 0);
    assert_int_equal(r.bytes, UNIT);
    assert_int_equal(store_have_bytes(s), 0);
    store_close(s);
}

static void what_the_map_claims_is_there_again(void **state)
{
    (void)state;
    struct store *s = open_store();
    assert_string_equal(store_model_path(s), part); // a folder, for it has a config
    store_need(s, 0, 0, 3 * UNIT);
    assert_int_equal(put_all(s), 1);
    assert_int_equal(store_have_bytes(s), 3 * UNIT);
    save(s);
    store_need(s, 0, 5 * UNIT, UNIT);
    put_all(s); // is not saved: as if we were killed here
    store_close(s);

    s = open_store();
    store_need(s, 0, 0, 6 * UNIT);
    assert_int_equal(store_have_bytes(s), 3 * UNIT);
    struct store_range r;
    assert_true(store_next(s, &r));
    assert_int_equal(r.from, 3 * UNIT);
    assert_int_equal(r.bytes, 3 * UNIT);
    put(s, &r);
    save(s);
    assert_false(store_is_whole(s));
    store_close(s);
    check_bytes(part, 0, 0, 6 * UNIT);
    assert_true(store_room(dir, UINT64_MAX) == 6 * UNIT); // no room but what is there
}

static void a_whole_copy_gets_its_name(void **state)
{
    (void)state;
    struct store *s = open_store();
    store_need(s, 0, 0, BIG_BYTES);
    put_all(s);
    save(s);
    assert_false(store_is_whole(s));
    store_tidy(dir); // not yet
    assert_int_equal(access(whole, F_OK), -1);
    store_need(s, 1, 0, 1);
    put_all(s);
    assert_false(store_is_whole(s)); // not saved
    save(s);
    assert_true(store_is_whole(s));
    store_close(s);
    store_tidy(dir);
    assert_int_equal(access(part, F_OK), -1);
    check_bytes(whole, 0, 0, BIG_BYTES);
    check_bytes(whole, 1, 0, 10);
    char map[300];
    snprintf(map, sizeof map, "%s/.map", whole);
    assert_int_equal(access(map, F_OK), -1);

    s = open_store(); // nothing is missing in it
    store_need(s, 0, 0, BIG_BYTES);
    assert_int_equal(store_have_bytes(s), BIG_BYTES);
    assert_string_equal(store_model_path(s), whole);
    store_discard(s);
    store_close(s);
    assert_int_equal(access(whole, F_OK), -1);
}

static void change_map(long at, int by)
{
    char map[300];
    snprintf(map, sizeof map, "%s/.map", part);
    FILE *f = fopen(map, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    const int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ by, f);
    fclose(f);
}

static void begin_copy(void)
{
    struct store *s = open_store();
    store_need(s, 0, 0, 3 * UNIT);
    put_all(s);
    save(s);
    store_close(s);
}

static uint64_t bytes_left(void)
{
    struct store *s = open_store();
    store_need(s, 0, 0, 3 * UNIT);
    const uint64_t n = store_have_bytes(s);
    store_close(s);
    return n;
}

static void damage_begins_anew(void **state)
{
    (void)state;
    char path[300];
    struct stat st;
    begin_copy();
    snprintf(path, sizeof path, "%s/.map", part);
    assert_int_equal(stat(path, &st), 0);
    for (long at = 0; at < st.st_size; at++) {
        change_map(at, 0x10);
        if (bytes_left()) fail_msg("a map damaged at byte %ld was believed", at);
        change_map(at, 0x10);
    }
    assert_int_equal(bytes_left(), 3 * UNIT);
    assert_int_equal(truncate(path, st.st_size - 1), 0);
    assert_int_equal(bytes_left(), 0);

    begin_copy();
    snprintf(path, sizeof path, "%s/big.gguf", part);
    assert_int_equal(truncate(path, 1000), 0); // somebody else did that
    assert_int_equal(bytes_left(), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, BIG_BYTES);

    begin_copy();
    files[0].header_bytes = 50; // other files of the same name
    assert_int_equal(bytes_left(), 0);
    files[0].header_bytes = 100;
}

// Nor does a map that somebody made up, with a right checksum, lead anywhere.
static void made_up_maps_do_no_harm(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    char path[300];
    uint8_t good[400], bad[400];
    uint32_t random = 1;
    begin_copy();
    snprintf(path, sizeof path, "%s/.map", part);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(good, 1, sizeof good, f);
    fclose(f);
    assert_in_range(n, 40, sizeof good - 1);
    for (int i = 0; i < 500; i++) {
        memcpy(bad, good, n);
        for (int k = 0; k < 1 + i % 4; k++) {
            random = random * 1664525 + 1013904223;
            bad[(random >> 8) % (n - 4)] = (uint8_t)(random >> 24 | (i % 3 == 0 ? 0xf0 : 0));
        }
        const size_t len = i % 5 ? n : 4 + (random >> 8) % (n - 4);
        const uint32_t sum = frame_checksum(bad, len - 4);
        memcpy(bad + len - 4, &sum, 4);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(bad, 1, len, f), len);
        fclose(f);
        assert_in_range(bytes_left(), 0, 3 * UNIT);
        assert_true(store_room(dir, UINT64_MAX) <= (uint64_t)1 << 50);
        store_tidy(dir);
    }
}

static void a_short_disk_is_noticed_before(void **state)
{
    (void)state;
    struct err_text why;
    struct store *s = open_store();
    assert_int_equal(store_check_room(s, UINT64_MAX / 2, &why), OK); // nothing is missing
    store_need(s, 0, 0, BIG_BYTES);
    assert_int_equal(store_check_room(s, 0, &why), OK);
    assert_int_equal(store_check_room(s, (uint64_t)1 << 60, &why), ERR_SYSTEM);
    assert_non_null(strstr(why.s, "0.6 MiB are to be fetched"));
    assert_non_null(strstr(why.s, "MiB are free"));
    store_close(s);
}

static void bad_names_and_sizes(void **state)
{
    (void)state;
    static const char *const names[] = {"", ".", "..", ".map", "a/b", "/etc/passwd"};
    struct err_text why;
    struct store *s;
    struct offer_file f = {.bytes = 1};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        f.name = names[i];
        assert_int_equal(store_open(dir, hash, &(struct offer){&f, 1}, &s, &why), ERR_MODEL);
    }
    f.name = "x";
    f.bytes = 0;
    assert_int_equal(store_open(dir, hash, &(struct offer){&f, 1}, &s, &why), ERR_MODEL);
    f.bytes = UINT64_MAX;
    assert_int_equal(store_open(dir, hash, &(struct offer){&f, 1}, &s, &why), ERR_MODEL);
    struct offer_file two[2] = {{.name = "x", .bytes = 1}, {.name = "x", .bytes = 1}};
    assert_int_equal(store_open(dir, hash, &(struct offer){two, 2}, &s, &why), ERR_MODEL);
    assert_int_equal(store_open(dir, hash, &(struct offer){two, 0}, &s, &why), ERR_MODEL);
    assert_int_equal(access(part, F_OK), -1);
}

// A link in the folder does not lead a copy elsewhere.
static void links_are_refused(void **state)
{
    (void)state;
    char victim[100], link[300];
    struct err_text why;
    struct store *s;
    snprintf(victim, sizeof victim, "%s/victim", dir);
    close(open(victim, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(mkdir(part, 0700), 0);
    snprintf(link, sizeof link, "%s/big.gguf", part);
    assert_int_equal(symlink(victim, link), 0);
    assert_int_equal(store_open(dir, hash, &offered, &s, &why), ERR_SYSTEM);
    struct stat st;
    assert_int_equal(stat(victim, &st), 0);
    assert_int_equal(st.st_size, 0);
}

static void one_process_at_a_time(void **state)
{
    (void)state;
    char deep[100];
    struct err_text why;
    int a, b;
    snprintf(deep, sizeof deep, "%s/in", dir);
    assert_int_equal(store_lock(deep, &a, &why), OK);
    assert_int_equal(store_lock(deep, &b, &why), ERR_BUSY);
    close(a);
    assert_int_equal(store_lock(deep, &b, &why), OK);
    close(b);
    remove_all(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranges_are_asked_for_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_map_claims_is_there_again, setup, teardown),
        cmocka_unit_test_setup_teardown(a_whole_copy_gets_its_name, setup, teardown),
        cmocka_unit_test_setup_teardown(damage_begins_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(made_up_maps_do_no_harm, setup, teardown),
        cmocka_unit_test_setup_teardown(a_short_disk_is_noticed_before, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_names_and_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(links_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(one_process_at_a_time, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
