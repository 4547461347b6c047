#include "coordinator/text/vocab.h"

#include <stdlib.h>
#include <string.h>

enum { LOOK_AT_LIST = -1 };
#define NO_MERGE UINT32_MAX

void merge_fini(struct merge *m)
{
    free(m->syms);
    free(m->items);
    free(m->lists);
    free(m->list_of_rank);
    free(m->heap);
}

static bool grow(void **p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t want = *cap ? *cap * 2 : 256;
    if (want < need) want = need;
    void *q = realloc(*p, want * size);
    if (!q) return false;
    *p = q;
    *cap = want;
    return true;
}

bool merge_reserve(struct merge *m, size_t n_sym)
{
    return n_sym < INT32_MAX / 4 && grow((void **)&m->syms, &m->cap_sym, n_sym, sizeof *m->syms);
}

// --- the heap ---------------------------------------------------------------------------------

static bool heap_push(struct merge *m, uint64_t key)
{
    if (!grow((void **)&m->heap, &m->cap_heap, m->n_heap + 1, sizeof *m->heap)) return false;
    size_t i = m->n_heap++;
    for (; i > 0 && m->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = key;
    return true;
}

static void heap_pop(struct merge *m)
{
    uint64_t key = m->heap[--m->n_heap];
    size_t i = 0, n = m->n_heap;
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && m->heap[kid + 1] < m->heap[kid]) kid++;
        if (m->heap[kid] >= key) break;
        m->heap[i] = m->heap[kid];
    }
    m->heap[i] = key;
}

static uint64_t key_of(uint32_t rank, int32_t pos)
{
    return (uint64_t)rank << 32 | (uint32_t)pos;
}

// --- lists of one rank ------------------------------------------------------------------------

static bool new_list(struct merge *m, uint32_t rank)
{
    if (!grow((void **)&m->lists, &m->cap_list, (size_t)m->n_list + 1, sizeof *m->lists))
        return false;
    m->lists[m->n_list] = (struct merge_list){.head = -1, .tail = -1, .rank = rank};
    m->list_of_rank[rank] = ++m->n_list;
    return true;
}

static int32_t new_item(struct merge *m, int32_t pos)
{
    int32_t i = m->free_item;
    if (i >= 0) {
        m->free_item = m->items[i].next;
    } else {
        if (!grow((void **)&m->items, &m->cap_item, (size_t)m->n_item + 1, sizeof *m->items))
            return -1;
        i = m->n_item++;
    }
    m->items[i] = (struct merge_item){.pos = pos, .next = -1};
    return i;
}

// The pair at pos waits: at the end of its rank's list if that keeps the list in order.
static bool wait_in_line(struct merge *m, uint32_t rank, int32_t pos)
{
    if (!m->list_of_rank[rank] && !new_list(m, rank)) return false;
    struct merge_list *l = &m->lists[m->list_of_rank[rank] - 1];
    if (l->head >= 0 && m->items[l->tail].pos >= pos) return heap_push(m, key_of(rank, pos));
    int32_t item = new_item(m, pos);
    if (item < 0) return false;
    if (l->head >= 0) {
        m->items[l->tail].next = item;
        l->tail = item;
        return true;
    }
    l->head = l->tail = item;
    return heap_push(m, key_of(rank, LOOK_AT_LIST));
}

// The next position to look at, and its rank; false when nothing waits. A list is worth one heap
// entry; its positions come before those that wait in the heap where they are smaller.
static bool next_waiting(struct merge *m, uint32_t *rank, int32_t *pos)
{
    if (m->n_heap == 0) return false;
    uint64_t top = m->heap[0];
    *rank = (uint32_t)(top >> 32);
    *pos = (int32_t)(uint32_t)top;
    struct merge_list *l = &m->lists[m->list_of_rank[*rank] - 1];
    if (l->head < 0 || (*pos != LOOK_AT_LIST && *pos <= m->items[l->head].pos)) {
        heap_pop(m); // a straggler (or the entry of a list that became empty)
        return true;
    }
    int32_t item = l->head;
    *pos = m->items[item].pos;
    l->head = m->items[item].next;
    m->items[item].next = m->free_item;
    m->free_item = item;
    return true;
}

// --- joining ----------------------------------------------------------------------------------

// The pair that begins at `left` is new: finds out what it can become, and lets it wait.
static bool consider(struct merge *m, int32_t left)
{
    if (left < 0) return true;
    struct merge_sym *s = &m->syms[left];
    s->rank = NO_MERGE;
    if (s->next < 0 || !m->pair(m, s, &m->syms[s->next], &s->rank, &s->joined)) return true;
    return wait_in_line(m, s->rank, left);
}

// Joins the pair at pos, if it is still the one that waited.
static bool join(struct merge *m, int32_t pos, uint32_t rank)
{
    struct merge_sym *left = &m->syms[pos];
    if (left->rank != rank) return true;
    struct merge_sym *right = &m->syms[left->next];
    left->id = left->joined;
    left->next = right->next;
    if (right->next >= 0) m->syms[right->next].prev = pos;
    right->rank = NO_MERGE; // no pair begins here any more
    return consider(m, left->prev) && consider(m, pos);
}

static void forget_lists(struct merge *m)
{
    for (int32_t i = 0; i < m->n_list; i++)
        m->list_of_rank[m->lists[i].rank] = 0;
    m->n_list = 0;
    m->n_item = 0;
    m->free_item = -1;
    m->n_heap = 0;
}

err_t merge_run(struct merge *m)
{
    if (!m->list_of_rank) {
        m->list_of_rank = calloc((size_t)m->t->n_rank + 1, sizeof *m->list_of_rank);
        if (!m->list_of_rank) return ERR_MEMORY;
        m->free_item = -1;
    }
    int32_t n = (int32_t)m->n_sym, pos;
    uint32_t rank;
    bool ok = true;
    for (int32_t i = 0; i < n; i++) {
        m->syms[i].prev = i - 1;
        m->syms[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; ok && i < n; i++)
        ok = consider(m, i);
    while (ok && next_waiting(m, &rank, &pos))
        if (pos != LOOK_AT_LIST) ok = join(m, pos, rank);
    forget_lists(m);
    return ok ? OK : ERR_MEMORY;
}
