#include "topology/near.h"

uint64_t near_row_bytes(const struct model_shape *s)
{
    const struct share alone = share_alone();
    const struct model_layer attn = {.mixer = MIXER_ATTN};
    const enum slot slots[] = {SLOT_ATTN_Q,   SLOT_FFN_DOWN,    SLOT_FFN_GATE,
                               SLOT_MOE_GATE, SLOT_SHARED_GATE, SLOT_HEAD};
    int64_t most = s->dim;
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        const int64_t cols = share_of(&alone, 0, s, &attn, slots[i]).to;
        most = cols > most ? cols : most;
    }
    return (uint64_t)most * sizeof(float);
}

static uint64_t bytes_of(const struct group_bytes_of *g)
{
    return g->nccl || g->peers ? group_bytes(g) : 0;
}

uint64_t near_bytes(const struct near_stage *n)
{
    const struct share *s = n->share;
    const struct group_bytes_of group = {.n_member = s->n_member,
                                         .nccl = n->nccl,
                                         .peers = n->peers && s->split == SPLIT_TENSOR,
                                         .row_bytes = n->wide_bytes};
    struct group_bytes_of way = {.nccl = n->nccl,
                                 .peers = n->peers,
                                 .row_bytes = n->row_bytes,
                                 .queue_bytes = group_bytes_queue(n->max_tok, n->row_bytes)};
    uint64_t bytes = s->n_member > 1 ? bytes_of(&group) : 0;
    if (!n->is_first && share_is_dense(s, s->member)) bytes += bytes_of(&way);
    way.gives = true;
    if (!n->is_last && s->member == 0) bytes += bytes_of(&way);
    return bytes;
}
