#include "coordinator/text/nfa.h"

#include <stdlib.h>
#include <string.h>

// What each node needs of others, backwards: a list of those that lead to it.
struct leads {
    uint32_t *head; // (n_node) entry + 1; 0: none
    struct {
        uint32_t from, next;
    } * entry;
    uint32_t n;
};

static void lead(struct leads *l, uint32_t from, uint32_t to)
{
    l->entry[l->n].from = from;
    l->entry[l->n].next = l->head[to];
    l->head[to] = ++l->n;
}

static bool leads_init(struct nfa *a, struct leads *l)
{
    *l = (struct leads){.head = nfa_take(a, a->n_node, sizeof *l->head),
                        .entry = nfa_take(a, 2 * (size_t)a->n_node, sizeof *l->entry)};
    if (!nfa_ok(a)) return false;
    for (uint32_t i = 1; i < a->n_node; i++) {
        const struct nfa_node *n = &a->nodes[i];
        if (n->kind == NFA_NEVER) continue;
        lead(l, i, n->next);
        if (n->kind == NFA_SPLIT) lead(l, i, n->other);
        if (n->kind == NFA_CALL) lead(l, i, a->rules[n->other]);
        if (n->kind == NFA_COUNT && a->counts[n->other].min) lead(l, i, a->counts[n->other].body);
    }
    return true;
}

// The least that a node's way to the end takes, given what is known of those it leads to, or
// NFA_NEVER_ENDS as long as that is too little. bytes: nodes that take one have a way.
static uint32_t least(const struct nfa *a, const uint8_t *depth, uint32_t i, bool bytes)
{
    const struct nfa_node *n = &a->nodes[i];
    const uint32_t next = depth[n->next];
    uint32_t other = 0;
    switch (n->kind) {
    case NFA_SPLIT:
        return next < depth[n->other] ? next : depth[n->other];
    case NFA_CALL:
        other = depth[a->rules[n->other]];
        if (other != NFA_NEVER_ENDS && a->nodes[n->next].kind != NFA_END) other++;
        break;
    case NFA_COUNT:
        if (a->counts[n->other].min) other = depth[a->counts[n->other].body];
        break;
    default:
        return bytes ? next : NFA_NEVER_ENDS;
    }
    return next > other ? next : other;
}

// Fills depth, smallest first (Knuth 1977, a generalisation of Dijkstra's algorithm): each node is
// settled once, when all that it needs is.
static bool settle(struct nfa *a, const struct leads *l, bool bytes, uint8_t *depth)
{
    uint32_t *todo = nfa_take(a, a->n_node, sizeof *todo); // list per level, linked
    uint32_t first[NFA_DEPTH_MAX + 2] = {0};
    bool *listed = nfa_take(a, a->n_node, sizeof *listed);
    if (!nfa_ok(a)) return false;
    memset(depth, NFA_NEVER_ENDS, a->n_node);
    depth[0] = 0;
    for (uint32_t level = 0; level <= NFA_DEPTH_MAX; level++) {
        uint32_t i = level ? first[level] : 0;
        bool any = level == 0 || i;
        while (any) {
            if (i) {
                first[level] = todo[i];
                depth[i] = (uint8_t)level;
            }
            for (uint32_t e = l->head[i]; e; e = l->entry[e - 1].next) {
                const uint32_t from = l->entry[e - 1].from;
                const uint32_t d = listed[from] ? NFA_NEVER_ENDS : least(a, depth, from, bytes);
                if (d > NFA_DEPTH_MAX) continue;
                listed[from] = true;
                todo[from] = first[d];
                first[d] = from;
            }
            i = first[level];
            any = i != 0;
        }
    }
    return true;
}

// -- rules that would call themselves without a byte between --

struct look {
    const uint8_t *empty; // (n_node) not NFA_NEVER_ENDS: there is a way to the end without a byte
    uint32_t *stack;      // nodes
    uint32_t *seen;       // (n_node) rule that looked at it last
    uint32_t *called;     // (n_rule) the same of rules
    uint32_t n;
};

static void push(struct look *k, uint32_t rule, uint32_t node)
{
    if (k->seen[node] == rule) return;
    k->seen[node] = rule;
    k->stack[k->n++] = node;
}

// The rules that `rule` can call before it has taken a byte.
static void each_first_call(const struct nfa *a, struct look *k, uint32_t rule, uint32_t *calls,
                            uint32_t *n_call)
{
    *n_call = 0;
    k->n = 0;
    push(k, rule, a->rules[rule]);
    while (k->n) {
        const struct nfa_node *n = &a->nodes[k->stack[--k->n]];
        bool passes = false;
        if (n->kind == NFA_SPLIT) {
            push(k, rule, n->other);
            passes = true;
        } else if (n->kind == NFA_CALL) {
            passes = k->empty[a->rules[n->other]] != NFA_NEVER_ENDS;
            if (k->called[n->other] != rule) calls[(*n_call)++] = n->other;
            k->called[n->other] = rule;
        } else if (n->kind == NFA_COUNT) {
            push(k, rule, a->counts[n->other].body);
            passes = a->counts[n->other].min == 0;
        }
        if (passes) push(k, rule, n->next);
    }
}

// Takes away, again and again, rules that first call none but those taken away. What is left calls
// itself.
static bool check_progress(struct nfa *a, const uint8_t *empty)
{
    struct look k = {.empty = empty,
                     .stack = nfa_take(a, a->n_node, sizeof *k.stack),
                     .seen = nfa_take(a, a->n_node, sizeof *k.seen),
                     .called = nfa_take(a, a->n_rule, sizeof *k.called)};
    uint32_t *calls = nfa_take(a, a->n_rule, sizeof *calls);
    uint32_t *n_open = nfa_take(a, a->n_rule, sizeof *n_open);
    uint32_t *head = nfa_take(a, a->n_rule, sizeof *head); // of a rule's callers
    uint32_t *done = nfa_take(a, a->n_rule, sizeof *done), n_done = 0;
    struct caller {
        uint32_t rule, next;
    } *caller = nfa_take(a, NFA_NODES_MAX / 4, sizeof *caller);
    uint32_t n_caller = 0, n_call;
    if (!nfa_ok(a)) return false;
    for (uint32_t r = 1; r < a->n_rule; r++) {
        each_first_call(a, &k, r, calls, &n_call);
        if (n_caller + n_call > NFA_NODES_MAX / 4) {
            nfa_fail(a, ERR_TOO_LARGE, "the grammar is too large: too many rules within rules");
            return false;
        }
        n_open[r] = n_call;
        if (!n_call) done[n_done++] = r;
        for (uint32_t i = 0; i < n_call; i++) {
            caller[n_caller] = (struct caller){r, head[calls[i]]};
            head[calls[i]] = ++n_caller;
        }
    }
    for (uint32_t i = 0; i < n_done; i++)
        for (uint32_t c = head[done[i]]; c; c = caller[c - 1].next)
            if (--n_open[caller[c - 1].rule] == 0) done[n_done++] = caller[c - 1].rule;
    if (n_done + 1 == a->n_rule) return true;
    nfa_fail(a, ERR_TOO_LARGE, "a cycle: a rule or $ref that leads to itself with nothing between");
    return false;
}

// -- bytes --

static void find_classes(struct nfa *a)
{
    bool cut[257] = {[0] = true};
    for (uint32_t i = 0; i < a->n_node; i++) {
        const struct nfa_node *n = &a->nodes[i];
        if (n->kind == NFA_BYTE) cut[n->lo] = cut[n->hi + 1] = true;
    }
    for (uint32_t i = 0; i < a->n_set; i++) {
        bool was = false;
        for (uint32_t c = 0; c < 256; c++) {
            const bool is = a->sets[i].bits[c / 64] >> (c % 64) & 1;
            cut[c] |= is != was;
            was = is;
        }
    }
    a->n_class = 0;
    for (uint32_t c = 0; c < 256; c++) {
        if (cut[c]) a->byte_of[a->n_class++] = (uint8_t)c;
        a->class_of[c] = (uint8_t)(a->n_class - 1);
    }
}

err_t nfa_close(struct nfa *a, uint32_t root)
{
    struct leads l;
    uint8_t *empty = nfa_take(a, a->n_node, 1);
    a->root = root;
    if (nfa_ok(a)) {
        a->depth = malloc(a->n_node);
        if (!a->depth) nfa_fail(a, ERR_MEMORY, "no memory for a grammar");
    }
    if (nfa_ok(a) && leads_init(a, &l) && settle(a, &l, false, empty) && check_progress(a, empty) &&
        settle(a, &l, true, a->depth)) {
        find_classes(a);
        if (a->depth[root] == NFA_NEVER_ENDS)
            nfa_fail(a, ERR_INVALID, "no text can satisfy it (within %d levels of nesting)",
                     NFA_DEPTH_MAX);
    }
    arena_fini(&a->work);
    return a->err;
}
