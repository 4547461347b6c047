#include "worker/group_device.h"

#include <stdlib.h>

struct group_device {
    struct group group; // first
    struct kernels_group *inner;
};

static struct kernels_group *inner_of(const struct group *g)
{
    return ((const struct group_device *)(const void *)g)->inner;
}

static void device_close(struct group *g)
{
    inner_of(g)->ops->close(inner_of(g));
    free(g);
}

static void device_begin(struct group *g, uint64_t step)
{
    g->side->ops->begin(g->side, step);
}

static void device_gather(struct group *g, float *y, int64_t n_row, int64_t ld, const int64_t *from,
                          int32_t root)
{
    inner_of(g)->ops->gather(inner_of(g), y, n_row, ld, from, root);
}

static void device_send_rows(struct group *g, int32_t to, const float *data, const int32_t *row,
                             int64_t n_row, int64_t n_col)
{
    inner_of(g)->ops->send(inner_of(g), to, data, row, n_row, n_col);
}

static void device_send(struct group *g, int32_t to, const void *data, int64_t n_row, int64_t n_col)
{
    device_send_rows(g, to, data, NULL, n_row, n_col);
}

static int64_t device_recv(struct group *g, int32_t from, void *data, int64_t n_row, int64_t n_col,
                           int64_t cap_row)
{
    BUG_ON(n_row < 0 || n_row > cap_row);
    inner_of(g)->ops->recv(inner_of(g), from, data, n_row, n_col);
    return n_row;
}

static bool device_is_recordable(const struct group *g, int64_t n_row, int64_t ld)
{
    return inner_of(g)->ops->is_recordable(inner_of(g), n_row, ld);
}

static err_t device_status(struct group *g, struct err_text *why)
{
    const err_t e = inner_of(g)->ops->status(inner_of(g), why);
    return e ? e : g->side->ops->status(g->side, why);
}

// What the device waits for is not known; what the host does is.
static uint64_t device_wait_us(const struct group *g)
{
    return g->side->ops->wait_us(g->side);
}

static const struct group_ops device_ops = {
    .name = "device",
    .close = device_close,
    .begin = device_begin,
    .gather = device_gather,
    .send_rows = device_send_rows,
    .send = device_send,
    .recv = device_recv,
    .is_recordable = device_is_recordable,
    .status = device_status,
    .wait_us = device_wait_us,
};

err_t group_device_open(struct kernels_group *inner, struct group *side, struct group **out,
                        struct err_text *why)
{
    struct group_device *g = calloc(1, sizeof *g);
    if (!g) {
        inner->ops->close(inner);
        return err_say(why, ERR_MEMORY, "group: no memory");
    }
    g->group = (struct group){.ops = &device_ops,
                              .n_member = side->n_member,
                              .member = side->member,
                              .on_device = true,
                              .side = side};
    g->inner = inner;
    *out = &g->group;
    return OK;
}
