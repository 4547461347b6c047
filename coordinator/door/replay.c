#include "coordinator/door/replay.h"
#include "proto/base/fnv.h"
#include "proto/base/list.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

// A turn and all it points to, in one piece.
struct entry {
    struct list node;   // by use, most recent first
    struct list bucket; // by the first call's id
    uint64_t key;
    size_t bytes;
    struct replay_turn turn;
};

struct replay {
    pthread_mutex_t lock;
    size_t max_bytes;
    struct list used;
    struct list buckets[BUCKETS];
    struct replay_stats stats;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

struct replay_text replay_trim(struct replay_text t)
{
    while (t.len && is_space(t.s[t.len - 1]))
        t.len--;
    for (; t.len && is_space(*t.s); t.s++)
        t.len--;
    return t;
}

// The dialects give one id with different words before it.
static struct replay_text bare_id(struct replay_text id)
{
    const char *at = id.len ? memrchr(id.s, '_', id.len) : NULL;
    const size_t skip = at ? (size_t)(at + 1 - id.s) : 0;
    return (struct replay_text){id.s + skip, id.len - skip};
}

static uint64_t key_of(uint64_t tenant, struct replay_text id)
{
    const struct replay_text bare = bare_id(id);
    return fnv_add(FNV_BEGIN ^ tenant, bare.s, bare.len);
}

struct replay *replay_new(size_t max_bytes)
{
    struct replay *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->max_bytes = max_bytes;
    list_init(&r->used);
    for (int i = 0; i < BUCKETS; i++)
        list_init(&r->buckets[i]);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

static void drop(struct replay *r, struct entry *e)
{
    list_remove(&e->node);
    list_remove(&e->bucket);
    r->stats.n_turn--;
    r->stats.bytes -= e->bytes;
    free(e);
}

void replay_free(struct replay *r)
{
    if (!r) return;
    list_each(it, &r->used) drop(r, list_item(it, struct entry, node));
    pthread_mutex_destroy(&r->lock);
    free(r);
}

// -- copies --

static size_t text_bytes(const struct replay_turn *t)
{
    size_t n = t->content.len + t->reasoning.len + t->tail.len;
    for (uint32_t i = 0; i < t->n_call; i++)
        n += t->calls[i].id.len + t->calls[i].name.len + t->calls[i].arguments.len;
    return n;
}

static size_t copy_bytes(const struct replay_turn *t)
{
    return t->n_call * sizeof *t->calls + t->n_id * sizeof *t->ids + text_bytes(t);
}

static struct replay_text copy_text(char **to, struct replay_text t)
{
    const struct replay_text copy = {*to, t.len};
    if (t.len) memcpy(*to, t.s, t.len);
    *to += t.len;
    return copy;
}

// Into copy_bytes bytes, aligned for pointers.
static struct replay_turn copy_turn(const struct replay_turn *t, void *mem)
{
    struct replay_turn copy = *t;
    struct replay_call *calls = mem;
    int32_t *ids = (int32_t *)(calls + t->n_call);
    char *text = (char *)(ids + t->n_id);
    if (t->n_id) memcpy(ids, t->ids, t->n_id * sizeof *ids);
    for (uint32_t i = 0; i < t->n_call; i++) {
        calls[i].id = copy_text(&text, t->calls[i].id);
        calls[i].name = copy_text(&text, t->calls[i].name);
        calls[i].arguments = copy_text(&text, t->calls[i].arguments);
    }
    copy.calls = calls;
    copy.ids = ids;
    copy.content = copy_text(&text, t->content);
    copy.reasoning = copy_text(&text, t->reasoning);
    copy.tail = copy_text(&text, t->tail);
    return copy;
}

void replay_keep(struct replay *r, const struct replay_turn *t)
{
    const size_t bytes = sizeof(struct entry) + copy_bytes(t);
    if (!t->n_call || t->n_call > REPLAY_CALLS_MAX || bytes > r->max_bytes) return;
    struct entry *e = malloc(bytes);
    if (!e) return;
    e->key = key_of(t->tenant, t->calls[0].id);
    e->bytes = bytes;
    e->turn = copy_turn(t, e + 1);
    pthread_mutex_lock(&r->lock);
    while (r->stats.bytes + bytes > r->max_bytes)
        drop(r, list_item(r->used.prev, struct entry, node));
    list_push_front(&r->used, &e->node);
    list_push_front(&r->buckets[e->key % BUCKETS], &e->bucket);
    r->stats.n_turn++;
    r->stats.bytes += bytes;
    pthread_mutex_unlock(&r->lock);
}

// -- the same turn? --

static bool same_text(struct replay_text a, struct replay_text b)
{
    return a.len == b.len && (!a.len || memcmp(a.s, b.s, a.len) == 0);
}

// A string member; absent and null are empty. False: it is something else.
static bool text_member(const struct json *j, const char *key, struct replay_text *out)
{
    const struct json *m = json_get(j, key);
    *out = (struct replay_text){"", 0};
    if (!m || m->kind == J_NULL) return true;
    if (m->kind == J_STR) *out = (struct replay_text){m->str.s, m->str.len};
    return m->kind == J_STR;
}

// `sent`: an object, or the text that is none (also as reply_put_object wraps it).
static bool same_arguments(struct replay_text ours, const struct json *sent)
{
    const struct json *parsed, *wrapped = json_get(sent, "invalid_json");
    struct arena a;
    if (!sent) return false;
    if (sent->kind == J_STR)
        return same_text(ours, (struct replay_text){sent->str.s, sent->str.len});
    if (sent->kind != J_OBJ) return false;
    arena_init(&a, 64 * (ours.len + 1024));
    const bool is_object =
        json_read(ours.s, ours.len, &a, &parsed, NULL, NULL) == OK && parsed->kind == J_OBJ;
    // Callers read arguments and write them again, so that 1.0 may become 1.
    bool same = is_object && json_same(parsed, sent);
    if (!is_object && wrapped && wrapped->kind == J_STR && sent->obj.n == 1)
        same = same_text(ours, (struct replay_text){wrapped->str.s, wrapped->str.len});
    arena_fini(&a);
    return same;
}

static bool same_call(const struct replay_call *ours, const struct json *call)
{
    const struct json *f = json_get(call, "function");
    struct replay_text id, name;
    return text_member(call, "id", &id) && text_member(f, "name", &name) &&
           same_text(bare_id(ours->id), bare_id(id)) && same_text(ours->name, name) &&
           same_arguments(ours->arguments, json_get(f, "arguments"));
}

static bool same_turn(const struct replay_turn *t, const struct json *message)
{
    const struct json *calls = json_get(message, "tool_calls");
    struct replay_text content, reasoning;
    if (calls->arr.n != t->n_call || !text_member(message, "content", &content) ||
        !text_member(message, "reasoning_content", &reasoning))
        return false;
    bool same = same_text(replay_trim(t->content), replay_trim(content));
    if (reasoning.len) same &= same_text(replay_trim(t->reasoning), replay_trim(reasoning));
    for (uint32_t i = 0; same && i < t->n_call; i++)
        same = same_call(&t->calls[i], &calls->arr.items[i]);
    return same;
}

const struct replay_turn *replay_find(struct replay *r, uint64_t tenant, const struct json *message,
                                      struct arena *a)
{
    const struct json *calls = json_get(message, "tool_calls");
    struct replay_turn *found = NULL;
    struct replay_text id;
    if (!calls || calls->kind != J_ARR || !calls->arr.n) return NULL;
    if (!text_member(&calls->arr.items[0], "id", &id) || !id.len) return NULL;
    const uint64_t key = key_of(tenant, id);
    pthread_mutex_lock(&r->lock);
    list_each(it, &r->buckets[key % BUCKETS])
    {
        struct entry *e = list_item(it, struct entry, bucket);
        if (e->key != key || e->turn.tenant != tenant || !same_turn(&e->turn, message)) continue;
        found = arena_take(a, sizeof *found + copy_bytes(&e->turn));
        if (found) *found = copy_turn(&e->turn, found + 1);
        list_remove(&e->node);
        list_push_front(&r->used, &e->node);
        break;
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

void replay_count(struct replay *r, uint32_t n_exact, uint32_t n_rendered)
{
    pthread_mutex_lock(&r->lock);
    r->stats.n_exact += n_exact;
    r->stats.n_rendered += n_rendered;
    pthread_mutex_unlock(&r->lock);
}

struct replay_stats replay_stats_get(struct replay *r)
{
    pthread_mutex_lock(&r->lock);
    const struct replay_stats s = r->stats;
    pthread_mutex_unlock(&r->lock);
    return s;
}

// -- notes --

void replay_notes_fini(struct replay_notes *n)
{
    buf_fini(&n->content);
    buf_fini(&n->reasoning);
    buf_fini(&n->calls);
}

static struct replay_text next_text(const char **at)
{
    const struct replay_text t = {*at, strlen(*at)};
    *at += t.len + 1;
    return t;
}

void replay_keep_notes(struct replay *r, const struct replay_notes *n, struct replay_turn t)
{
    struct replay_call calls[REPLAY_CALLS_MAX];
    const char *at = n->calls.data;
    size_t n_nul = 0;
    if (!n->n_call || n->n_call > REPLAY_CALLS_MAX || !buf_ok(&n->content) ||
        !buf_ok(&n->reasoning) || !buf_ok(&n->calls))
        return;
    for (size_t i = 0; i < n->calls.len; i++)
        n_nul += !n->calls.data[i];
    if (n_nul != 3 * (size_t)n->n_call) return; // the model wrote some itself
    for (uint32_t i = 0; i < n->n_call; i++) {
        calls[i].id = next_text(&at);
        calls[i].name = next_text(&at);
        calls[i].arguments = next_text(&at);
    }
    t.content = (struct replay_text){n->content.data ? n->content.data : "", n->content.len};
    t.reasoning =
        (struct replay_text){n->reasoning.data ? n->reasoning.data : "", n->reasoning.len};
    t.calls = calls;
    t.n_call = n->n_call;
    replay_keep(r, &t);
}
