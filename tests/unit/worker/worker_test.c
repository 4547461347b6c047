// Workers as threads over link_local, with a scripted coordinator at the other end.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/golden/lane.h"
#include "tests/unit/worker/tiny.h"
#include "topology/probe.h"
#include "worker/worker.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static struct tiny_file file, other_file;
static struct model *model, *other_model;

static int setup(void **state)
{
    (void)state;
    tiny_make(&file, 11, false);
    tiny_make(&other_file, 12, true);
    struct err_text why = {0};
    return model_open(file.path, &model, &why) || model_open(other_file.path, &other_model, &why);
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    model_close(other_model);
    unlink(file.path);
    unlink(other_file.path);
    return 0;
}

// -- one worker and the coordinator's end of its link --

struct crew {
    struct worker *worker;
    pthread_t thread;
    atomic_int stop;
    err_t ended;
    struct err_text why;
    pthread_mutex_t lock;
    struct link *dialled; // the end that waits to be taken by the test
    atomic_int n_dial, n_give_up;
    // the test's
    struct link *link;
    struct arena arena;
    struct msg msg; // the last one read
    struct msg_heartbeat beat;
    uint32_t n_beat;
    uint8_t address[WIRE_ADDRESS_MAX];
    uint32_t n_address;
};

static err_t dial(void *arg, struct link **out, struct err_text *why)
{
    struct crew *c = arg;
    struct link *far;
    atomic_fetch_add(&c->n_dial, 1);
    if (atomic_load(&c->n_give_up)) return ERR_END;
    pthread_mutex_lock(&c->lock);
    err_t e = c->dialled ? err_say(why, ERR_LINK, "nobody listens")
                         : link_local_pair("coordinator", "worker", out, &far);
    if (!e) c->dialled = far;
    pthread_mutex_unlock(&c->lock);
    return e;
}

static void *crew_main(void *arg)
{
    struct crew *c = arg;
    c->ended = worker_run(c->worker, &c->stop, &c->why);
    return NULL;
}

static bool next_message(struct crew *c, int64_t deadline_us)
{
    const void *data;
    size_t len;
    struct err_text why = {0};
    for (;;) {
        const err_t e = link_recv(c->link, &data, &len, &why);
        if (e && e != ERR_AGAIN) return false;
        if (!e) {
            arena_reset(&c->arena);
            if (wire_unpack(data, len, &c->arena, &c->msg, &why)) fail_msg("worker: %s", why.s);
            if (c->msg.kind != MSG_HEARTBEAT) return true;
            c->beat = c->msg.heartbeat;
            c->n_beat++;
            continue;
        }
        const int64_t left = deadline_us - clock_now_us();
        if (left <= 0) return false;
        struct pollfd fd;
        fd.fd = link_poll_fd(c->link, &fd.events);
        poll(&fd, 1, (int)(left / 1000) + 1);
    }
}

// The next message but heartbeats must be this, within two seconds.
static const struct msg *hear(struct crew *c, enum msg_kind kind)
{
    if (!next_message(c, clock_now_us() + 2000000))
        fail_msg("no %s from the worker", wire_kind_name(kind));
    if (c->msg.kind == MSG_FAILED && kind != MSG_FAILED) fail_msg("FAILED: %s", c->msg.failed.why);
    if (c->msg.kind != kind)
        fail_msg("%s instead of %s", wire_kind_name(c->msg.kind), wire_kind_name(kind));
    return &c->msg;
}

static void tell(struct crew *c, const struct msg *m)
{
    struct buf b = {0};
    assert_int_equal(wire_pack(m, &b), OK);
    assert_int_equal(link_send(c->link, b.data, b.len), OK);
    buf_fini(&b);
}

static void answer_dial(struct crew *c)
{
    for (int i = 0; i < 400; i++) {
        pthread_mutex_lock(&c->lock);
        c->link = c->dialled;
        c->dialled = NULL;
        pthread_mutex_unlock(&c->lock);
        if (c->link) return;
        usleep(5000);
    }
    fail_msg("the worker does not dial");
}

static void welcome(struct crew *c, bool is_first)
{
    answer_dial(c);
    const struct msg_hello *h = &hear(c, MSG_HELLO)->hello;
    assert_string_equal(h->name, "w-1");
    assert_int_equal(h->version, WIRE_VERSION);
    assert_int_equal(h->n_model, 2);
    assert_int_equal(h->n_device, 1);
    assert_true(h->devices[0].threads == 1 && h->devices[0].mem_free_bytes > 0);
    if (is_first) assert_int_equal(h->held_from, h->held_to);
    const struct msg m = {.kind = MSG_WELCOME, .welcome = {.worker = 1, .cluster = "test"}};
    tell(c, &m);
}

static struct crew *crew_open(uint64_t mem_max)
{
    struct crew *c = calloc(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    arena_init(&c->arena, WIRE_ARENA_MAX);
    const char *models[] = {file.path, other_file.path, NULL};
    const struct worker_config config = {.name = "w-1",
                                         .models = models,
                                         .n_threads = 1,
                                         .mem_max_bytes = mem_max,
                                         .dial = dial,
                                         .dial_arg = c};
    struct err_text why = {0};
    if (worker_open(&config, &c->worker, &why)) fail_msg("%s", why.s);
    assert_int_equal(pthread_create(&c->thread, NULL, crew_main, c), 0);
    welcome(c, true);
    return c;
}

static void crew_close(struct crew *c)
{
    atomic_store(&c->stop, 1);
    const int64_t from = clock_now_us();
    pthread_join(c->thread, NULL);
    worker_close(c->worker);
    assert_true(clock_now_us() - from < 1000000);
    link_close(c->link);
    link_close(c->dialled);
    arena_fini(&c->arena);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

// -- plans --

static struct plan_settings settings(void)
{
    return (struct plan_settings){.ctx = 128,
                                  .page_tok = 16,
                                  .n_page = 32,
                                  .n_slot = 4,
                                  .max_tok = 64,
                                  .max_rows = 4,
                                  .in_flight = 3,
                                  .kv_dtype = DT_F32,
                                  .precision = PRECISION_EXACT};
}

static struct msg plan_of(uint64_t epoch, uint32_t stage, uint32_t n_stage)
{
    struct msg m = {.kind = MSG_PLAN};
    m.plan = (struct msg_plan){.epoch = epoch,
                               .model = "tiny",
                               .stage = stage,
                               .n_stage = n_stage,
                               .layer_from = TINY_LAYERS * stage / n_stage,
                               .layer_to = TINY_LAYERS * (stage + 1) / n_stage,
                               .embed = stage == 0,
                               .head = stage + 1 == n_stage,
                               .settings = settings(),
                               .road = ROAD_LOCAL};
    memcpy(m.plan.model_hash, model->hash, 32);
    memset(m.plan.key, (int)epoch, sizeof m.plan.key);
    return m;
}

static void prepared(struct crew *c, uint64_t epoch)
{
    const struct msg_prepared *p = &hear(c, MSG_PREPARED)->prepared;
    const struct plan_settings want = settings();
    assert_int_equal(p->epoch, epoch);
    assert_memory_equal(&p->settings, &want, sizeof want);
    assert_true(p->weight_bytes > 0 && p->kv_bytes > 0 && p->work_bytes > 0);
    c->n_address = p->n_address;
    if (p->n_address) memcpy(c->address, p->address, p->n_address);
}

// PLAN, PREPARED, CONNECT, LINKED for all stages.
static void serve(struct crew **crews, uint32_t n, uint64_t epoch)
{
    struct msg_peer peers[4];
    for (uint32_t i = 0; i < n; i++) {
        const struct msg m = plan_of(epoch, i, n);
        tell(crews[i], &m);
    }
    for (uint32_t i = 0; i < n; i++) {
        prepared(crews[i], epoch);
        peers[i] = (struct msg_peer){
            .stage = i, .address = crews[i]->address, .n_address = crews[i]->n_address};
    }
    const struct msg m = {.kind = MSG_CONNECT,
                          .connect = {.epoch = epoch, .peers = peers, .n_peer = n}};
    for (uint32_t i = 0; i < n; i++)
        tell(crews[i], &m);
    for (uint32_t i = 0; i < n; i++) {
        const struct msg_linked *l = &hear(crews[i], MSG_LINKED)->linked;
        assert_int_equal(l->epoch, epoch);
        assert_string_equal(l->transport, n > 1 ? "local" : "none");
        if (i + 1 < n)
            assert_true(l->next_bytes_per_s > 0); // the latency may be below the clock's grain
    }
}

// -- steps --

static const int32_t prompt[] = {5, 17, 3, 99, 120, 7, 7, 150, 0, 42};
enum { N_PROMPT = 10, N_NEW = 12 };
static const uint32_t pages[8] = {9, 3, 4, 1, 0, 2, 30, 31};

static struct step_row row_at(uint32_t pos, uint32_t n, const int32_t *ids)
{
    return (struct step_row){
        .pos = pos, .n_tok = n, .ids = ids, .flags = ROW_SAMPLE, .next_id = -1};
}

static void send_step(struct crew **crews, uint32_t n, uint64_t epoch, uint64_t number,
                      struct step_row *row)
{
    const struct step_bind bind = {.slot = row->slot,
                                   .n_prompt = N_PROMPT,
                                   .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    const bool binds = row->pos == 0;
    if (binds) {
        row->pages = pages;
        row->n_page = 8;
    }
    const struct msg m = {.kind = MSG_STEP,
                          .step = {.epoch = epoch,
                                   .number = number,
                                   .binds = &bind,
                                   .n_bind = binds,
                                   .rows = row,
                                   .n_row = 1}};
    for (uint32_t i = 0; i < n; i++)
        tell(crews[i], &m);
}

static int32_t result_of(struct crew *last, uint64_t epoch, uint64_t number)
{
    const struct step_result *r = &hear(last, MSG_RESULT)->result;
    assert_int_equal(r->epoch, epoch);
    assert_int_equal(r->number, number);
    assert_int_equal(r->n_item, 1);
    return r->items[0].id;
}

// What one process without any link generates.
static void expected(int32_t *ids)
{
    struct lane l;
    const struct lane_options o = {.n_stage = 1,
                                   .n_slot = 4,
                                   .ctx = 128,
                                   .max_tok = 64,
                                   .precision = PRECISION_EXACT,
                                   .kv_dtype = DT_F32,
                                   .n_threads = 1};
    assert_true(lane_open(&l, model, &o));
    for (uint32_t i = 0; i < N_NEW; i++) {
        struct step_row row =
            i ? row_at(N_PROMPT + i - 1, 1, &ids[i - 1]) : row_at(0, N_PROMPT, prompt);
        struct step_result r;
        assert_true(lane_rows(&l, &row, 1, &r));
        ids[i] = r.items[0].id;
    }
    lane_close(&l);
}

// One sequence, half of its tokens chained, with up to `ahead` steps on their way.
static void generate(struct crew **crews, uint32_t n, uint64_t epoch, uint32_t ahead)
{
    int32_t want[N_NEW], got[N_NEW];
    expected(want);
    uint32_t sent = 0;
    for (uint32_t done = 0; done < N_NEW; done++) {
        for (; sent < N_NEW && sent <= done + ahead; sent++) {
            struct step_row row = row_at(0, N_PROMPT, prompt);
            if (sent) row = row_at(N_PROMPT + sent - 1, 1, &got[sent - 1]);
            if (sent > done || (sent && sent % 3 == 0)) {
                row.flags |= sent ? ROW_CHAIN : 0;
                if (sent) row.ids = NULL;
                row.from_step = sent;
            }
            send_step(crews, n, epoch, sent + 1, &row);
        }
        got[done] = result_of(crews[n - 1], epoch, done + 1);
    }
    assert_memory_equal(got, want, sizeof want);
}

// -- cases --

static void one_worker_serves(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    serve(&c, 1, 1);
    generate(&c, 1, 1, 0);
    serve(&c, 1, 2);
    generate(&c, 1, 2, 2);
    crew_close(c);
}

static void stages_give_the_same_ids(void **state)
{
    (void)state;
    struct crew *crews[4];
    for (int i = 0; i < 4; i++)
        crews[i] = crew_open(0);
    for (uint32_t n = 2; n <= 4; n++) {
        serve(crews, n, n);
        generate(crews, n, n, n == 3 ? 0 : 2);
    }
    for (int i = 0; i < 4; i++)
        crew_close(crews[i]);
}

static void heartbeats_show_progress(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    assert_false(next_message(c, clock_now_us() + 900000));
    assert_in_range(c->n_beat, 3, 5);
    serve(&c, 1, 1);
    generate(&c, 1, 1, 0);
    assert_false(next_message(c, clock_now_us() + 300000));
    const struct msg_heartbeat first = c->beat;
    assert_int_equal(first.epoch, 1);
    assert_int_equal(first.step_done, N_NEW);
    assert_true(first.busy_us > 0 && first.mem_used_bytes > 0 && first.mem_free_bytes > 0);
    assert_false(next_message(c, clock_now_us() + 300000)); // idle, but the loop moves
    assert_true(c->beat.progress > first.progress);
    crew_close(c);
}

// The stage waits for a frame from a stage that will never send one.
static void a_new_plan_interrupts_a_wait(void **state)
{
    (void)state;
    struct crew *crews[2] = {crew_open(0), crew_open(0)};
    serve(crews, 2, 1);
    struct step_row row = row_at(0, N_PROMPT, prompt);
    send_step(crews + 1, 1, 1, 1, &row); // the first stage does not hear of it
    usleep(50000);
    const int64_t from = clock_now_us();
    serve(crews, 2, 2);
    assert_true(clock_now_us() - from < 1500000);
    generate(crews, 2, 2, 1);
    for (int i = 0; i < 2; i++)
        crew_close(crews[i]);
}

static void old_epochs_are_dropped(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    serve(&c, 1, 5);
    struct step_row row = row_at(0, N_PROMPT, prompt);
    send_step(&c, 1, 4, 1, &row); // an old epoch's
    const struct msg old = plan_of(5, 0, 1), older = plan_of(3, 0, 1);
    tell(c, &old);
    tell(c, &older);
    generate(&c, 1, 5, 1);
    // plans in a row: only the newest is carried out
    for (uint64_t e = 6; e < 10; e++) {
        const struct msg m = plan_of(e, 0, 1);
        tell(c, &m);
    }
    uint64_t last = 0;
    while (last != 9)
        last = hear(c, MSG_PREPARED)->prepared.epoch;
    crew_close(c);
}

static void expect_failed(struct crew *c, uint64_t epoch, err_t code, const char *word)
{
    const struct msg_failed *f = &hear(c, MSG_FAILED)->failed;
    assert_int_equal(f->epoch, epoch);
    if (!strstr(f->why, word)) fail_msg("\"%s\" does not say \"%s\"", f->why, word);
    assert_int_equal(f->code, code);
}

static void bad_plans_fail_with_a_sentence(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    uint64_t epoch = 1;
#define FAILS(code, word, change)                                                                  \
    do {                                                                                           \
        struct msg m = plan_of(epoch, 0, 2);                                                       \
        change;                                                                                    \
        tell(c, &m);                                                                               \
        expect_failed(c, epoch++, code, word);                                                     \
    } while (0)
    FAILS(ERR_MODEL, "no file of model", m.plan.model_hash[3] ^= 1);
    FAILS(ERR_CONFIG, "layers 0 to 5", m.plan.layer_to = 5);
    FAILS(ERR_CONFIG, "layers 0 to 0", m.plan.layer_to = 0);
    FAILS(ERR_CONFIG, "layers 1 to 2", m.plan.layer_from = 1);
    FAILS(ERR_CONFIG, "layers 0 to 4", m.plan.layer_to = 4);
    FAILS(ERR_CONFIG, "without embedding", m.plan.embed = false);
    FAILS(ERR_CONFIG, "with head", m.plan.head = true);
    FAILS(ERR_CONFIG, "page_tok", m.plan.settings.page_tok = 24);
    serve(&c, 1, epoch);
    generate(&c, 1, epoch, 1);
    crew_close(c);
    c = crew_open(200 << 10); // the stage takes more than 200 KiB
    const struct msg m = plan_of(1, 0, 1);
    tell(c, &m);
    expect_failed(c, 1, ERR_MEMORY, "does not fit: weights");
    crew_close(c);
}

static void bad_steps_fail_and_the_worker_lives(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    for (uint64_t epoch = 1; epoch <= 4; epoch++) {
        serve(&c, 1, epoch);
        struct step_row row = row_at(0, N_PROMPT, prompt);
        const int32_t bad = TINY_VOCAB;
        uint64_t number = 1;
        const char *word = "vocabulary";
        if (epoch == 1) {
            row.ids = &bad;
            row.n_tok = 1;
        } else if (epoch == 2) {
            number = 2;
            word = "step 2 after step 0";
        } else if (epoch == 3) {
            row.slot = 77;
            word = "slot";
        } else {
            send_step(&c, 1, epoch, number++, &row);
            result_of(c, epoch, 1);
            row = row_at(N_PROMPT, 1, NULL);
            row.flags |= ROW_CHAIN;
            row.from_step = 3 - 1 - 1;
            row.slot = 1;
            word = "no sequence";
        }
        send_step(&c, 1, epoch, number, &row);
        expect_failed(c, epoch, ERR_LINK_PROTOCOL, word);
        struct step_row late = row_at(0, N_PROMPT, prompt);
        send_step(&c, 1, epoch, number + 1, &late); // of a failed epoch: dropped
    }
    serve(&c, 1, 9);
    generate(&c, 1, 9, 1);
    crew_close(c);
}

static void a_lost_link_keeps_the_weights(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    serve(&c, 1, 7);
    generate(&c, 1, 7, 1);
    link_close(c->link);
    c->link = NULL;
    const int64_t from = clock_now_us();
    answer_dial(c);
    assert_true(clock_now_us() - from < 1000000);
    const struct msg_hello *h = &hear(c, MSG_HELLO)->hello;
    assert_memory_equal(h->held_hash, model->hash, 32);
    assert_true(h->held_from == 0 && h->held_to == TINY_LAYERS && h->held_embed && h->held_head);
    const struct msg m = {.kind = MSG_WELCOME, .welcome = {.worker = 1, .cluster = "test"}};
    tell(c, &m);
    serve(&c, 1, 1); // a coordinator that was started again counts from the beginning
    generate(&c, 1, 1, 0);
    crew_close(c);
}

static void a_silent_coordinator_is_left(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    const int64_t from = clock_now_us();
    while (next_message(c, from + 8000000)) {
    }
    const int64_t took = clock_now_us() - from;
    assert_in_range(took, 4500000, 6500000);
    link_close(c->link);
    welcome(c, true);
    crew_close(c);
}

static void protocol_violations_end_the_link(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    for (int kind = 0; kind < 4; kind++) {
        if (kind == 0) {
            link_send(c->link, "garbage", 7);
        } else if (kind == 1) {
            const struct msg m = {.kind = MSG_LINKED, .linked = {.epoch = 1, .transport = "x"}};
            tell(c, &m); // only workers say that
        } else if (kind == 2) {
            struct step_row row = row_at(0, N_PROMPT, prompt);
            send_step(&c, 1, 99, 1, &row); // an epoch that was never planned
        } else {
            struct crew *pair[2] = {c, crew_open(0)};
            serve(pair, 2, 1);
            struct step_row row = row_at(0, N_PROMPT, prompt);
            // the first stage gets none of them; in_flight is 3, and one is being waited for
            for (uint64_t i = 1; i <= 7; i++)
                send_step(pair + 1, 1, 1, i, &row);
            assert_false(next_message(pair[1], clock_now_us() + 2000000));
            crew_close(pair[1]);
            break;
        }
        assert_false(next_message(c, clock_now_us() + 2000000));
        link_close(c->link);
        welcome(c, true);
    }
    crew_close(c);
}

struct flood {
    struct link *link;
    atomic_int stop;
};

static void *flood_main(void *arg)
{
    struct flood *f = arg;
    struct buf b = {0};
    const struct msg m = {.kind = MSG_HEARTBEAT, .heartbeat = {.epoch = 1}};
    assert_int_equal(wire_pack(&m, &b), OK);
    while (!atomic_load(&f->stop))
        link_send(f->link, b.data, b.len);
    buf_fini(&b);
    return NULL;
}

static void a_flood_keeps_nothing_waiting(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    struct flood f = {.link = c->link};
    pthread_t thread;
    pthread_create(&thread, NULL, flood_main, &f);
    usleep(700000);
    atomic_store(&c->stop, 1);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    const bool has_ended = !pthread_timedjoin_np(c->thread, NULL, &until);
    atomic_store(&f.stop, 1);
    pthread_join(thread, NULL);
    assert_true(has_ended);
    assert_false(next_message(c, clock_now_us()));
    assert_true(c->n_beat >= 2);
    atomic_store(&c->stop, 0); // crew_close wants to join it once more
    pthread_create(&c->thread, NULL, crew_main, c);
    crew_close(c);
}

static void a_drain_sends_the_worker_away(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    serve(&c, 1, 1);
    const struct msg plan = plan_of(2, 0, 1), drain = {.kind = MSG_DRAIN};
    tell(c, &plan);
    tell(c, &drain);
    assert_false(
        next_message(c, clock_now_us() + 2000000)); // nor is the plan that waits carried out
    pthread_join(c->thread, NULL);
    assert_int_equal(c->ended, OK);
    pthread_create(&c->thread, NULL, crew_main, c); // crew_close wants to join it once more
    crew_close(c);
}

// However much was promised, what the machine has not got is refused before it is touched.
static void memory_is_asked_for_when_a_plan_comes(void **state)
{
    (void)state;
    struct probe machine = {0};
    assert_int_equal(probe_limits("", &machine, NULL), OK);
    struct crew *c = crew_open(machine.mem_total_bytes);
    struct msg m = plan_of(1, 0, 1);
    m.plan.settings.ctx = 1 << 22; // 128 GiB of counts
    m.plan.settings.n_slot = STEP_SLOTS_MAX;
    m.plan.settings.page_tok = 256;
    tell(c, &m);
    expect_failed(c, 1, ERR_MEMORY, "available are");
    crew_close(c);
}

static void a_final_refusal_ends_the_worker(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    const struct msg soft = {.kind = MSG_REFUSE, .refuse = {.code = ERR_BUSY, .why = "not now"}};
    tell(c, &soft);
    assert_false(next_message(c, clock_now_us() + 1000000));
    link_close(c->link);
    welcome(c, true);
    const struct msg hard = {
        .kind = MSG_REFUSE,
        .refuse = {.code = ERR_LINK_VERSION, .why = "too old", .is_final = true}};
    tell(c, &hard);
    pthread_join(c->thread, NULL);
    assert_int_equal(c->ended, ERR_LINK_VERSION);
    assert_string_equal(c->why.s, "too old");
    pthread_create(&c->thread, NULL, crew_main, c); // refused once, refused again at once
    crew_close(c);
}

static void dialling_can_end(void **state)
{
    (void)state;
    struct crew *c = crew_open(0);
    atomic_store(&c->n_give_up, 1);
    link_close(c->link);
    c->link = NULL;
    pthread_join(c->thread, NULL);
    assert_int_equal(c->ended, OK);
    pthread_create(&c->thread, NULL, crew_main, c);
    crew_close(c);
}

static void bad_configurations_are_refused(void **state)
{
    (void)state;
    struct err_text why = {0};
    struct worker *w = NULL;
    const char *nothing[] = {"/nonexistent/model.gguf", NULL};
    struct worker_config c = {.name = "Bad Name", .dial = dial};
    assert_int_equal(worker_open(&c, &w, &why), ERR_CONFIG);
    c.name = "w-1";
    c.models = nothing;
    assert_int_equal(worker_open(&c, &w, &why), ERR_CONFIG);
    assert_non_null(strstr(why.s, "/nonexistent/model.gguf"));
    c.models = NULL;
    c.device = "abacus";
    assert_int_equal(worker_open(&c, &w, &why), ERR_UNSUPPORTED);
    assert_null(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_worker_serves),
        cmocka_unit_test(stages_give_the_same_ids),
        cmocka_unit_test(heartbeats_show_progress),
        cmocka_unit_test(a_new_plan_interrupts_a_wait),
        cmocka_unit_test(old_epochs_are_dropped),
        cmocka_unit_test(bad_plans_fail_with_a_sentence),
        cmocka_unit_test(bad_steps_fail_and_the_worker_lives),
        cmocka_unit_test(a_lost_link_keeps_the_weights),
        cmocka_unit_test(a_silent_coordinator_is_left),
        cmocka_unit_test(protocol_violations_end_the_link),
        cmocka_unit_test(a_flood_keeps_nothing_waiting),
        cmocka_unit_test(a_drain_sends_the_worker_away),
        cmocka_unit_test(memory_is_asked_for_when_a_plan_comes),
        cmocka_unit_test(a_final_refusal_ends_the_worker),
        cmocka_unit_test(dialling_can_end),
        cmocka_unit_test(bad_configurations_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
