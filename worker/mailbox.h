// mailbox: letters from one thread to another, in order, with a descriptor to sleep on. Letters are
// intrusive list nodes and belong to whoever holds them.
#pragma once
#include "proto/base/err.h"
#include "proto/base/list.h"
#include <pthread.h>
#include <stdatomic.h>

struct mailbox {
    pthread_mutex_t lock;
    struct list letters;
    atomic_uint n; // letters in it; a reader that spins looks here first
    int fd;        // eventfd, readable after a push or a ring until mailbox_hush
};

err_t mailbox_init(struct mailbox *m, struct err_text *why);
void mailbox_fini(struct mailbox *m); // must be empty
void mailbox_push(struct mailbox *m, struct list *letter);
struct list *mailbox_pop(struct mailbox *m); // NULL: empty
// For who sleeps on fd: when it returns NULL, fd is readable again only after the next push.
struct list *mailbox_next(struct mailbox *m);
void mailbox_ring(struct mailbox *m); // wakes the reader without a letter
void mailbox_hush(struct mailbox *m); // before looking for what woke us
