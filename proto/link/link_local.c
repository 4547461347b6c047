#include "proto/link/link.h"

#include "proto/wire/wire.h"

#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

// Messages one after the other, each behind its length. The sender appends to `shared`; the
// receiver swaps it against its own empty run, so that reading takes the lock once per batch and
// the steady state allocates nothing.
struct lane {
    struct buf shared;
    int fd; // eventfd, readable while there is something in `shared` or the sender is gone
};

struct pair {
    pthread_mutex_t lock;
    struct lane lanes[2]; // lanes[i] is read by end i
    bool is_open[2];
};

struct local {
    struct link link;
    struct pair *pair;
    int end;
    struct buf run; // taken from the lane
    size_t at;      // bytes of it already handed out
};

static void fd_raise(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; // a full counter is as readable as we want it
}

static void fd_lower(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
}

static err_t local_send(struct link *l, const void *data, size_t len)
{
    struct local *me = (struct local *)l;
    struct pair *p = me->pair;
    if (len > WIRE_MESSAGE_MAX) return ERR_TOO_LARGE;
    uint32_t size = (uint32_t)len;
    pthread_mutex_lock(&p->lock);
    struct lane *to = &p->lanes[!me->end];
    err_t e = OK;
    if (!p->is_open[!me->end]) {
        e = ERR_LINK;
    } else if (to->shared.len + sizeof size + len > LINK_BACKLOG_MAX) {
        e = ERR_AGAIN;
    } else if (!buf_reserve(&to->shared, sizeof size + len)) {
        to->shared.broken = false; // this message is refused, those before it stand
        e = ERR_MEMORY;
    } else {
        if (to->shared.len == 0) fd_raise(to->fd);
        buf_add(&to->shared, &size, sizeof size);
        buf_add(&to->shared, data, len);
    }
    pthread_mutex_unlock(&p->lock);
    return e;
}

static err_t local_refill(struct local *me)
{
    struct pair *p = me->pair;
    buf_clear(&me->run);
    me->at = 0;
    pthread_mutex_lock(&p->lock);
    struct lane *from = &p->lanes[me->end];
    struct buf swap = from->shared;
    from->shared = me->run;
    me->run = swap;
    bool is_open = p->is_open[!me->end];
    if (is_open) fd_lower(from->fd);
    pthread_mutex_unlock(&p->lock);
    if (me->run.len) return OK;
    return is_open ? ERR_AGAIN : ERR_END;
}

static err_t local_recv(struct link *l, const void **data, size_t *len, struct err_text *why)
{
    struct local *me = (struct local *)l;
    if (me->at == me->run.len) {
        err_t e = local_refill(me);
        if (e == ERR_END) return err_say(why, e, "%s closed the link", l->peer);
        if (e) return e;
    }
    uint32_t size;
    memcpy(&size, me->run.data + me->at, sizeof size);
    *data = me->run.data + me->at + sizeof size;
    *len = size;
    me->at += sizeof size + size;
    return OK;
}

static int local_poll_fd(struct link *l, short *events)
{
    struct local *me = (struct local *)l;
    *events = POLLIN;
    return me->pair->lanes[me->end].fd;
}

static void pair_free(struct pair *p)
{
    for (int i = 0; i < 2; i++) {
        buf_fini(&p->lanes[i].shared);
        if (p->lanes[i].fd >= 0) close(p->lanes[i].fd);
    }
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static void local_close(struct link *l)
{
    struct local *me = (struct local *)l;
    struct pair *p = me->pair;
    pthread_mutex_lock(&p->lock);
    p->is_open[me->end] = false;
    bool is_last = !p->is_open[!me->end];
    if (!is_last) fd_raise(p->lanes[!me->end].fd);
    pthread_mutex_unlock(&p->lock);
    if (is_last) pair_free(p);
    buf_fini(&me->run);
    free(me);
}

static const struct link_ops local_ops = {
    .name = "local",
    .send = local_send,
    .recv = local_recv,
    .poll_fd = local_poll_fd,
    .close = local_close,
};

static struct local *end_new(struct pair *p, int end, const char *peer)
{
    struct local *me = calloc(1, sizeof *me);
    if (!me) return NULL;
    me->link.ops = &local_ops;
    me->link.is_authenticated = true; // the same process
    snprintf(me->link.peer, sizeof me->link.peer, "%s", peer);
    me->pair = p;
    me->end = end;
    return me;
}

err_t link_local_pair(const char *name_a, const char *name_b, struct link **a, struct link **b)
{
    struct pair *p = calloc(1, sizeof *p);
    if (!p) return ERR_MEMORY;
    pthread_mutex_init(&p->lock, NULL);
    struct local *ends[2] = {end_new(p, 0, name_b), end_new(p, 1, name_a)};
    bool has_fds = true;
    for (int i = 0; i < 2; i++) {
        p->lanes[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        has_fds &= p->lanes[i].fd >= 0;
        p->is_open[i] = true;
    }
    if (!ends[0] || !ends[1] || !has_fds) {
        free(ends[0]);
        free(ends[1]);
        pair_free(p);
        return has_fds ? ERR_MEMORY : ERR_SYSTEM;
    }
    *a = &ends[0]->link;
    *b = &ends[1]->link;
    return OK;
}
