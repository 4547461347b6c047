// Fetching with a scripted coordinator: everything comes, damage is noticed, what came before an
// end is not asked for again.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/wire/frame.h"
#include "tests/unit/worker/tiny.h"
#include "worker/store_fetch.h"

#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATIENCE_US = 20000000 };

static struct tiny_file file;
static struct model *model;
static uint8_t *bytes;
static struct offer offer;
static struct arena arena;
static struct msg_file told;
static struct msg_welcome welcome;
static struct msg_plan plan;
static char dir[64];

static int setup(void **state)
{
    (void)state;
    struct err_text why;
    tiny_make(&file, 5, true);
    if (model_open(file.path, &model, &why)) fail_msg("%s", why.s);
    arena_init(&arena, 0);
    if (offer_make(model, &arena, &offer, &why)) fail_msg("%s", why.s);
    const struct offer_file *f = &offer.files[0];
    bytes = malloc(f->bytes);
    FILE *in = fopen(file.path, "rb");
    assert_true(bytes && in && fread(bytes, 1, f->bytes, in) == f->bytes);
    fclose(in);
    told = (struct msg_file){f->name, f->bytes, f->header_bytes};
    welcome = (struct msg_welcome){.files = &told, .n_file = 1};
    memcpy(welcome.model_hash, model->hash, sizeof welcome.model_hash);
    plan = (struct msg_plan){.epoch = 1,
                             .n_stage = 2,
                             .stage = 1,
                             .n_member = {1, 1},
                             .layer_from = TINY_LAYERS / 2,
                             .layer_to = TINY_LAYERS,
                             .head = true};
    memcpy(plan.model_hash, model->hash, sizeof plan.model_hash);
    snprintf(dir, sizeof dir, "/tmp/trireme-fetch-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *x; d && (x = readdir(d));) {
        char inner[600];
        snprintf(inner, sizeof inner, "%s/%.250s", path, x->d_name);
        if (strcmp(x->d_name, ".") && strcmp(x->d_name, "..") && unlink(inner)) remove_all(inner);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    arena_fini(&arena);
    unlink(file.path);
    free(bytes);
    remove_all(dir);
    return 0;
}

// -- the coordinator's side --

struct script {
    struct store_fetch *fetch;
    struct compute_parcel *spare;
    uint64_t n_fetch;
    uint64_t n_byte;  // asked for
    uint64_t stop_at; // requests after which no more are answered
    // Changes an answer on its way.
    void (*meddle)(struct msg_chunk *c, uint64_t n);
};

static void say(struct script *s, const struct msg_chunk *c)
{
    const struct msg m = {.kind = MSG_CHUNK, .chunk = *c};
    struct buf b = {0};
    struct err_text why;
    if (!s->spare) s->spare = compute_parcel_new();
    assert_int_equal(wire_pack(&m, &b), OK);
    assert_int_equal(wire_unpack(b.data, b.len, &s->spare->arena, &s->spare->msg, &why), OK);
    // What was read lies in a buffer that is used again.
    memset(b.data, 0xee, b.len);
    buf_fini(&b);
    s->spare = store_fetch_hand(s->fetch, s->spare);
}

static void answer(struct script *s, const struct msg_fetch *m)
{
    static uint8_t data[WIRE_CHUNK_MAX];
    assert_memory_equal(m->model_hash, model->hash, sizeof m->model_hash);
    assert_true(m->file == 0 && m->offset + m->bytes <= told.bytes);
    memcpy(data, bytes + m->offset, m->bytes);
    struct msg_chunk c = {.id = m->id, .why = "", .data = data, .n_data = m->bytes};
    c.checksum = frame_checksum(data, m->bytes);
    s->n_fetch++;
    s->n_byte += m->bytes;
    if (s->stop_at && s->n_fetch > s->stop_at) return;
    if (s->meddle) s->meddle(&c, s->n_fetch);
    say(s, &c);
}

static void start(struct script *s, uint64_t first_id, const struct model *open)
{
    const struct store_fetch_config c = {.dir = dir,
                                         .reserve_bytes = 1 << 20,
                                         .plan = &plan,
                                         .offer = &welcome,
                                         .model = open,
                                         .first_id = first_id};
    struct err_text why;
    if (store_fetch_start(&c, &s->fetch, &why)) fail_msg("%s", why.s);
}

// Answers what is asked until the end, or until `stop_at`.
static bool serve(struct script *s)
{
    const int64_t until = clock_now_us() + PATIENCE_US;
    while (!s->stop_at || s->n_fetch <= s->stop_at) {
        struct compute_letter *l = store_fetch_letter(s->fetch);
        if (!l) {
            struct pollfd fd = {.fd = store_fetch_fd(s->fetch), .events = POLLIN};
            assert_true(clock_now_us() < until);
            poll(&fd, 1, 100);
            continue;
        }
        struct msg m;
        struct err_text why;
        struct arena a;
        arena_init(&a, 0);
        const bool is_end = l->is_end;
        if (!is_end) {
            if (wire_unpack(l->bytes.data, l->bytes.len, &a, &m, &why)) fail_msg("%s", why.s);
            assert_int_equal(m.kind, MSG_FETCH);
            answer(s, &m.fetch);
        }
        arena_fini(&a);
        compute_letter_free(l);
        if (is_end) return true;
    }
    return false;
}

static struct store_fetch_result end(struct script *s)
{
    static struct store_fetch_result r;
    store_fetch_join(s->fetch, &r);
    compute_parcel_free(s->spare);
    s->spare = NULL;
    return r;
}

static struct store_fetch_result run(struct script *s)
{
    start(s, 1, NULL);
    assert_true(serve(s));
    return end(s);
}

// -- tests --

static void a_copy_is_the_same_model(void **state)
{
    (void)state;
    struct script s = {0};
    const struct store_fetch_result r = run(&s);
    assert_string_equal(r.why.s, "");
    assert_int_equal(r.err, OK);
    assert_int_equal(r.fetched_bytes, s.n_byte);
    assert_in_range(s.n_byte, 1, told.bytes);
    struct model *m;
    struct err_text why;
    if (model_open(r.model_path, &m, &why)) fail_msg("%s", why.s);
    assert_memory_equal(m->hash, model->hash, sizeof m->hash);
    model_close(m);

    struct script again = {0};
    assert_int_equal(run(&again).err, OK);
    assert_int_equal(again.n_fetch, 0);
}

// With the model open already only the stage's rows are needed.
static void an_open_model_is_not_opened_again(void **state)
{
    (void)state;
    struct script s = {0};
    start(&s, 1, model);
    assert_true(serve(&s));
    assert_int_equal(end(&s).err, OK);
    assert_in_range(s.n_byte, 1, told.bytes * 3 / 4);
}

static void what_came_before_a_stop_stays(void **state)
{
    (void)state;
    struct script s = {.stop_at = 2};
    start(&s, 1, NULL);
    assert_false(serve(&s));
    // Both answers are in when their bytes count.
    const int64_t until = clock_now_us() + PATIENCE_US;
    while (store_fetch_stats_get(s.fetch).done_bytes < STORE_RANGE_BYTES + 1) {
        assert_true(clock_now_us() < until);
        usleep(1000);
    }
    assert_true(store_fetch_stats_get(s.fetch).all_bytes > 0);
    store_fetch_cancel(s.fetch);
    const struct store_fetch_result r = end(&s);
    assert_int_equal(r.err, ERR_CANCELLED);
    assert_true(r.fetched_bytes > STORE_RANGE_BYTES);

    struct script rest = {0};
    const struct store_fetch_result next = run(&rest);
    assert_int_equal(next.err, OK);
    assert_in_range(next.fetched_bytes + r.fetched_bytes, 1, told.bytes);
}

static void damage_once(struct msg_chunk *c, uint64_t n)
{
    if (n == 1) ((uint8_t *)c->data)[c->n_data / 2] ^= 4;
    if (n == 2) c->checksum++;
}

static void shorten_once(struct msg_chunk *c, uint64_t n)
{
    if (n != 1) return;
    c->n_data--;
    c->checksum = frame_checksum(c->data, c->n_data);
}

static void a_damaged_chunk_is_asked_for_again(void **state)
{
    (void)state;
    struct script s = {.meddle = damage_once};
    assert_int_equal(run(&s).err, OK);
    remove_all(dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    struct script t = {.meddle = shorten_once};
    assert_int_equal(run(&t).err, OK);
}

static void damage_always(struct msg_chunk *c, uint64_t n)
{
    (void)n;
    c->checksum ^= 1;
}

static void a_link_that_damages_all_is_given_up(void **state)
{
    (void)state;
    struct script s = {.meddle = damage_always};
    const struct store_fetch_result r = run(&s);
    assert_int_equal(r.err, ERR_LINK_PROTOCOL);
    assert_non_null(strstr(r.why.s, "arrived damaged 3 times"));
}

static void refuse(struct msg_chunk *c, uint64_t n)
{
    if (n != 2) return;
    *c = (struct msg_chunk){.id = c->id, .code = ERR_SYSTEM, .why = "the disk is gone"};
}

static void the_coordinators_reason_is_told(void **state)
{
    (void)state;
    struct script s = {.meddle = refuse};
    const struct store_fetch_result r = run(&s);
    assert_int_equal(r.err, ERR_SYSTEM);
    assert_non_null(strstr(r.why.s, "the disk is gone"));
}

static void swap_ids(struct msg_chunk *c, uint64_t n)
{
    if (n == 1) c->id += 1000;
}

static void strange_and_old_chunks(void **state)
{
    (void)state;
    struct script s = {.meddle = swap_ids};
    assert_int_equal(run(&s).err, ERR_LINK_PROTOCOL);

    struct script t = {0};
    start(&t, 50, NULL);
    say(&t, &(struct msg_chunk){.id = 49, .why = "", .data = bytes, .n_data = 1}); // an older one's
    assert_true(serve(&t));
    const struct store_fetch_result r = end(&t);
    assert_int_equal(r.err, OK);
    assert_true(r.next_id >= 50 + t.n_fetch);
}

// The bytes are whole, but of another model: nothing of it stays.
static void another_model_is_thrown_away(void **state)
{
    (void)state;
    bytes[told.bytes - 100] ^= 1; // in the last sample
    struct script s = {0};
    const struct store_fetch_result r = run(&s);
    assert_int_equal(r.err, ERR_MODEL);
    assert_non_null(strstr(r.why.s, "not the model that was offered"));
    bytes[told.bytes - 100] ^= 1;
    struct script again = {0};
    assert_int_equal(run(&again).err, OK);
    assert_true(again.n_fetch > 0);
}

static void a_bad_plan_is_refused(void **state)
{
    (void)state;
    struct script s = {0};
    plan.layer_to = TINY_LAYERS + 1;
    assert_int_equal(run(&s).err, ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_copy_is_the_same_model, setup, teardown),
        cmocka_unit_test_setup_teardown(an_open_model_is_not_opened_again, setup, teardown),
        cmocka_unit_test_setup_teardown(what_came_before_a_stop_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_chunk_is_asked_for_again, setup, teardown),
        cmocka_unit_test_setup_teardown(a_link_that_damages_all_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(the_coordinators_reason_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(strange_and_old_chunks, setup, teardown),
        cmocka_unit_test_setup_teardown(another_model_is_thrown_away, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bad_plan_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
