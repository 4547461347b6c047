#include "proto/link/group.h"

err_t group_agree(void *group, bool mine, bool *all)
{
    struct group *g = group;
    float y[GROUP_MEMBERS_MAX] = {0};
    int64_t from[GROUP_MEMBERS_MAX + 1];
    for (int32_t i = 0; i <= g->n_member; i++)
        from[i] = i;
    y[g->member] = mine;
    g->ops->gather(g, y, 1, g->n_member, from, -1);
    *all = true;
    for (int32_t i = 0; i < g->n_member; i++)
        *all &= y[i] == 1;
    return g->ops->status(g, NULL);
}
