// cuda_step: what goes from the host to the device and back around the operations: pinned memory
// for copies, the lists of a step, and steps that are recorded as graphs.
//
// The lists of a step lie packed in one buffer of the device: ids, positions, runs list by list,
// then the page tables. Where each begins follows from the numbers of rows and runs, which the
// step's key fixes, so a recorded step finds new lists where the old ones were. Only the tables'
// places move, and those stand in the runs.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/pack.h"

#include <stdlib.h>

static const uint64_t SLOT_BYTES = 4 << 20; // of each way to the device at least, and of the way back
enum {
    N_SLOT = 8,
    N_IMAGE = 4, // steps on their way at once
    N_GRAPH = 128,
    LOOSE_BYTES = 4 << 20, // lists that came without a step
    LINE = 64,
};

struct slot {
    char *pinned;
    struct device_event *done;
    bool is_busy;
};
struct places { // places in the image, in bytes
    int32_t n_tok, n_list, n_run[KERNELS_LISTS_MAX];
    bool has_ids;
    uint64_t pos, runs[KERNELS_LISTS_MAX], pages;
};
struct recorded {
    uint64_t key;  // 0: free
    uint64_t used; // when
    bool is_split; // somebody waited within: it cannot be repeated
    bool is_seen;  // done once
    struct places layout;
    struct device_graph *graph; // or NULL
};
struct cuda_stage {
    pthread_mutex_t lock; // of slots
    pthread_cond_t free;
    struct slot slots[N_SLOT];
    uint64_t slot_bytes;
    uint32_t next_slot;
    char *back; // SLOT_BYTES, pinned

    struct slot images[N_IMAGE];
    uint64_t image_bytes, n_step;
    char *image; // device
    char *loose; // device
    uint64_t loose_at;

    struct kernels_step step; // told last
    struct places layout;
    struct recorded *now; // what is recorded or NULL
    bool is_recording;
    struct recorded recorded[N_GRAPH];
};

err_t cuda_take(struct cuda *c, uint64_t bytes, const char *what, void **out, struct err_text *why)
{
    return device_take(c->dev, bytes, what, out, why);
}

static void forget_graphs(struct cuda *c)
{
    struct cuda_stage *s = c->stage;
    for (int i = 0; i < N_GRAPH; i++) {
        device_graph_close(c->dev, s->recorded[i].graph);
        s->recorded[i] = {};
    }
}

static err_t open_slot(struct cuda *c, uint64_t bytes, struct slot *s, struct err_text *why)
{
    err_t e = device_pinned_take(c->dev, bytes, (void **)&s->pinned, why);
    return e ? e : device_event_open(c->dev, &s->done, why);
}
static void close_slot(struct cuda *c, struct slot *s)
{
    device_pinned_give(c->dev, s->pinned);
    device_event_close(c->dev, s->done);
    *s = {};
}

static void close_images(struct cuda *c)
{
    struct cuda_stage *s = c->stage;
    for (int i = 0; i < N_IMAGE; i++)
        close_slot(c, s->images + i);
    device_give(c->dev, s->image);
    s->image = NULL;
    s->image_bytes = 0;
}

static err_t open_images(struct cuda *c, uint64_t bytes, struct err_text *why)
{
    struct cuda_stage *s = c->stage;
    err_t e = cuda_take(c, bytes, "lists of a step", (void **)&s->image, why);
    for (int i = 0; i < N_IMAGE && !e; i++)
        e = open_slot(c, bytes, s->images + i, why);
    if (e) return e;
    s->image_bytes = bytes;
    return OK;
}

err_t cuda_step_open(struct cuda *c, struct err_text *why)
{
    struct cuda_stage *s = (struct cuda_stage *)calloc(1, sizeof *s);
    if (!s) return err_say(why, ERR_MEMORY, "cuda: no memory");
    c->stage = s;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->free, NULL);
    err_t e = OK;
    s->slot_bytes = SLOT_BYTES;
    for (int t = 0; t < DT_COUNT; t++) { // room for some rows of the widest weight
        const uint64_t tile = (uint64_t)pack_tile_bytes((enum dtype)t, c->lim.max_cols);
        if (tile > s->slot_bytes) s->slot_bytes = tile;
    }
    for (int i = 0; i < N_SLOT && !e; i++)
        e = open_slot(c, s->slot_bytes, s->slots + i, why);
    if (!e) e = device_pinned_take(c->dev, SLOT_BYTES, (void **)&s->back, why);
    if (!e) e = cuda_take(c, LOOSE_BYTES, "lists", (void **)&s->loose, why);
    // Room for a full step of short sequences, or one long sequence; more when it is needed.
    const uint64_t tok = (uint64_t)c->lim.max_tok, pages = (uint64_t)c->lim.max_ctx / 16 + 4 * tok;
    const uint64_t bytes = tok * (8 + KERNELS_LISTS_MAX * sizeof(struct cuda_run)) +
                           KERNELS_LISTS_MAX * (4 * pages + LINE) + 4 * LINE;
    if (!e) e = open_images(c, bytes, why);
    return e;
}

void cuda_step_close(struct cuda *c)
{
    struct cuda_stage *s = c->stage;
    if (!s) return;
    device_wait(c->dev);
    forget_graphs(c);
    for (int i = 0; i < N_SLOT; i++)
        close_slot(c, s->slots + i);
    close_images(c);
    device_pinned_give(c->dev, s->back);
    device_give(c->dev, s->loose);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->free);
    free(s);
    c->stage = NULL;
}

// -- recording --

// What was recorded so far is started.
static void end_recording(struct cuda *c)
{
    struct cuda_stage *s = c->stage;
    struct recorded *r = s->now;
    s->is_recording = false;
    r->graph = device_graph_end(c->dev);
    r->layout = s->layout;
    if (r->graph) device_graph_launch(c->dev, r->graph);
}

// Somebody wants to wait in the middle of a step: it is done as it comes, from now on.
static void leave_recording(struct cuda *c)
{
    struct cuda_stage *s = c->stage;
    if (!s->is_recording) return;
    end_recording(c);
    s->now->is_split = true;
    device_graph_close(c->dev, s->now->graph);
    s->now->graph = NULL;
}

static struct recorded *find_recorded(struct cuda *c, uint64_t key)
{
    struct cuda_stage *s = c->stage;
    struct recorded *oldest = s->recorded;
    for (int i = 0; i < N_GRAPH; i++) {
        struct recorded *r = s->recorded + i;
        if (r->key == key) return r;
        if (r->used < oldest->used) oldest = r;
    }
    device_graph_close(c->dev, oldest->graph);
    *oldest = {};
    oldest->key = key;
    return oldest;
}

// -- lists --

static int64_t n_pages(const struct attn_run *r, int32_t page_tok)
{
    // Who asks for runs only has no size of pages.
    return r->pages && page_tok ? cuda_ceil((int64_t)r->pos_from + r->n_tok, page_tok) : 0;
}

// Writes runs and, from page_at on, their tables; returns where the next table begins.
static int64_t pack_runs(const struct attn_run *runs, int32_t n_run, int32_t page_tok,
                         const uint32_t *slots, struct cuda_run *out, int32_t *pages,
                         int64_t page_at)
{
    for (int32_t i = 0; i < n_run; i++) {
        const struct attn_run *r = runs + i;
        const int64_t n = n_pages(r, page_tok);
        out[i] = {r->tok_from, r->n_tok, r->pos_from, (int32_t)page_at, slots ? slots[i] : 0, {}};
        if (n) memcpy(pages + page_at, r->pages, (size_t)n * sizeof *pages);
        page_at += n;
    }
    return page_at;
}

static uint64_t line_up(uint64_t at)
{
    return (at + LINE - 1) / LINE * LINE;
}

static struct places layout_of(const struct kernels_step *s)
{
    struct places l = {};
    l.n_tok = s->n_tok;
    l.n_list = s->n_list;
    l.has_ids = s->ids;
    uint64_t at = s->ids ? line_up(4 * (uint64_t)s->n_tok) : 0;
    l.pos = at;
    at = line_up(at + 4 * (uint64_t)s->n_tok);
    for (int i = 0; i < s->n_list; i++) {
        l.n_run[i] = s->n_run[i];
        l.runs[i] = at;
        at = line_up(at + (uint64_t)s->n_run[i] * sizeof(struct cuda_run));
    }
    l.pages = at;
    return l;
}

static bool same_layout(const struct places *a, const struct places *b)
{
    bool same = a->n_tok == b->n_tok && a->n_list == b->n_list && a->has_ids == b->has_ids;
    for (int i = 0; i < a->n_list && same; i++)
        same = a->n_run[i] == b->n_run[i];
    return same;
}

// The lists go on their way.
static err_t send_lists(struct cuda *c, const struct kernels_step *k)
{
    struct cuda_stage *s = c->stage;
    const struct places l = layout_of(k);
    int64_t n_page = 0;
    for (int i = 0; i < k->n_list; i++)
        for (int32_t j = 0; j < k->n_run[i]; j++)
            n_page += n_pages(k->runs[i] + j, k->page_tok);
    const uint64_t bytes = l.pages + 4 * (uint64_t)n_page;
    if (bytes > s->image_bytes) { // the addresses in recorded steps are no longer good
        forget_graphs(c);
        close_images(c);
        err_t e = open_images(c, 2 * bytes, NULL);
        if (e) return e;
    }
    struct slot *image = s->images + s->n_step++ % N_IMAGE;
    device_event_wait(c->dev, image->done);
    char *p = image->pinned;
    if (k->ids) memcpy(p, k->ids, (size_t)k->n_tok * 4);
    if (k->pos) memcpy(p + l.pos, k->pos, (size_t)k->n_tok * 4);
    n_page = 0;
    for (int i = 0; i < k->n_list; i++)
        n_page = pack_runs(k->runs[i], k->n_run[i], k->page_tok, k->slots[i],
                           (struct cuda_run *)(void *)(p + l.runs[i]),
                           (int32_t *)(void *)(p + l.pages), n_page);
    device_put(c->dev, s->image, p, bytes);
    device_event_record(c->dev, image->done);
    s->step = *k;
    s->layout = l;
    return OK;
}

bool cuda_step_enter(struct kernels *k, const struct kernels_step *step)
{
    struct cuda *c = cuda_of(k);
    struct cuda_stage *s = c->stage;
    BUG_ON(s->is_recording || step->n_list > KERNELS_LISTS_MAX);
    device_enter(c->dev);
    __atomic_fetch_add(&c->n_op, 1, __ATOMIC_RELAXED);
    s->now = NULL;
    cuda_no_kernel(c);
    if (send_lists(c, step)) { // the device's memory is at its end: nothing of the step is done
        cuda_fail(c, ERR_MEMORY, "cuda: no memory for the lists of a step");
        s->step = {};
        return true;
    }
    device_work_begin(c->dev, DEVICE_STEPS);
    if (!step->key || c->lim.eager) return false;
    struct recorded *r = find_recorded(c, step->key);
    r->used = s->n_step;
    if (r->graph && same_layout(&r->layout, &s->layout)) {
        device_graph_launch(c->dev, r->graph);
        return true;
    }
    device_graph_close(c->dev, r->graph);
    r->graph = NULL;
    // Once as it comes, which loads what has to be loaded; then recorded.
    s->now = r;
    s->is_recording = r->is_seen && !r->is_split;
    r->is_seen = true;
    if (s->is_recording) device_graph_begin(c->dev);
    return false;
}

void cuda_step_leave(struct kernels *k)
{
    struct cuda *c = cuda_of(k);
    if (c->stage->is_recording) end_recording(c);
    device_work_end(c->dev, DEVICE_STEPS);
    c->stage->now = NULL;
    c->stage->step.key = 0;
    __atomic_fetch_add(&c->n_op, 1, __ATOMIC_RELAXED);
}

bool cuda_is_fixed(const struct cuda *c)
{
    return c->stage->step.key != 0;
}

// A place for a list that came without a step, in the stream's order: the place is used again when
// the operations that read it have been given to the stream long before.
static char *loose_place(struct cuda *c, uint64_t bytes)
{
    struct cuda_stage *s = c->stage;
    BUG_ON(s->is_recording || bytes > LOOSE_BYTES / 2);
    if (s->loose_at + bytes > LOOSE_BYTES) s->loose_at = 0;
    char *p = s->loose + s->loose_at;
    s->loose_at = line_up(s->loose_at + bytes);
    return p;
}

const int32_t *cuda_ints_of(struct cuda *c, const int32_t *host, int32_t n)
{
    const struct cuda_stage *s = c->stage;
    const struct kernels_step *k = &s->step;
    if (k->ids && host >= k->ids && host + n <= k->ids + k->n_tok)
        return (const int32_t *)(const void *)s->image + (host - k->ids);
    if (k->pos && host >= k->pos && host + n <= k->pos + k->n_tok)
        return (const int32_t *)(const void *)(s->image + s->layout.pos) + (host - k->pos);
    char *to = loose_place(c, (uint64_t)n * 4);
    cuda_no_kernel(c);
    cuda_step_put(&c->base, to, host, (uint64_t)n * 4);
    return (const int32_t *)(const void *)to;
}

struct cuda_list cuda_list_of(struct cuda *c, const struct attn_run *runs, int32_t n_run,
                              int32_t page_tok, const uint32_t *slots)
{
    const struct cuda_stage *s = c->stage;
    const struct kernels_step *k = &s->step;
    for (int i = 0; i < k->n_list; i++) {
        if (runs < k->runs[i] || runs + n_run > k->runs[i] + k->n_run[i]) continue;
        BUG_ON(slots && slots != k->slots[i] + (runs - k->runs[i]));
        return {(const struct cuda_run *)(const void *)(s->image + s->layout.runs[i]) +
                    (runs - k->runs[i]),
                (const int32_t *)(const void *)(s->image + s->layout.pages)};
    }
    int64_t n_page = 0;
    for (int32_t i = 0; i < n_run; i++)
        n_page += n_pages(runs + i, page_tok);
    const uint64_t head = line_up((uint64_t)n_run * sizeof(struct cuda_run));
    const uint64_t bytes = head + 4 * (uint64_t)n_page;
    char *to = loose_place(c, bytes), *p = (char *)malloc(bytes + 1);
    cuda_no_kernel(c);
    if (!p) {
        cuda_fail(c, ERR_MEMORY, "cuda: no memory for a list");
        return {(const struct cuda_run *)(const void *)to, (const int32_t *)(const void *)to};
    }
    memset(p, 0, bytes);
    pack_runs(runs, n_run, page_tok, slots, (struct cuda_run *)(void *)p,
              (int32_t *)(void *)(p + head), 0);
    cuda_step_put(&c->base, to, p, bytes);
    free(p);
    return {(const struct cuda_run *)(const void *)to, (const int32_t *)(const void *)(to + head)};
}

// -- copies --

static struct slot *take_slot(struct cuda_stage *s)
{
    struct slot *got = NULL;
    pthread_mutex_lock(&s->lock);
    while (!got) {
        for (int i = 0; i < N_SLOT && !got; i++) {
            struct slot *slot = s->slots + s->next_slot++ % N_SLOT;
            if (!slot->is_busy) got = slot;
        }
        if (!got) pthread_cond_wait(&s->free, &s->lock);
    }
    got->is_busy = true;
    pthread_mutex_unlock(&s->lock);
    return got;
}

static void free_slot(struct cuda_stage *s, struct slot *slot)
{
    pthread_mutex_lock(&s->lock);
    slot->is_busy = false;
    pthread_cond_signal(&s->free);
    pthread_mutex_unlock(&s->lock);
}

// What its taker has put there goes on its way; others may have it then.
static void send_slot(struct cuda *c, struct slot *slot, void *dst, uint64_t bytes)
{
    device_put(c->dev, dst, slot->pinned, bytes);
    device_event_record(c->dev, slot->done);
    free_slot(c->stage, slot);
}

void cuda_step_put(struct kernels *k, void *dst, const void *src, uint64_t bytes)
{
    struct cuda *c = cuda_of(k);
    struct cuda_stage *s = c->stage;
    device_enter(c->dev);
    leave_recording(c);
    __atomic_fetch_add(&c->n_op, 1, __ATOMIC_RELAXED);
    for (uint64_t at = 0; at < bytes; at += s->slot_bytes) {
        const uint64_t n = bytes - at < s->slot_bytes ? bytes - at : s->slot_bytes;
        struct slot *slot = take_slot(s);
        device_event_wait(c->dev, slot->done);
        memcpy(slot->pinned, (const char *)src + at, n);
        send_slot(c, slot, (char *)dst + at, n);
    }
}

uint64_t cuda_step_loan_bytes(const struct cuda *c)
{
    return c->stage->slot_bytes;
}

void *cuda_step_borrow(struct cuda *c, int32_t *loan)
{
    device_enter(c->dev);
    struct slot *slot = take_slot(c->stage);
    device_event_wait(c->dev, slot->done);
    *loan = (int32_t)(slot - c->stage->slots);
    return slot->pinned;
}

void cuda_step_send(struct cuda *c, int32_t loan, void *dst, uint64_t bytes)
{
    __atomic_fetch_add(&c->n_op, 1, __ATOMIC_RELAXED);
    send_slot(c, c->stage->slots + loan, dst, bytes);
}

void cuda_step_get(struct kernels *k, void *dst, const void *src, uint64_t bytes)
{
    struct cuda *c = cuda_of(k);
    device_enter(c->dev);
    leave_recording(c);
    for (uint64_t at = 0; at < bytes; at += SLOT_BYTES) {
        const uint64_t n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        device_get(c->dev, c->stage->back, (const char *)src + at, n);
        device_wait(c->dev);
        memcpy((char *)dst + at, c->stage->back, n);
        __atomic_fetch_add(&c->n_op, 1, __ATOMIC_RELAXED);
    }
}
