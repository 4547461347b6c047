#include "coordinator/fleet/tether.h"
#include <poll.h>
#include <stdlib.h>

static void on_poll(uv_poll_t *h, int status, int events)
{
    (void)status, (void)events; // whatever happened, receiving tells
    struct tether *c = h->data;
    if (c->link) c->on_ready(c);
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

err_t tether_open(uv_loop_t *loop, struct link *link, tether_ready_fn *on_ready, void *owner,
                  struct tether **out)
{
    short events;
    struct tether *c = calloc(1, sizeof *c);
    int fd = link_poll_fd(link, &events);
    err_t err = !c ? ERR_MEMORY : uv_poll_init(loop, &c->poll, fd) != 0 ? ERR_SYSTEM : OK;
    if (err) {
        free(c);
        link_close(link);
        return err;
    }
    c->poll.data = c;
    c->link = link;
    c->fd = fd;
    c->on_ready = on_ready;
    c->owner = owner;
    *out = c;
    return OK;
}

err_t tether_send(struct tether *c, const void *data, size_t len)
{
    if (!c->link) return ERR_LINK;
    err_t err = link_send(c->link, data, len);
    if (err == OK) c->bytes_out += len;
    return err;
}

err_t tether_recv(struct tether *c, const void **data, size_t *len, struct err_text *why)
{
    err_t err = link_recv(c->link, data, len, why);
    if (err == OK) c->bytes_in += *len;
    return err;
}

err_t tether_arm(struct tether *c)
{
    if (!c->link) return OK;
    short wanted = 0;
    int fd = link_poll_fd(c->link, &wanted);
    // An accepted connection keeps its descriptor; polling another would watch a stranger's.
    if (fd != c->fd) return ERR_SYSTEM;
    int events = (wanted & POLLIN ? UV_READABLE : 0) | (wanted & POLLOUT ? UV_WRITABLE : 0);
    if (events == c->events) return OK;
    if (uv_poll_start(&c->poll, events, on_poll) != 0) return ERR_SYSTEM;
    c->events = events;
    return OK;
}

void tether_close(struct tether *c)
{
    if (!c || !c->link) return;
    // The handle first: the descriptor must not be closed, and perhaps reused, while it is polled.
    uv_close((uv_handle_t *)&c->poll, on_closed);
    link_close(c->link);
    c->link = NULL;
}
