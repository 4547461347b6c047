#include "topology/pace.h"

#include "topology/cost.h"

const int32_t pace_decode_rows[PACE_POINTS] = {1, 4, 8, 16};
const int32_t pace_chunk_rows[PACE_POINTS] = {32, 128, 256, 512};

static double between(double x, double x0, double y0, double x1, double y1)
{
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

static double at(const int32_t *rows, const double *s, double x)
{
    int i = 0;
    while (i + 2 < PACE_POINTS && x > rows[i + 1])
        i++;
    return between(x, rows[i], s[i], rows[i + 1], s[i + 1]);
}

double pace_layer_s(const struct pace *p, int32_t rows, int32_t n_seq)
{
    if (!p->is_known) return 0;
    if (rows <= n_seq) return at(pace_decode_rows, p->decode_s, rows);
    if (rows < pace_chunk_rows[0]) // from one row of one sequence on
        return between(rows, 1, p->decode_s[0], pace_chunk_rows[0], p->chunk_s[0]);
    return at(pace_chunk_rows, p->chunk_s, rows);
}

double pace_head_s(const struct pace *p, int32_t logit_rows)
{
    return p->is_known ? at(pace_decode_rows, p->head_s, logit_rows) : 0;
}

void pace_scale(struct pace *p, double part)
{
    for (int i = 0; i < PACE_POINTS; i++) {
        p->decode_s[i] /= part;
        p->chunk_s[i] /= part;
        p->head_s[i] /= part;
    }
}

struct pace pace_fit(const struct cost_model *m, const struct cluster_device *d,
                     const struct pace_times *t)
{
    struct cluster_device bare = *d;
    struct pace out = {.is_known = true};
    bare.pace.is_known = false;
    const struct cost_group g = cost_group_alone(&bare);
    const int32_t from = t->layer_from, to = t->layer_to;
    for (int i = 0; i < PACE_POINTS; i++) {
        const int32_t rows = pace_decode_rows[i];
        struct cost_step s = {.rows = rows,
                              .n_seq = rows,
                              .depth = (int64_t)t->depth[i],
                              .kv_elem_bits = (uint32_t)t->kv_elem_bits};
        const double layers = 1e-9 * (double)cost_time_of(m, &g, &s, from, to).ns;
        s.logit_rows = rows;
        const double all = 1e-9 * (double)cost_time_of(m, &g, &s, from, to).ns;
        out.decode_s[i] = (t->decode_s[i] - layers) / (to - from);
        out.head_s[i] = t->choose_s[i] - t->decode_s[i] - (all - layers);
        s = (struct cost_step){
            .rows = pace_chunk_rows[i], .n_seq = 1, .kv_elem_bits = (uint32_t)t->kv_elem_bits};
        out.chunk_s[i] =
            (t->chunk_s[i] - 1e-9 * (double)cost_time_of(m, &g, &s, from, to).ns) / (to - from);
    }
    return out;
}
