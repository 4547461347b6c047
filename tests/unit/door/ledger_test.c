// The ledger: one line of JSON for each record, whatever happens to the file.
#include "coordinator/door/ledger.h"
#include "proto/base/json.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct ledger_record done = {
    .id = "chatcmpl-1",
    .request_id = "req_1",
    .key = "anna",
    .path = "/v1/chat/completions",
    .model = "a \"model\"",
    .finish = LEDGER_STOP,
    .streamed = true,
    .prompt = 9,
    .cached = 3,
    .output = 5,
    .reasoning = 2,
    .queue_us = 1500,
    .ttft_us = 20000,
    .total_us = 61001,
};

static char dir[64], path[96], moved[96];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/trireme-ledger-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/ledger", dir);
    snprintf(moved, sizeof moved, "%s/ledger.1", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    unlink(moved);
    return rmdir(dir);
}

// Lines of the file; each must be JSON unless it is number `torn` (-1: none).
static int lines_of(const char *file, int torn)
{
    char line[4096];
    int n = 0;
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); n++) {
        struct arena a;
        const struct json *j;
        arena_init(&a, 1 << 20);
        size_t len = strlen(line);
        assert_true(line[len - 1] == '\n');
        err_t err = json_read(line, len - 1, &a, &j, NULL, NULL);
        assert_true((err == OK && j->kind == J_OBJ) == (n != torn));
        arena_fini(&a);
    }
    fclose(f);
    return n;
}

static void a_line_each(void **state)
{
    (void)state;
    struct ledger l;
    struct stat st;
    char line[1024];
    struct ledger_record failed = {.id = "x",
                                   .request_id = "req_2",
                                   .path = "/v1/completions",
                                   .model = "m",
                                   .finish = LEDGER_FAILED,
                                   .reason = "worker_lost",
                                   .queue_us = LEDGER_NEVER,
                                   .ttft_us = LEDGER_NEVER};
    for (int i = 1; i <= 2; i++) { // the second time it is appended to
        assert_int_equal(ledger_open(&l, path, NULL), OK);
        ledger_add(&l, &done);
        ledger_add(&l, &failed);
        assert_int_equal(l.n[LEDGER_STOP], 1);
        assert_int_equal(l.n[LEDGER_FAILED], 1);
        ledger_close(&l);
        assert_int_equal(lines_of(path, -1), 2 * i);
    }
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    FILE *f = fopen(path, "r");
    assert_non_null(fgets(line, sizeof line, f));
    assert_non_null(strstr(line,
                           "Z\",\"id\":\"chatcmpl-1\",\"request_id\":\"req_1\",\"key\":\"anna\","
                           "\"path\":\"/v1/chat/completions\",\"model\":\"a \\\"model\\\"\","
                           "\"finish\":\"stop\",\"reason\":null,\"streamed\":true,"
                           "\"prompt_tokens\":9,\"cached_tokens\":3,\"output_tokens\":5,"
                           "\"reasoning_tokens\":2,\"queue_ms\":1.500,\"ttft_ms\":20.000,"
                           "\"total_ms\":61.001}\n"));
    assert_non_null(fgets(line, sizeof line, f));
    assert_non_null(strstr(line, "\"key\":null"));
    assert_non_null(strstr(line, "\"finish\":\"failed\",\"reason\":\"worker_lost\""));
    assert_non_null(strstr(line, "\"queue_ms\":null,\"ttft_ms\":null,\"total_ms\":0.000}"));
    fclose(f);
}

static void moved_away(void **state)
{
    (void)state;
    struct ledger l;
    assert_int_equal(ledger_open(&l, path, NULL), OK);
    ledger_add(&l, &done);
    assert_int_equal(rename(path, moved), 0);
    ledger_add(&l, &done);
    ledger_add(&l, &done);
    assert_int_equal(lines_of(moved, -1), 1);
    assert_int_equal(lines_of(path, -1), 2);
    assert_int_equal(l.n_lost, 0);
    ledger_close(&l);
}

static void a_full_disk(void **state)
{
    (void)state;
    struct ledger l;
    struct stat st;
    struct rlimit old, small;
    signal(SIGXFSZ, SIG_IGN); // writing past the limit is an error then, as on a full disk
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(ledger_open(&l, path, NULL), OK);
    ledger_add(&l, &done);
    assert_int_equal(stat(path, &st), 0);
    small = (struct rlimit){.rlim_cur = (rlim_t)st.st_size + 100, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 3; i++) // the first of them in part
        ledger_add(&l, &done);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(l.n_lost, 3);
    assert_int_equal(l.n[LEDGER_STOP], 4);
    ledger_add(&l, &done);
    ledger_add(&l, &done);
    ledger_close(&l);
    assert_int_equal(lines_of(path, 1), 4);
}

static void no_such_file(void **state)
{
    (void)state;
    struct ledger l;
    struct err_text why;
    char pipe_path[96];
    snprintf(pipe_path, sizeof pipe_path, "%s/no/such/folder", dir);
    assert_int_equal(ledger_open(&l, pipe_path, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, pipe_path));
    assert_int_equal(ledger_open(&l, dir, &why), ERR_CONFIG);
    assert_int_equal(mkfifo(path, 0600), 0); // nobody reads it: must not wait for one
    assert_int_equal(ledger_open(&l, path, &why), ERR_CONFIG);
    assert_int_equal(ledger_open(&l, "/dev/null", &why), ERR_CONFIG);
    assert_int_equal(ledger_open(&l, NULL, &why), OK);
    ledger_add(&l, &done);
    assert_int_equal(l.n[LEDGER_STOP], 1);
    assert_int_equal(l.n_lost, 0);
    ledger_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_each, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(moved_away, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_full_disk, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(no_such_file, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
