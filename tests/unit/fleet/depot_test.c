// The depot: what is asked for comes, with its checksum, to whom it belongs; what there is not, or
// too much of it, is refused; reading never blocks the loop.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/fleet/depot.h"
#include "proto/wire/frame.h"
#include "tests/unit/worker/tiny.h"

#include <unistd.h>

enum { N_WORKER = 4, ANSWERS_MAX = 200 };

struct answer {
    uint32_t worker;
    uint64_t id;
    err_t code;
    bool is_right; // bytes and checksum
};

static struct tiny_file file;
static struct model *model;
static uint8_t *bytes;
static uint64_t n_byte;
static uv_loop_t loop;
static struct depot *depot;
static struct answer answers[ANSWERS_MAX];
static int n_answer;
static struct msg_fetch asked[ANSWERS_MAX]; // by id

static void on_chunk(void *arg, uint32_t worker, const struct msg_chunk *c)
{
    assert_ptr_equal(arg, &loop);
    assert_true(n_answer < ANSWERS_MAX && c->id < ANSWERS_MAX);
    const struct msg_fetch *m = &asked[c->id];
    struct answer *a = &answers[n_answer++];
    *a = (struct answer){.worker = worker, .id = c->id, .code = c->code};
    if (c->code)
        assert_true(!c->n_data && c->why[0]);
    else
        a->is_right = c->n_data == m->bytes && !memcmp(c->data, bytes + m->offset, m->bytes) &&
                      c->checksum == frame_checksum(c->data, c->n_data);
}

static int setup(void **state)
{
    (void)state;
    struct err_text why;
    tiny_make(&file, 3, true);
    if (model_open(file.path, &model, &why)) fail_msg("%s", why.s);
    n_byte = model->files[0].bytes;
    bytes = malloc(n_byte);
    FILE *f = fopen(file.path, "rb");
    assert_true(bytes && f && fread(bytes, 1, n_byte, f) == n_byte);
    fclose(f);
    uv_loop_init(&loop);
    const struct depot_config c = {&loop, model, N_WORKER, on_chunk, &loop};
    if (depot_open(&c, &depot, &why)) fail_msg("%s", why.s);
    n_answer = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    depot_close(depot);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    model_close(model);
    unlink(file.path);
    free(bytes);
    return 0;
}

static err_t ask(uint32_t worker, uint64_t id, uint64_t offset, uint32_t n)
{
    struct err_text why;
    struct msg_fetch *m = &asked[id];
    *m = (struct msg_fetch){.id = id, .offset = offset, .bytes = n};
    memcpy(m->model_hash, model->hash, sizeof m->model_hash);
    return depot_take(depot, worker, m, &why);
}

static void files_are_offered(void **state)
{
    (void)state;
    struct msg_welcome w = {0};
    assert_true(depot_has_files(depot));
    depot_offer(depot, &w);
    assert_memory_equal(w.model_hash, model->hash, 32);
    assert_int_equal(w.n_file, 1);
    assert_int_equal(w.files[0].bytes, n_byte);
    assert_non_null(strstr(file.path, w.files[0].name));
    assert_null(strchr(w.files[0].name, '/'));
    assert_in_range(w.files[0].header_bytes, file.data_from - 32, file.data_from);
}

static void every_range_comes_to_its_worker(void **state)
{
    (void)state;
    for (uint64_t id = 0; id < 48; id++)
        assert_int_equal(ask(id % 3, id, id * (n_byte / 48), (uint32_t)(n_byte / 48)), OK);
    assert_int_equal(n_answer, 0); // nothing is read on the loop's thread
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_answer, 48);
    bool seen[48] = {0};
    for (int i = 0; i < n_answer; i++) {
        assert_int_equal(answers[i].code, OK);
        assert_true(answers[i].is_right);
        assert_int_equal(answers[i].worker, answers[i].id % 3);
        assert_false(seen[answers[i].id]);
        seen[answers[i].id] = true;
    }
    assert_int_equal(depot_stats_get(depot).chunks, 48);
}

// One who asks for much does not keep another waiting until he has it all.
static void workers_take_turns(void **state)
{
    (void)state;
    for (uint64_t id = 0; id < 40; id++)
        assert_int_equal(ask(0, id, id, 100), OK);
    assert_int_equal(ask(3, 40, 7, 100), OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    int at = 0;
    while (answers[at].worker != 3)
        at++;
    assert_in_range(at, 0, 2 * DEPOT_READS_MAX);
}

static void what_there_is_not_is_refused(void **state)
{
    (void)state;
    assert_int_equal(ask(0, 0, n_byte, 1), ERR_LINK_PROTOCOL);
    assert_int_equal(ask(0, 0, n_byte - 1, 2), ERR_LINK_PROTOCOL);
    assert_int_equal(ask(0, 0, UINT64_MAX, 2), ERR_LINK_PROTOCOL);
    assert_int_equal(ask(0, 0, 0, 0), ERR_LINK_PROTOCOL);
    assert_int_equal(ask(0, 0, 0, WIRE_CHUNK_MAX + 1), ERR_LINK_PROTOCOL);
    struct err_text why;
    struct msg_fetch m = {.bytes = 1};
    assert_int_equal(depot_take(depot, 0, &m, &why), ERR_LINK_PROTOCOL); // another model
    memcpy(m.model_hash, model->hash, sizeof m.model_hash);
    m.file = 1;
    assert_int_equal(depot_take(depot, 0, &m, &why), ERR_LINK_PROTOCOL);
    err_t e = OK;
    uint64_t n = 0;
    while (!e)
        e = ask(1, n++, 0, 10);
    assert_int_equal(e, ERR_LINK_PROTOCOL);
    assert_in_range(n - 1, DEPOT_QUEUE_MAX, DEPOT_QUEUE_MAX + DEPOT_READS_MAX);
    assert_int_equal(ask(2, 100, 0, 10), OK); // others are not concerned
}

static void who_is_gone_gets_nothing(void **state)
{
    (void)state;
    for (uint64_t id = 0; id < 10; id++)
        assert_int_equal(ask(1, id, id, 50), OK);
    depot_forget(depot, 1);
    assert_int_equal(ask(1, 11, 5, 50), OK); // the same number, another worker
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_answer, 1);
    assert_int_equal(answers[0].id, 11);
    assert_true(answers[0].is_right);
}

static void a_file_that_shrank_is_told(void **state)
{
    (void)state;
    assert_int_equal(truncate(file.path, (off_t)n_byte - 1), 0);
    assert_int_equal(ask(0, 0, 0, 50), OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_answer, 1);
    assert_int_equal(answers[0].code, ERR_MODEL);
    unlink(file.path);
    assert_int_equal(ask(0, 1, 0, 50), OK);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(answers[1].code, ERR_SYSTEM);
}

// The teardown closes while reads are under way.
static void closing_waits_for_nobody(void **state)
{
    (void)state;
    for (uint64_t id = 0; id < 20; id++)
        assert_int_equal(ask(id % N_WORKER, id, 0, 5000), OK);
}

static void a_made_up_model_offers_nothing(void **state)
{
    (void)state;
    struct model *m;
    struct depot *d;
    struct err_text why;
    struct msg_welcome w = {0};
    if (model_open("shape:smollm2-135m", &m, &why)) fail_msg("%s", why.s);
    const struct depot_config c = {&loop, m, N_WORKER, on_chunk, &loop};
    assert_int_equal(depot_open(&c, &d, &why), OK);
    assert_false(depot_has_files(d));
    depot_offer(d, &w);
    assert_int_equal(w.n_file, 0);
    depot_close(d);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_are_offered, setup, teardown),
        cmocka_unit_test_setup_teardown(every_range_comes_to_its_worker, setup, teardown),
        cmocka_unit_test_setup_teardown(workers_take_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(what_there_is_not_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_gone_gets_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_shrank_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(closing_waits_for_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(a_made_up_model_offers_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
