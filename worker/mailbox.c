#include "worker/mailbox.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

err_t mailbox_init(struct mailbox *m, struct err_text *why)
{
    *m = (struct mailbox){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (m->fd < 0) return err_say(why, ERR_SYSTEM, "cannot make an eventfd: %s", strerror(errno));
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->letters);
    return OK;
}

void mailbox_fini(struct mailbox *m)
{
    BUG_ON(!list_empty(&m->letters));
    pthread_mutex_destroy(&m->lock);
    close(m->fd);
}

void mailbox_push(struct mailbox *m, struct list *letter)
{
    pthread_mutex_lock(&m->lock);
    list_push_back(&m->letters, letter);
    atomic_fetch_add(&m->n, 1);
    pthread_mutex_unlock(&m->lock);
    mailbox_ring(m);
}

struct list *mailbox_pop(struct mailbox *m)
{
    if (atomic_load(&m->n) == 0) return NULL;
    struct list *letter = NULL;
    pthread_mutex_lock(&m->lock);
    if (!list_empty(&m->letters)) {
        letter = m->letters.next;
        list_remove(letter);
        atomic_fetch_sub(&m->n, 1);
    }
    pthread_mutex_unlock(&m->lock);
    return letter;
}

struct list *mailbox_next(struct mailbox *m)
{
    struct list *letter = mailbox_pop(m);
    if (letter) return letter;
    mailbox_hush(m);
    return mailbox_pop(m); // one may have come before the hush
}

void mailbox_ring(struct mailbox *m)
{
    const uint64_t one = 1;
    ssize_t n = write(m->fd, &one, sizeof one);
    (void)n; // a full counter is as readable as we want it
}

void mailbox_hush(struct mailbox *m)
{
    uint64_t count;
    ssize_t n = read(m->fd, &count, sizeof count);
    (void)n;
}
