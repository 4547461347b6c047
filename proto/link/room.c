#include "proto/link/room.h"

#include "proto/base/fnv.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

// Of the boot's name, a random one.
static uint64_t boot_hash(void)
{
    char name[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, name, sizeof name);
    close(fd);
    return n > 0 ? fnv_add(FNV_BEGIN, name, (size_t)n) : 0;
}

struct room room_here(void)
{
    struct stat memory = {0}, net = {0};
    (void)stat("/dev/shm", &memory); // zeros then
    (void)stat("/proc/self/ns/net", &net);
    return (struct room){.boot = boot_hash(),
                         .memory = (uint64_t)memory.st_dev,
                         .net = (uint64_t)net.st_ino,
                         .user = (uint64_t)geteuid()};
}

bool room_is_next_door(const struct room *a, const struct room *b)
{
    return a->boot == b->boot && (a->memory != b->memory || a->net != b->net || a->user != b->user);
}
