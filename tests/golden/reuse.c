// reuse: conversations through the scheduler and real stages, twice: alone, computing everything;
// and together, with prefix cache, windows that free their pages, snapshots of recurrent state, too
// few pages, and a loss of all state in the middle. The same ids and the same logits, bit for bit,
// must come out.
//
//   reuse [--stages N] [--seeds N] [--precision fast] DIR|FILE [DIR|FILE...]
//
// One line for each model. Exit code 0: all the same. 1: not. 2: usage.
#include "coordinator/schedule/sched.h"
#include "worker/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    STAGES = 8,
    TALKS = 5,
    TURNS = 3,
    JOBS = TALKS * TURNS,
    PROMPT_MAX = 48, // new tokens of a turn
    ANSWER_MAX = 40,
    CTX = TURNS * (PROMPT_MAX + ANSWER_MAX),
    PAGE_TOK = 16,
    SLOTS = 4,
    STEP_TOK = 40,
    IN_FLIGHT_MAX = 4
};

static uint64_t rng;

static uint32_t any(uint32_t n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

// One turn of a conversation: what was asked before and answered, and new tokens.
struct job {
    int32_t ids[CTX];
    uint32_t n_prompt, n_answer, n_more; // n_more: of n_prompt, those that are new
    uint64_t digests[ANSWER_MAX];
};

struct options {
    uint32_t n_stage, n_seed, precision;
};

// Stages, the scheduler that drives them, and results that were computed but not yet told.
struct lane {
    const struct model *model;
    struct stage *stages[STAGES];
    uint32_t n_stage;
    struct sched_config cfg;
    struct sched *sched;
    float *x;
    int32_t drawn[SLOTS]; // last id of each slot
    struct {
        struct arena arena;
        struct step_result result;
    } queue[IN_FLIGHT_MAX];
    uint32_t head, n_queue;
};

static bool sees_less(const struct model_shape *s)
{
    for (int32_t i = 0; i < s->n_layer; i++)
        if (s->layers[i].is_local)
            return step_sees_from(CTX - 1, (uint32_t)s->window, (uint32_t)s->chunk) > 0;
    return false;
}

static bool is_recurrent(const struct model *m)
{
    for (int32_t i = 0; i < m->shape.n_layer; i++)
        if (model_state_bytes(m, i)) return true;
    return false;
}

static struct sched_config config_alone(const struct model *m)
{
    return (struct sched_config){.epoch = 1,
                                 .n_stage = 1,
                                 .in_flight = 1,
                                 .n_slot = 1,
                                 .n_page = CTX / PAGE_TOK + 1,
                                 .page_tok = PAGE_TOK,
                                 .window = (uint32_t)m->shape.window,
                                 .chunk = (uint32_t)m->shape.chunk,
                                 .recurrent = is_recurrent(m),
                                 .max_tok = CTX,
                                 .max_rows = 2,
                                 .ctx = CTX,
                                 .queue_max = 4};
}

static struct sched_config config_together(const struct model *m, uint32_t n_stage)
{
    struct sched_config c = config_alone(m);
    c.n_stage = n_stage;
    c.in_flight = n_stage + 1 < IN_FLIGHT_MAX ? n_stage + 1 : IN_FLIGHT_MAX;
    c.n_slot = SLOTS;
    c.n_page = CTX / PAGE_TOK + 5;
    c.max_tok = STEP_TOK;
    c.max_rows = SLOTS;
    c.queue_max = JOBS;
    c.prefix_cache = c.chain = true;
    c.n_snapshot = c.recurrent ? 5 : 0;
    if (sees_less(&m->shape)) c.n_page_local = (uint32_t)sched_local_pages(&c, SLOTS - 1);
    return c;
}

static bool lane_open(struct lane *l, const struct model *m, const struct options *o,
                      const struct sched_config *c)
{
    const uint32_t n = (uint32_t)m->shape.n_layer;
    *l = (struct lane){.model = m, .n_stage = c->n_stage < n ? c->n_stage : n, .cfg = *c};
    l->x = calloc((size_t)c->max_tok * (size_t)m->shape.dim, sizeof *l->x);
    l->sched = sched_new(c->queue_max);
    if (!l->x || !l->sched || sched_configure(l->sched, c)) return false;
    for (uint32_t i = 0; i < l->n_stage; i++) {
        const struct stage_config sc = {.model = m,
                                        .layer_from = n * i / l->n_stage,
                                        .layer_to = n * (i + 1) / l->n_stage,
                                        .embed = i == 0,
                                        .head = i + 1 == l->n_stage,
                                        .settings = {.ctx = c->ctx,
                                                     .page_tok = c->page_tok,
                                                     .n_page = c->n_page,
                                                     .n_page_local = c->n_page_local,
                                                     .n_snapshot = c->n_snapshot,
                                                     .n_slot = c->n_slot,
                                                     .max_tok = c->max_tok,
                                                     .max_rows = c->max_rows,
                                                     .in_flight = c->in_flight,
                                                     .kv_dtype = DT_F16,
                                                     .precision = o->precision},
                                        .n_threads = 1};
        struct err_text why = {0};
        if (stage_open(&sc, NULL, &l->stages[i], &why)) {
            fprintf(stderr, "stage %u: %s\n", i, why.s);
            return false;
        }
    }
    return true;
}

static void forget_results(struct lane *l)
{
    for (; l->n_queue; l->n_queue--, l->head = (l->head + 1) % IN_FLIGHT_MAX)
        arena_fini(&l->queue[l->head].arena);
}

static void lane_close(struct lane *l)
{
    forget_results(l);
    for (uint32_t i = 0; i < l->n_stage; i++)
        stage_close(l->stages[i]);
    sched_free(l->sched);
    free(l->x);
}

// Computes the next step; its result is told later. False: there is none, or (with `bad`) a stage
// refused it.
static bool send_one(struct lane *l, bool *bad)
{
    struct step st;
    if (!sched_next(l->sched, 1, &st)) return false;
    const uint32_t at = (l->head + l->n_queue++) % IN_FLIGHT_MAX;
    struct arena *arena = &l->queue[at].arena;
    struct step_result *r = &l->queue[at].result;
    int32_t chained[SLOTS];
    uint32_t n_chained = 0;
    arena_init(arena, 0);
    for (uint32_t i = 0; i < st.n_row; i++)
        if (!st.rows[i].ids) chained[n_chained++] = l->drawn[st.rows[i].slot];
    for (uint32_t i = 0; i < l->n_stage; i++) {
        struct err_text why = {0};
        if (stage_check(l->stages[i], &st, &why) ||
            stage_run(l->stages[i], &st, l->x, chained, arena, r)) {
            fprintf(stderr, "stage %u: %s\n", i, why.s);
            return !(*bad = true);
        }
    }
    for (uint32_t i = 0; i < r->n_item; i++)
        if (r->items[i].id >= 0) l->drawn[r->items[i].slot] = r->items[i].id;
    return true;
}

// Tells the oldest result; false: none. What came out differently from `want` (the job's) is bad.
static bool bring_one(struct lane *l, const struct job *want, uint32_t *n_ended, bool *bad)
{
    if (!l->n_queue) return false;
    struct err_text why;
    const struct step_result *r = &l->queue[l->head].result;
    if (sched_commit(l->sched, r, l->model->shape.n_vocab, 1, &why)) {
        fprintf(stderr, "commit: %s\n", why.s);
        *bad = true;
    }
    uint32_t n;
    const struct sched_event *e = sched_events(l->sched, &n);
    for (uint32_t i = 0; i < n; i++) {
        struct request *req = e[i].choice->req;
        struct job *j = req->owner;
        if (e[i].kind == EVENT_TOKEN) {
            const uint32_t k = j->n_answer++;
            j->ids[j->n_prompt + k] = e[i].item->id;
            j->digests[k] = e[i].item->digest;
            if (!want) continue;
            const struct job *w = req->engine;
            *bad |= w->ids[w->n_prompt + k] != e[i].item->id || w->digests[k] != e[i].item->digest;
        } else if (e[i].kind == EVENT_FINISH) {
            *bad |= e[i].choice->finish != FINISH_LENGTH;
            ++*n_ended;
            request_free(req);
        }
    }
    const char *broken = sched_check(l->sched);
    if (broken) fprintf(stderr, "scheduler: %s\n", broken);
    *bad |= broken != NULL;
    arena_fini(&l->queue[l->head].arena);
    l->head = (l->head + 1) % IN_FLIGHT_MAX;
    l->n_queue--;
    return true;
}

static bool submit(struct lane *l, struct job *j, struct job *want, uint32_t n_answer)
{
    struct request *r = request_new(0);
    if (!r) return false;
    r->prompt = j->ids;
    r->n_prompt = j->n_prompt;
    r->max_tokens = n_answer;
    r->sampling.temperature = 0.8f;
    r->sampling.seed = j->n_prompt;
    r->sampling.digest = true;
    r->owner = j;
    r->engine = want;
    struct err_text why = {0};
    if (request_init_choices(r, 1) || sched_submit(l->sched, r, 1, &why)) {
        fprintf(stderr, "submit: %s\n", why.s);
        request_free(r);
        return false;
    }
    return true;
}

// Every turn of every conversation by itself; fills what must come out.
static bool run_alone(struct lane *l, struct job *jobs)
{
    bool bad = false;
    for (uint32_t i = 0; i < JOBS && !bad; i++) {
        const uint32_t turn = i % TURNS, n_answer = 1 + any(ANSWER_MAX);
        struct job *j = &jobs[i];
        *j = (struct job){.n_more = 1 + any(PROMPT_MAX)};
        if (turn) {
            j->n_prompt = j[-1].n_prompt + j[-1].n_answer;
            memcpy(j->ids, j[-1].ids, j->n_prompt * sizeof *j->ids);
        } else if (i && any(2)) { // begins as another does
            j->n_prompt = 1 + any(jobs[0].n_prompt);
            memcpy(j->ids, jobs[0].ids, j->n_prompt * sizeof *j->ids);
            if (j->n_prompt + j->n_more > PROMPT_MAX) j->n_more = 1;
        }
        for (uint32_t k = 0; k < j->n_more; k++)
            j->ids[j->n_prompt++] = (int32_t)any((uint32_t)l->model->shape.n_vocab);
        uint32_t n_ended = 0;
        if (!submit(l, j, NULL, n_answer)) return false;
        while (!n_ended && !bad && (send_one(l, &bad) || bring_one(l, NULL, &n_ended, &bad)))
            ;
        bad |= n_ended != 1;
    }
    return !bad;
}

// All conversations at once, each turn when the one before has ended.
static bool run_together(struct lane *l, const struct job *want)
{
    struct job *jobs = calloc(JOBS, sizeof *jobs);
    uint32_t n_ended = 0, n_sent = 0, turns[TALKS] = {0};
    const uint32_t lost_at = any(JOBS);
    bool bad = !jobs, is_lost = false;
    while (n_ended < JOBS && !bad) {
        const uint32_t talk = any(TALKS), at = talk * TURNS + turns[talk];
        const bool is_free =
            turns[talk] < TURNS && (!turns[talk] || jobs[at - 1].n_answer == want[at - 1].n_answer);
        if (is_free && any(3) == 0) {
            jobs[at] = want[at];
            jobs[at].n_answer = 0;
            bad |= !submit(l, &jobs[at], (struct job *)&want[at], want[at].n_answer);
            turns[talk]++;
            n_sent++;
        }
        if (n_ended >= lost_at && !is_lost) {
            forget_results(l);
            l->cfg.epoch++;
            bad |= sched_configure(l->sched, &l->cfg) != OK;
            for (uint32_t i = 0; i < l->n_stage; i++)
                stage_reset(l->stages[i]);
            is_lost = true;
        }
        if (any(3) == 0 || !send_one(l, &bad)) bring_one(l, want, &n_ended, &bad);
    }
    free(jobs);
    return !bad && n_sent == JOBS;
}

static bool check_seed(const struct model *m, const struct options *o, struct sched_stats *sum)
{
    struct lane alone, together;
    struct job *jobs = calloc(JOBS, sizeof *jobs);
    const struct sched_config one = config_alone(m), all = config_together(m, o->n_stage);
    bool ok = jobs && lane_open(&alone, m, o, &one);
    if (!ok) exit(2); // no memory, or a model that cannot be opened at all
    ok = run_alone(&alone, jobs);
    lane_close(&alone);
    if (ok) {
        ok = lane_open(&together, m, o, &all) && run_together(&together, jobs);
        const struct sched_stats t = sched_stats_get(together.sched);
        sum->prefix_hits += t.prefix_hits;
        sum->preemptions += t.preemptions;
        sum->prompt_tokens += t.prompt_tokens;
        lane_close(&together);
    }
    free(jobs);
    return ok;
}

static bool check_model(const char *given, const struct options *o)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/model.gguf", given);
    if (access(path, R_OK)) snprintf(path, sizeof path, "%s", given);
    struct model *m;
    struct err_text why = {0};
    if (model_open(path, &m, &why)) {
        printf("%-60s FAILED: %s\n", given, why.s);
        return false;
    }
    struct sched_stats sum = {0};
    bool ok = true;
    uint32_t seed = 1;
    for (; seed <= o->n_seed && ok; seed++) {
        rng = seed;
        ok = check_seed(m, o, &sum);
    }
    if (ok && !sum.prefix_hits) {
        snprintf(why.s, sizeof why.s, "nothing was ever reused");
        ok = false;
    } else if (!ok) {
        snprintf(why.s, sizeof why.s, "seed %u differs", seed - 1);
    }
    printf("%-24s %s%s: %u seeds, %llu of %llu prompt tokens reused, %llu preemptions%s%s\n",
           m->shape.arch, ok ? "same bits" : "FAILED: ", why.s, seed - 1,
           (unsigned long long)sum.prefix_hits, (unsigned long long)sum.prompt_tokens,
           (unsigned long long)sum.preemptions, sees_less(&m->shape) ? ", windows" : "",
           is_recurrent(m) ? ", recurrent state" : "");
    model_close(m);
    return ok;
}

int main(int argc, char **argv)
{
    struct options o = {.n_stage = 2, .n_seed = 3, .precision = 1};
    int i = 1, bad = 0;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (!strcmp(argv[i], "--stages"))
            o.n_stage = (uint32_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seeds"))
            o.n_seed = (uint32_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--precision"))
            o.precision = strcmp(argv[i + 1], "fast") != 0;
        else
            return 2;
    }
    if (i >= argc || !o.n_seed || !o.n_stage || o.n_stage > STAGES) return 2;
    for (; i < argc; i++)
        bad |= !check_model(argv[i], &o);
    return bad;
}
