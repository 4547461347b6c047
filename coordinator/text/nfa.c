#include "coordinator/text/nfa.h"

#include <stdlib.h>
#include <string.h>

void nfa_init(struct nfa *a, struct err_text *why)
{
    *a = (struct nfa){.why = why};
    arena_init(&a->work, NFA_WORK_BYTES);
    a->cap_node = 1024;
    a->nodes = malloc(a->cap_node * sizeof *a->nodes);
    if (!a->nodes) {
        nfa_fail(a, ERR_MEMORY, "no memory for a grammar");
        return;
    }
    a->nodes[0] = (struct nfa_node){.kind = NFA_END};
    a->n_node = 1;
    nfa_rule(a); // rule 0 is nobody's
}

void nfa_fini(struct nfa *a)
{
    arena_fini(&a->work);
    free(a->nodes);
    free(a->sets);
    free(a->counts);
    free(a->rules);
    free(a->depth);
    *a = (struct nfa){0};
}

uint32_t nfa_fail(struct nfa *a, err_t code, const char *fmt, ...)
{
    if (a->err) return 0;
    va_list ap;
    va_start(ap, fmt);
    a->err = err_vsay(a->why, code, fmt, ap);
    va_end(ap);
    return 0;
}

void *nfa_take(struct nfa *a, size_t n, size_t size)
{
    void *p = a->err ? NULL : arena_take_n(&a->work, n, size);
    if (!p)
        nfa_fail(a, ERR_TOO_LARGE, "the grammar takes more than %d MiB to compile",
                 NFA_WORK_BYTES >> 20);
    return p;
}

size_t nfa_bytes(const struct nfa *a)
{
    return a->n_node * (sizeof *a->nodes + sizeof *a->depth) + a->n_set * sizeof *a->sets +
           a->n_count * sizeof *a->counts + a->n_rule * sizeof *a->rules;
}

// Room for one more in a table that grows to `most`; `table` is the address of a pointer.
static bool grow(struct nfa *a, void *table, uint32_t n, uint32_t *cap, uint32_t most, size_t size)
{
    void *p;
    if (a->err) return false;
    if (n < *cap) return true;
    const uint32_t more = *cap ? 2 * *cap : 16;
    memcpy(&p, table, sizeof p);
    p = n < most ? realloc(p, more * size) : NULL;
    if (!p) {
        nfa_fail(a, ERR_TOO_LARGE, "the grammar is too large: more than %u states", n);
        return false;
    }
    memcpy(table, &p, sizeof p);
    *cap = more;
    return true;
}

static uint32_t add(struct nfa *a, struct nfa_node node)
{
    if (!grow(a, &a->nodes, a->n_node, &a->cap_node, NFA_NODES_MAX, sizeof *a->nodes)) return 0;
    a->nodes[a->n_node] = node;
    return a->n_node++;
}

uint32_t nfa_byte(struct nfa *a, uint8_t lo, uint8_t hi, uint32_t next)
{
    return add(a, (struct nfa_node){.kind = NFA_BYTE, .lo = lo, .hi = hi, .next = next});
}

// Many nodes have the same few sets; those made lately are looked through.
static uint32_t set_index(struct nfa *a, const struct nfa_set *s)
{
    enum { LATELY = 64 };
    for (uint32_t i = a->n_set; i-- > 0 && a->n_set - i <= LATELY;)
        if (memcmp(&a->sets[i], s, sizeof *s) == 0) return i;
    if (!grow(a, &a->sets, a->n_set, &a->cap_set, NFA_SETS_MAX, sizeof *a->sets)) return 0;
    a->sets[a->n_set] = *s;
    return a->n_set++;
}

uint32_t nfa_bytes_of(struct nfa *a, const struct nfa_set *s, uint32_t next)
{
    if (!(s->bits[0] | s->bits[1] | s->bits[2] | s->bits[3])) return nfa_never(a);
    const uint32_t index = set_index(a, s);
    return add(a, (struct nfa_node){.kind = NFA_SET, .next = next, .other = index});
}

uint32_t nfa_split(struct nfa *a, uint32_t one, uint32_t other)
{
    return add(a, (struct nfa_node){.kind = NFA_SPLIT, .next = one, .other = other});
}

uint32_t nfa_never(struct nfa *a)
{
    return add(a, (struct nfa_node){.kind = NFA_NEVER});
}

uint32_t nfa_text(struct nfa *a, const char *s, size_t len, uint32_t next)
{
    while (len-- > 0)
        next = nfa_byte(a, (uint8_t)s[len], (uint8_t)s[len], next);
    return next;
}

uint32_t nfa_str(struct nfa *a, const char *s, uint32_t next)
{
    return nfa_text(a, s, strlen(s), next);
}

uint32_t nfa_call(struct nfa *a, uint32_t rule, uint32_t next)
{
    return add(a, (struct nfa_node){.kind = NFA_CALL, .next = next, .other = rule});
}

uint32_t nfa_token(struct nfa *a, int32_t id, uint32_t next)
{
    return add(a, (struct nfa_node){.kind = NFA_TOKEN, .next = next, .other = (uint32_t)id});
}

uint32_t nfa_control(struct nfa *a, int32_t but, uint32_t next)
{
    return add(a, (struct nfa_node){.kind = NFA_CONTROL, .next = next, .other = (uint32_t)but});
}

uint32_t nfa_hub(struct nfa *a)
{
    return nfa_split(a, 0, 0);
}

void nfa_hub_set(struct nfa *a, uint32_t hub, uint32_t one, uint32_t other)
{
    if (a->err) return;
    a->nodes[hub].next = one;
    a->nodes[hub].other = other;
}

uint32_t nfa_times(struct nfa *a, uint32_t body, uint32_t min, uint32_t max, uint32_t next)
{
    if (max == 0) return next;
    if (min > NFA_COUNT_MAX || (max != NFA_NO_MAX && max > NFA_COUNT_MAX))
        return nfa_fail(a, ERR_TOO_LARGE, "a repetition of %u times, at most %d can be counted",
                        min > NFA_COUNT_MAX ? min : max, NFA_COUNT_MAX);
    if (!grow(a, &a->counts, a->n_count, &a->cap_count, NFA_COUNTS_MAX, sizeof *a->counts))
        return 0;
    a->counts[a->n_count] = (struct nfa_count){.body = body, .min = min, .max = max};
    return add(a, (struct nfa_node){.kind = NFA_COUNT, .next = next, .other = a->n_count++});
}

uint32_t nfa_rule(struct nfa *a)
{
    if (!grow(a, &a->rules, a->n_rule, &a->cap_rule, NFA_RULES_MAX, sizeof *a->rules)) return 0;
    a->rules[a->n_rule] = 0;
    return a->n_rule++;
}

void nfa_rule_set(struct nfa *a, uint32_t rule, uint32_t first)
{
    if (!a->err) a->rules[rule] = first;
}
