// Clusters and models made by hand, for tests of the cost model and the planner. Include after
// cmocka.h.
#pragma once
#include "topology/plan.h"

#include <stdio.h>
#include <string.h>

// ---- random clusters and models, the same in every run

static uint64_t seed = 1;

static inline uint64_t random_to(uint64_t n) // 0 .. n-1
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static inline void set_device(struct cluster *c, int32_t i, double speed, double mem)
{
    struct cluster_device *d = &c->devices[i];
    *d = (struct cluster_device){.kind = CLUSTER_CPU, .threads = 4};
    snprintf(d->name, sizeof d->name, "d%d", i);
    snprintf(d->host, sizeof d->host, "h%d", i);
    d->mem_bytes = (uint64_t)mem;
    d->mem_free_bytes = (uint64_t)mem;
    d->read_bytes_per_s = speed;
    d->int8_ops_per_s = speed * 20;
    d->f32_flops_per_s = speed * 10;
    if (c->n_device <= i) c->n_device = i + 1;
}

static inline void set_link(struct cluster *c, int32_t a, int32_t b, double us, double rate)
{
    c->links[a][b] = c->links[b][a] = (struct cluster_link){us, rate};
}

static inline void all_links(struct cluster *c, double us, double rate)
{
    for (int32_t a = 0; a < c->n_device; a++)
        for (int32_t b = 0; b < a; b++)
            set_link(c, a, b, us, rate);
}

// Four bits an element, rows of 1024.
static inline struct cost_matrix matrix(enum cost_use use, enum share_axis axis, uint64_t bytes)
{
    return (struct cost_matrix){.n = 1,
                                .rows = (int64_t)(bytes * 2 / 1024),
                                .cols = 1024,
                                .bytes = bytes,
                                .dtype = DT_Q4_0,
                                .use = (uint8_t)use,
                                .axis = (uint8_t)axis,
                                .unit = 16};
}

static inline struct cost_matrix *add_matrix(struct cost_model *m, int32_t layer, enum cost_use use,
                                             enum share_axis axis, uint64_t bytes)
{
    struct cost_layer *l = &m->layers[layer];
    l->matrices[l->n_matrix] = matrix(use, axis, bytes);
    return &l->matrices[l->n_matrix++];
}

// Stacks of n_expert matrices, `bytes` in all.
static inline void add_experts(struct cost_model *m, int32_t layer, uint64_t bytes)
{
    struct cost_matrix *w = add_matrix(m, layer, COST_EXPERT, SHARE_EXPERTS, bytes);
    w->n = m->n_expert;
    w->rows /= m->n_expert;
    w->unit = 1;
}

static inline struct cost_model model_of(int32_t n_layer, uint64_t layer_bytes)
{
    struct cost_model m = {.n_layer = n_layer,
                           .dim = 1024,
                           .n_vocab = 32000,
                           .row_floats = 14848,
                           .name = "synthetic"};
    for (int32_t l = 0; l < n_layer; l++) {
        m.layers[l] = (struct cost_layer){.kv_elems = 2 * 4 * 64, .seen_flops = 4.0 * 16 * 64};
        add_matrix(&m, l, COST_UP, SHARE_MIDDLE, layer_bytes);
    }
    m.embed_bytes = layer_bytes / 2;
    m.head = matrix(COST_LOGITS, SHARE_VOCAB, layer_bytes / 2);
    return m;
}

static inline struct plan_ask ask_of(enum plan_goal goal)
{
    return (struct plan_ask){.goal = goal, .cost = cost_ask_of(2048, 4)};
}
