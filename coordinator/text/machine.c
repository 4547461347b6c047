#include "coordinator/text/machine.h"

#include <stdlib.h>
#include <string.h>

enum { SEEN_SLOTS = 1 << 14, SEEN_MAX = SEEN_SLOTS / 2, TODO_MAX = SEEN_MAX };

static uint32_t fail(struct machine *m, err_t code)
{
    if (!m->err) m->err = code;
    return 0;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

size_t machine_bytes(const struct machine *m)
{
    return m->cap_stack * sizeof *m->stacks +
           m->cap_state * (sizeof *m->states + m->nfa->n_class * sizeof *m->steps) +
           m->cap_place * sizeof *m->places +
           (m->n_stack_slot + m->n_state_slot) * sizeof *m->stack_slots +
           SEEN_SLOTS * (sizeof *m->seen_at + sizeof *m->seen_in) +
           (TODO_MAX + MACHINE_PLACES_MAX) * sizeof *m->todo;
}

void machine_fini(struct machine *m)
{
    free(m->stacks);
    free(m->states);
    free(m->places);
    free(m->steps);
    free(m->stack_slots);
    free(m->state_slots);
    free(m->found);
    free(m->todo);
    free(m->seen_at);
    free(m->seen_in);
    *m = (struct machine){0};
}

// -- tables --

// `table` is the address of a pointer.
static bool grow(struct machine *m, void *table, uint32_t cap, size_t size)
{
    void *p;
    memcpy(&p, table, sizeof p);
    p = machine_bytes(m) + cap * size <= MACHINE_BYTES_HARD ? realloc(p, cap * size) : NULL;
    if (!p) return fail(m, ERR_TOO_LARGE);
    memcpy(table, &p, sizeof p);
    return true;
}

static bool grow_states(struct machine *m)
{
    const uint32_t cap = m->cap_state ? 2 * m->cap_state : 64;
    if (m->n_state < m->cap_state) return true;
    if (!grow(m, &m->states, cap, sizeof *m->states) ||
        !grow(m, &m->steps, cap, m->nfa->n_class * sizeof *m->steps))
        return false;
    m->cap_state = cap;
    return true;
}

static bool grow_places(struct machine *m, uint32_t more)
{
    uint32_t cap = m->cap_place ? m->cap_place : 256;
    if (m->n_place + more <= m->cap_place) return true;
    while (cap < m->n_place + more)
        cap *= 2;
    if (!grow(m, &m->places, cap, sizeof *m->places)) return false;
    m->cap_place = cap;
    return true;
}

static uint64_t stack_hash(uint32_t node, uint32_t count, uint32_t parent)
{
    return mix(mix(mix(0, node), count), parent);
}

static uint64_t state_hash(const uint64_t *places, uint32_t n, bool accepts)
{
    uint64_t h = accepts;
    for (uint32_t i = 0; i < n; i++)
        h = mix(h, places[i]);
    return h;
}

// A table of n_slot slots for `n` entries of which each is more than half empty; twice as large
// where it is not.
static bool rehash(struct machine *m, bool states)
{
    uint32_t **slots = states ? &m->state_slots : &m->stack_slots;
    uint32_t *n_slot = states ? &m->n_state_slot : &m->n_stack_slot;
    const uint32_t n = states ? m->n_state : m->n_stack, more = *n_slot ? 2 * *n_slot : 256;
    if (2 * n < *n_slot) return true;
    if (machine_bytes(m) + more * sizeof **slots > MACHINE_BYTES_HARD)
        return fail(m, ERR_TOO_LARGE);
    uint32_t *fresh = calloc(more, sizeof *fresh);
    if (!fresh) return fail(m, ERR_MEMORY);
    for (uint32_t i = 1; i < n; i++) {
        const struct machine_stack *k = &m->stacks[i];
        const struct machine_state *s = &m->states[i];
        uint64_t h = states ? state_hash(m->places + s->at, s->n, s->accepts)
                            : stack_hash(k->node, k->count, k->parent);
        while (fresh[h & (more - 1)])
            h++;
        fresh[h & (more - 1)] = i;
    }
    free(*slots);
    *slots = fresh;
    *n_slot = more;
    return true;
}

// The stack with one more on top.
static uint32_t push(struct machine *m, uint32_t node, uint32_t count, uint32_t parent)
{
    uint64_t h = stack_hash(node, count, parent);
    for (;; h++) {
        const uint32_t i = m->stack_slots[h & (m->n_stack_slot - 1)];
        if (!i) break;
        const struct machine_stack *k = &m->stacks[i];
        if (k->node == node && k->count == count && k->parent == parent) return i;
    }
    const uint32_t cap = 2 * m->cap_stack;
    if (m->n_stack == m->cap_stack) {
        if (!grow(m, &m->stacks, cap, sizeof *m->stacks)) return 0;
        m->cap_stack = cap;
    }
    const bool is_call = m->nfa->nodes[node].kind == NFA_CALL;
    const uint32_t height = parent ? m->stacks[parent].height + 1 : 1;
    if (height > MACHINE_HEIGHT_MAX) return fail(m, ERR_TOO_LARGE);
    m->stacks[m->n_stack] =
        (struct machine_stack){.node = node,
                               .count = count,
                               .parent = parent,
                               .height = height,
                               .depth = (parent ? m->stacks[parent].depth : 0) + is_call};
    m->stack_slots[h & (m->n_stack_slot - 1)] = m->n_stack++;
    const uint32_t made = m->n_stack - 1;
    return rehash(m, false) ? made : 0;
}

static int by_value(const void *x, const void *y)
{
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

static bool is_plain(const struct machine *m, uint64_t place)
{
    const struct nfa_node *n = &m->nfa->nodes[place >> 32];
    if (n->loop == NFA_LOOP_STAR) return true;
    if (n->loop != NFA_LOOP_COUNT) return false;
    const struct machine_stack *k = &m->stacks[(uint32_t)place];
    const uint32_t max = m->nfa->counts[m->nfa->nodes[k->node].other].max;
    return max == NFA_NO_MAX || max - k->count > m->longest;
}

// The state of the places in `found`.
static uint32_t state_of_found(struct machine *m)
{
    if (m->err) return MACHINE_DEAD;
    if (!m->n_found && !m->accepts) return MACHINE_DEAD;
    if (m->n_found > 1) qsort(m->found, m->n_found, sizeof *m->found, by_value);
    uint64_t h = state_hash(m->found, m->n_found, m->accepts);
    for (;; h++) {
        const uint32_t i = m->state_slots[h & (m->n_state_slot - 1)];
        if (!i) break;
        const struct machine_state *s = &m->states[i];
        if (s->n == m->n_found && s->accepts == m->accepts &&
            (!s->n || memcmp(m->places + s->at, m->found, s->n * sizeof *m->found) == 0))
            return i;
    }
    if (!grow_states(m) || !grow_places(m, m->n_found)) return MACHINE_DEAD;
    const uint32_t made = m->n_state++;
    struct machine_state *s = &m->states[made];
    *s = (struct machine_state){.at = m->n_place, .n = m->n_found, .accepts = m->accepts};
    for (uint32_t i = 0; i < m->n_found; i++) {
        const uint8_t kind = m->nfa->nodes[m->found[i] >> 32].kind;
        m->places[m->n_place++] = m->found[i];
        s->plain |= is_plain(m, m->found[i]);
        s->has_token |= kind == NFA_TOKEN || kind == NFA_CONTROL;
    }
    uint32_t *steps = m->steps + (size_t)made * m->nfa->n_class;
    for (uint32_t c = 0; c < m->nfa->n_class; c++)
        steps[c] = MACHINE_UNKNOWN;
    m->state_slots[h & (m->n_state_slot - 1)] = made;
    return rehash(m, true) ? made : MACHINE_DEAD;
}

// -- places --

static void look_at(struct machine *m, uint32_t node, uint32_t stack)
{
    const uint64_t place = (uint64_t)node << 32 | stack;
    if (m->err) return;
    const uint32_t need = m->nfa->depth[node];
    if (need + (stack ? m->stacks[stack].depth : 0) > NFA_DEPTH_MAX) return;
    uint64_t h = mix(0, place);
    for (; m->seen_in[h % SEEN_SLOTS] == m->round; h++)
        if (m->seen_at[h % SEEN_SLOTS] == place) return;
    if (++m->n_seen > SEEN_MAX || ++m->work > MACHINE_WORK_MAX) {
        fail(m, ERR_TOO_LARGE);
        return;
    }
    m->seen_at[h % SEEN_SLOTS] = place;
    m->seen_in[h % SEEN_SLOTS] = m->round;
    m->todo[m->n_todo++] = place;
}

// A body was done `count` times: again, and on.
static void repeat(struct machine *m, uint32_t node, uint32_t count, uint32_t parent)
{
    const struct nfa_node *n = &m->nfa->nodes[node];
    const struct nfa_count *c = &m->nfa->counts[n->other];
    if (count >= c->min) look_at(m, n->next, parent);
    if (count >= c->max) return;
    if (c->max == NFA_NO_MAX && count > c->min) count = c->min;
    if (m->nfa->depth[c->body] == NFA_NEVER_ENDS) return;
    const uint32_t stack = push(m, node, count, parent);
    if (stack) look_at(m, c->body, stack);
}

static void end(struct machine *m, uint32_t stack)
{
    if (!stack) {
        m->accepts = true;
        return;
    }
    const struct machine_stack k = m->stacks[stack];
    if (m->nfa->nodes[k.node].kind == NFA_CALL)
        look_at(m, m->nfa->nodes[k.node].next, k.parent);
    else
        repeat(m, k.node, k.count + 1, k.parent);
}

static void call(struct machine *m, uint32_t node, uint32_t stack)
{
    const struct nfa_node *n = &m->nfa->nodes[node];
    // What would only return again is not returned to: lists by recursion do not fill the stack.
    const bool is_tail = m->nfa->nodes[n->next].kind == NFA_END;
    if (!is_tail) stack = push(m, node, 0, stack);
    if (is_tail || stack) look_at(m, m->nfa->rules[n->other], stack);
}

static void start_round(struct machine *m)
{
    m->n_found = m->n_todo = m->n_seen = 0;
    m->accepts = false;
    if (++m->round == 0) {
        memset(m->seen_in, 0, SEEN_SLOTS * sizeof *m->seen_in);
        m->round = 1;
    }
}

// Follows everything that takes no byte.
static uint32_t settle(struct machine *m)
{
    while (m->n_todo && !m->err) {
        const uint64_t place = m->todo[--m->n_todo];
        const uint32_t node = (uint32_t)(place >> 32), stack = (uint32_t)place;
        const struct nfa_node *n = &m->nfa->nodes[node];
        switch (n->kind) {
        case NFA_END:
            end(m, stack);
            break;
        case NFA_SPLIT:
            look_at(m, n->next, stack);
            look_at(m, n->other, stack);
            break;
        case NFA_CALL:
            call(m, node, stack);
            break;
        case NFA_COUNT:
            repeat(m, node, 0, stack);
            break;
        default:
            if (m->n_found == MACHINE_PLACES_MAX)
                fail(m, ERR_TOO_LARGE);
            else
                m->found[m->n_found++] = place;
        }
    }
    return state_of_found(m);
}

static bool takes(const struct nfa *a, const struct nfa_node *n, uint8_t byte)
{
    if (n->kind == NFA_BYTE) return byte >= n->lo && byte <= n->hi;
    return n->kind == NFA_SET && a->sets[n->other].bits[byte / 64] >> (byte % 64) & 1;
}

uint32_t machine_make_step(struct machine *m, uint32_t state, uint8_t byte)
{
    const struct nfa *a = m->nfa;
    if (m->err) return MACHINE_DEAD;
    start_round(m);
    const struct machine_state s = m->states[state];
    m->work += s.n;
    for (uint32_t i = 0; i < s.n; i++) {
        const uint64_t place = m->places[s.at + i];
        const struct nfa_node *n = &a->nodes[place >> 32];
        if (takes(a, n, byte)) look_at(m, n->next, (uint32_t)place);
    }
    const uint32_t to = settle(m);
    if (!m->err) m->steps[(size_t)state * a->n_class + a->class_of[byte]] = to;
    return to;
}

uint32_t machine_step_token(struct machine *m, uint32_t state, int32_t id)
{
    if (m->err) return MACHINE_DEAD;
    start_round(m);
    const struct machine_state s = m->states[state];
    for (uint32_t i = 0; i < s.n; i++) {
        const uint64_t place = m->places[s.at + i];
        const struct nfa_node *n = &m->nfa->nodes[place >> 32];
        const bool is_it = n->other == (uint32_t)id;
        if (n->kind == NFA_TOKEN ? is_it : n->kind == NFA_CONTROL && !is_it)
            look_at(m, n->next, (uint32_t)place);
    }
    return settle(m);
}

void machine_tokens(const struct machine *m, uint32_t state,
                    void (*fn)(void *arg, int32_t id, bool any_but), void *arg)
{
    const struct machine_state *s = &m->states[state];
    for (uint32_t i = 0; i < s->n; i++) {
        const struct nfa_node *n = &m->nfa->nodes[m->places[s->at + i] >> 32];
        if (n->kind == NFA_TOKEN || n->kind == NFA_CONTROL)
            fn(arg, (int32_t)n->other, n->kind == NFA_CONTROL);
    }
}

uint32_t machine_start(struct machine *m)
{
    if (m->start) return m->start;
    start_round(m);
    look_at(m, m->nfa->root, 0);
    return m->start = settle(m);
}

void machine_begin(struct machine *m)
{
    m->err = OK;
    m->work = 0;
}

err_t machine_init(struct machine *m, const struct nfa *nfa, uint32_t longest)
{
    *m = (struct machine){.nfa = nfa, .longest = longest, .cap_stack = 64, .n_stack = 1};
    m->stacks = malloc(m->cap_stack * sizeof *m->stacks);
    m->found = malloc(MACHINE_PLACES_MAX * sizeof *m->found);
    m->todo = malloc(TODO_MAX * sizeof *m->todo);
    m->seen_at = malloc(SEEN_SLOTS * sizeof *m->seen_at);
    m->seen_in = calloc(SEEN_SLOTS, sizeof *m->seen_in);
    const bool ok = m->stacks && m->found && m->todo && m->seen_at && m->seen_in &&
                    grow_states(m) && rehash(m, true) && rehash(m, false);
    if (!ok) {
        machine_fini(m);
        return ERR_MEMORY;
    }
    m->stacks[0] = (struct machine_stack){0};
    m->states[0] = (struct machine_state){0};
    for (uint32_t c = 0; c < nfa->n_class; c++)
        m->steps[c] = MACHINE_DEAD;
    m->n_state = 1;
    return OK;
}

// -- likeness --

// The count from which the same texts of at most `longest` bytes can come.
static uint32_t alike_count(const struct machine *m, const struct machine_stack *k)
{
    const struct nfa_node *n = &m->nfa->nodes[k->node];
    if (n->kind != NFA_COUNT) return 0;
    const struct nfa_count *c = &m->nfa->counts[n->other];
    const uint64_t far = (uint64_t)m->longest + 1;
    if (k->count < c->min) return c->min - k->count > far ? 0 : k->count;
    return c->max == NFA_NO_MAX || c->max - k->count > far ? c->min : k->count;
}

// Parents come first.
static uint32_t alike_stack(struct machine *m, uint32_t stack)
{
    uint32_t chain[MACHINE_HEIGHT_MAX], n = 0;
    for (uint32_t s = stack; s && !m->stacks[s].alike; s = m->stacks[s].parent)
        chain[n++] = s;
    while (n-- > 0 && !m->err) {
        const struct machine_stack k = m->stacks[chain[n]];
        const uint32_t parent = k.parent ? m->stacks[k.parent].alike : 0;
        const uint32_t alike = push(m, k.node, alike_count(m, &k), parent);
        m->stacks[chain[n]].alike = alike;
        if (alike) m->stacks[alike].alike = alike;
    }
    return stack ? m->stacks[stack].alike : 0;
}

uint32_t machine_alike(struct machine *m, uint32_t state)
{
    if (m->states[state].alike || m->err) return m->states[state].alike;
    m->n_found = 0;
    m->accepts = m->states[state].accepts;
    for (uint32_t i = 0; i < m->states[state].n; i++) {
        const uint64_t place = m->places[m->states[state].at + i];
        const uint64_t node = place >> 32 << 32;
        m->found[m->n_found++] = node | alike_stack(m, (uint32_t)place);
    }
    if (m->err) return MACHINE_DEAD;
    // Places that were told apart by a count alone may be one now.
    uint32_t kept = 0;
    qsort(m->found, m->n_found, sizeof *m->found, by_value);
    for (uint32_t i = 0; i < m->n_found; i++)
        if (!kept || m->found[i] != m->found[kept - 1]) m->found[kept++] = m->found[i];
    m->n_found = kept;
    const uint32_t alike = state_of_found(m);
    m->states[state].alike = alike;
    if (alike) m->states[alike].alike = alike;
    return alike;
}

// -- renewal --

static uint32_t copy_stack(struct machine *to, const struct machine *from, uint32_t stack)
{
    uint32_t chain[MACHINE_HEIGHT_MAX], n = 0, at = 0;
    for (uint32_t s = stack; s; s = from->stacks[s].parent)
        chain[n++] = s;
    while (n-- > 0 && !to->err)
        at = push(to, from->stacks[chain[n]].node, from->stacks[chain[n]].count, at);
    return at;
}

static uint32_t copy_state(struct machine *to, const struct machine *from, uint32_t state)
{
    const struct machine_state *s = &from->states[state];
    to->n_found = 0;
    to->accepts = s->accepts;
    for (uint32_t i = 0; i < s->n; i++) {
        const uint64_t place = from->places[s->at + i];
        to->found[to->n_found++] = place >> 32 << 32 | copy_stack(to, from, (uint32_t)place);
    }
    return state_of_found(to);
}

void machine_renew(struct machine *m, uint32_t *const *live, uint32_t n)
{
    struct machine fresh;
    uint32_t *renewed = calloc(n + 1, sizeof *renewed);
    if (!renewed || machine_init(&fresh, m->nfa, m->longest) != OK) {
        free(renewed);
        fail(m, ERR_MEMORY);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        renewed[i] = copy_state(&fresh, m, *live[i]);
    if (fresh.err) {
        machine_fini(&fresh);
        fail(m, ERR_TOO_LARGE);
    } else {
        for (uint32_t i = 0; i < n; i++)
            *live[i] = renewed[i];
        machine_fini(m);
        *m = fresh;
    }
    free(renewed);
}
