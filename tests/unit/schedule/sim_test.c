// Random worlds: arrivals, hang-ups, stop strings, bad logits, lost placements, too few pages.
// Every stream must come out token by token, end once, and everything must be quiet afterwards.
// SCHED_SIM_SEEDS: how many; SCHED_SIM_SEED: only this one.
#include "tests/unit/schedule/sim.h"

enum { JOBS_MAX = 40, CTX = 96, END_ID = 5 };

struct world {
    uint64_t rng;
    struct sched *s;
    struct lane lane;
    struct job *jobs[JOBS_MAX];
    uint32_t n_job, n_live;
    bool suspended;
    int64_t now_us;
    uint64_t epoch;
};

static uint32_t n_tokens_seen, n_vectors_seen, n_preempted, n_refused, n_epochs;
static uint64_t n_hits, n_hits_local, n_hits_recurrent;

// Plain models, those with windows, with recurrent state, with both.
static void any_kind(uint64_t *g, struct sched_config *c)
{
    if (sim_rand(g, 2)) {
        if (sim_rand(g, 3)) c->window = 1 + sim_rand(g, 30);
        if (!c->window || sim_rand(g, 4) == 0) c->chunk = 1 + sim_rand(g, 40);
        c->n_page_local = (uint32_t)sched_local_pages(c, 1 + sim_rand(g, c->n_slot));
        if (sim_rand(g, 2)) c->n_page_local += sim_rand(g, 60 / c->page_tok + 1);
        if (sim_rand(g, 8) == 0) c->n_page_local = 0;
    }
    if (sim_rand(g, 2)) {
        c->recurrent = true;
        c->n_snapshot = sim_rand(g, 2 * c->n_slot + 4);
    }
}

static struct sched_config any_config(struct world *w)
{
    uint64_t *g = &w->rng;
    struct sched_config c = {.epoch = ++w->epoch, .ctx = CTX, .dim = 1};
    c.n_stage = 1 + sim_rand(g, 4);
    c.in_flight = 1 + sim_rand(g, c.n_stage + 2);
    c.piece_tok = sim_rand(g, 2) ? 1 + sim_rand(g, 64) : 0;
    c.n_slot = 1 + sim_rand(g, 7);
    c.page_tok = 1 + sim_rand(g, 8);
    c.n_page = CTX / c.page_tok / 2 + sim_rand(g, 2 * CTX / c.page_tok);
    c.max_tok = 2 + sim_rand(g, 40);
    c.max_rows = 2 + sim_rand(g, 8);
    c.queue_max = 3 + sim_rand(g, 20);
    c.prefix_cache = sim_rand(g, 5) > 0;
    any_kind(g, &c);
    c.chain = sim_rand(g, 4) > 0;
    return c;
}

static void check_finish(struct job *j, const struct sched_event *e)
{
    const struct choice *c = e->choice;
    uint32_t i = c->index, n = j->n_seen[i];
    SIM_CHECK(!j->is_over[i], "job %llu ends twice", (unsigned long long)j->id);
    SIM_CHECK(c->state == CHOICE_DONE && c->slot == -1, "finish: state");
    j->is_over[i] = true;
    switch (c->finish) {
    case FINISH_STOP:
        if (j->is_ended[i]) break;
        if (j->pooling) {
            SIM_CHECK(n == 1 && c->n_generated == 0, "ended with %u vectors", n);
            break;
        }
        SIM_CHECK(c->n_generated == n + 1 && c->generated[n] == END_ID && c->req->n_end &&
                      j->ids[i][j->n_prompt + n] == END_ID,
                  "stopped without an end id");
        break;
    case FINISH_LENGTH:
        SIM_CHECK(n == j->max_tokens && c->n_generated == n, "length at %u", n);
        break;
    case FINISH_CANCELLED:
        SIM_CHECK(j->is_ended[i], "cancelled by nobody");
        break;
    case FINISH_ERROR:
        SIM_CHECK(c->req->error == ERR_DEVICE ? j->poison_pos < j->n_known + !!j->pooling
                                              : c->req->error == ERR_TOO_LARGE,
                  "error %d", c->req->error);
        break;
    default:
        SIM_CHECK(false, "finish %d", c->finish);
    }
    if (!e->request_done) return;
    for (uint32_t k = 0; k < j->n_choice; k++)
        SIM_CHECK(j->is_over[k], "request given back while choice %u lives", k);
}

static void drain(struct world *w)
{
    uint32_t n;
    const struct sched_event *ev = sched_events(w->s, &n);
    for (uint32_t i = 0; i < n; i++) {
        const struct sched_event *e = &ev[i];
        struct job *j = e->choice->req->owner;
        uint32_t k = e->choice->index;
        switch (e->kind) {
        case EVENT_TOKEN:
            SIM_CHECK(!j->is_over[k] && j->n_seen[k] < j->max_tokens &&
                          e->item->id == j->ids[k][j->n_prompt + j->n_seen[k]],
                      "job %llu choice %u: token %u", (unsigned long long)j->id, k, j->n_seen[k]);
            SIM_CHECK(e->item->id != END_ID || !e->choice->req->n_end, "an end id as a token");
            j->n_seen[k]++;
            n_tokens_seen++;
            break;
        case EVENT_SCORES:
            SIM_CHECK(k == 0 && e->from == j->n_score + 1 && e->n_score, "scores from %u", e->from);
            for (uint32_t p = 0; p < e->n_score; p++, j->n_score++)
                SIM_CHECK(e->scores[p] ==
                              job_score(j->kv[0][e->from + p - 1], j->ids[0][e->from + p]),
                          "score of %u", e->from + p);
            SIM_CHECK(j->n_score < j->n_prompt, "too many scores");
            break;
        case EVENT_VECTOR:
            SIM_CHECK(j->pooling && *e->item->vector == (float)j->n_prompt, "another's vector");
            j->n_seen[0]++;
            n_vectors_seen++;
            break;
        case EVENT_FINISH:
            check_finish(j, e);
            if (!e->request_done) break;
            if (e->choice->req->score_prompt && e->choice->req->choices[0].n_generated)
                SIM_CHECK(j->n_score == j->n_prompt - 1, "%u scores", j->n_score);
            request_free(j->req);
            j->req = NULL;
            w->n_live--;
            break;
        }
    }
    const char *broken = sched_check(w->s);
    SIM_CHECK(!broken, "%s", broken);
}

static struct job *any_live(struct world *w)
{
    if (!w->n_job) return NULL;
    uint32_t from = sim_rand(&w->rng, w->n_job);
    for (uint32_t i = 0; i < w->n_job; i++) {
        struct job *j = w->jobs[(from + i) % w->n_job];
        if (j->req) return j;
    }
    return NULL;
}

// A prompt that often continues an older conversation or shares the start of a common one.
static uint32_t any_prompt(struct world *w, int32_t *prompt, uint32_t most)
{
    uint64_t *g = &w->rng;
    uint32_t n = 1 + sim_rand(g, most), kind = sim_rand(g, 3), from = 0;
    if (kind == 0 && w->n_job) {
        const struct job *j = w->jobs[sim_rand(g, w->n_job)];
        from = j->n_known < n ? j->n_known : n;
        memcpy(prompt, j->ids[0], from * sizeof *prompt);
    } else if (kind == 1) {
        for (from = 0; from < n * 3 / 4; from++)
            prompt[from] = (int32_t)(from * 7 % SIM_VOCAB);
    }
    for (; from < n; from++)
        prompt[from] = (int32_t)sim_rand(g, SIM_VOCAB);
    return n;
}

static void submit(struct world *w)
{
    static const int32_t end_ids[] = {END_ID};
    if (w->n_job == JOBS_MAX) return;
    uint64_t *g = &w->rng;
    int32_t prompt[CTX];
    uint32_t n_prompt = any_prompt(w, prompt, sim_rand(g, 3) ? 40 : CTX - 10);
    const bool is_pooled = sim_rand(g, 8) == 0;
    uint32_t max_tokens = is_pooled ? 0 : 1 + sim_rand(g, 30);
    struct job *j = job_new(w->n_job + 1, prompt, n_prompt, max_tokens,
                            is_pooled || sim_rand(g, 3) ? 1 : 1 + sim_rand(g, SIM_CHOICES));
    w->jobs[w->n_job++] = j;
    if (is_pooled) j->pooling = (enum pooling)(POOLING_LAST + sim_rand(g, 3));
    j->tenant = sim_rand(g, 4) == 0;
    struct request *r = job_request(j);
    if (sim_seed & 1) { // who goes first changes nothing of what is said
        r->priority = (int32_t)sim_rand(g, 3) - 1;
        r->session = sim_rand(g, 4);
    }
    if (sim_rand(g, 25) == 0) j->poison_pos = n_prompt + sim_rand(g, max_tokens + 3);
    if (sim_rand(g, 2)) {
        r->end_ids = end_ids;
        r->n_end = 1;
    }
    r->score_prompt = !is_pooled && sim_rand(g, 6) == 0;
    if (sim_rand(g, 4) == 0) r->sampling.repetition = 1.25f;
    r->sampling.n_logprobs = (int32_t)sim_rand(g, 4) - 1;
    struct err_text why = {""};
    err_t e = sched_submit(w->s, r, w->now_us, &why);
    if (!e) {
        w->n_live++;
        return;
    }
    const struct sched_config *c = &w->lane.cfg;
    if (e == ERR_TOO_LARGE)
        SIM_CHECK(n_prompt + max_tokens > c->ctx ||
                      (n_prompt + max_tokens - !is_pooled + c->page_tok - 1) / c->page_tok >
                          c->n_page,
                  "refused: %s", why.s);
    else
        SIM_CHECK(e == ERR_BUSY && sched_stats_get(w->s).n_waiting + j->n_choice > c->queue_max,
                  "refused: %s", why.s);
    SIM_CHECK(why.s[0], "refused without a word");
    n_refused++;
    request_free(r);
    j->req = NULL;
}

static void hang_up(struct world *w)
{
    struct job *j = any_live(w);
    if (!j) return;
    if (sim_rand(&w->rng, 2)) {
        for (uint32_t i = 0; i < j->n_choice; i++)
            j->is_ended[i] = true;
        sched_cancel(w->s, j->req, w->now_us);
    } else {
        uint32_t i = sim_rand(&w->rng, j->n_choice);
        j->is_ended[i] = true;
        sched_finish(w->s, &j->req->choices[i], FINISH_STOP, w->now_us);
    }
    drain(w);
}

static bool send_one(struct world *w)
{
    struct step st;
    if (!sched_next(w->s, w->now_us, &st)) return false;
    SIM_CHECK(!w->suspended, "a step while suspended");
    lane_send(&w->lane, &st);
    return true;
}

static bool bring_one(struct world *w)
{
    if (!w->lane.n_queue) return false;
    int64_t sent_us;
    SIM_CHECK(w->suspended ||
                  sched_oldest_step(w->s, &sent_us) == w->lane.last_number - w->lane.n_queue + 1,
              "oldest step");
    struct step_result res = lane_run(&w->lane);
    struct err_text why;
    err_t e = sched_commit(w->s, &res, SIM_VOCAB, w->now_us, &why);
    SIM_CHECK(e == OK, "%s", why.s);
    drain(w);
    return true;
}

static void configure(struct world *w)
{
    // Results of the old epoch may come late, before and after.
    if (sim_rand(&w->rng, 2)) {
        sched_suspend(w->s);
        w->suspended = true;
        drain(w);
        if (sim_rand(&w->rng, 2)) bring_one(w);
        if (sim_rand(&w->rng, 2)) submit(w);
        if (sim_rand(&w->rng, 3) == 0) hang_up(w);
        SIM_CHECK(!send_one(w), "a step while suspended");
    }
    struct step_item late_item = {.id = 1};
    struct step_result late = {.epoch = w->epoch, .number = 1, .items = &late_item, .n_item = 1};
    struct sched_config c = any_config(w);
    n_preempted += (uint32_t)sched_stats_get(w->s).preemptions;
    lane_fini(&w->lane);
    lane_init(&w->lane, &c, w->jobs);
    w->suspended = false;
    SIM_CHECK(sched_configure(w->s, &c) == OK, "configure");
    drain(w);
    SIM_CHECK(sched_commit(w->s, &late, SIM_VOCAB, w->now_us, NULL) == OK, "a late result");
    n_epochs++;
}

static void act(struct world *w)
{
    w->now_us++;
    uint32_t what = sim_rand(&w->rng, 100);
    if (what < 12)
        submit(w);
    else if (what < 15)
        hang_up(w);
    else if (what < 16)
        configure(w);
    else if (what < 55)
        while (send_one(w))
            ;
    else if (what < 65)
        send_one(w);
    else
        bring_one(w);
    const char *broken = sched_check(w->s);
    SIM_CHECK(!broken, "%s", broken);
}

static void run_world(uint64_t seed)
{
    struct world w = {.rng = sim_mix(seed, 99)};
    sim_seed = seed;
    w.s = sched_new(8);
    struct sched_config c = any_config(&w);
    lane_init(&w.lane, &c, w.jobs);
    SIM_CHECK(sched_configure(w.s, &c) == OK, "configure");
    uint32_t n = 150 + sim_rand(&w.rng, 300);
    for (uint32_t i = 0; i < n; i++)
        act(&w);
    for (uint32_t i = 0; w.n_live; i++) {
        bool any = false;
        while (send_one(&w))
            any = true;
        any |= bring_one(&w);
        SIM_CHECK(any, "stuck: %u requests live, nothing to do", w.n_live);
        SIM_CHECK(i < 100000, "no end");
    }
    struct sched_stats t = sched_stats_get(w.s);
    SIM_CHECK(!t.n_running && !t.n_waiting && !t.n_page_used, "not quiet");
    n_preempted += (uint32_t)t.preemptions;
    SIM_CHECK(!t.n_page_local_used, "not quiet");
    n_hits += t.prefix_hits;
    if (w.lane.cfg.n_page_local) n_hits_local += t.prefix_hits;
    if (w.lane.cfg.recurrent) n_hits_recurrent += t.prefix_hits;
    sched_free(w.s);
    lane_fini(&w.lane);
    for (uint32_t i = 0; i < w.n_job; i++) {
        for (uint32_t k = 0; k < w.jobs[i]->n_choice; k++)
            SIM_CHECK(!w.jobs[i]->n_seen[k] || w.jobs[i]->is_over[k], "a stream without an end");
        job_free(w.jobs[i]);
    }
}

static void test_worlds(void **state)
{
    (void)state;
    const char *one = getenv("SCHED_SIM_SEED"), *many = getenv("SCHED_SIM_SEEDS");
    if (one) {
        run_world(strtoull(one, NULL, 10));
        return;
    }
    uint64_t n = many ? strtoull(many, NULL, 10) : 2000;
    for (uint64_t seed = 1; seed <= n; seed++)
        run_world(seed);
    printf("%llu worlds: %u tokens, %u vectors, %u preemptions, %u epochs, %u refused; prefix "
           "tokens %llu, "
           "with windows %llu, with recurrent state %llu\n",
           (unsigned long long)n, n_tokens_seen, n_vectors_seen, n_preempted, n_epochs, n_refused,
           (unsigned long long)n_hits, (unsigned long long)n_hits_local,
           (unsigned long long)n_hits_recurrent);
    // The worlds must have been worth it.
    assert_true(n < 100 || (n_vectors_seen > n && n_preempted > n / 4 && n_epochs > n / 2 &&
                            n_hits > n && n_hits_local > n / 2 && n_hits_recurrent > n / 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_worlds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
