// room: which processes share memory with each other, and may wake each other through it. Shared
// memory is the same only with the same /dev/shm, and only for the same user; UCX wakes a sleeper
// by a socket without a name in any folder, which the network namespace bounds. Containers and
// network namespaces of one machine may share either, both or neither, and UCX looks at neither.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { ROOM_BYTES = 32 };

// Two rooms are the same if their bytes are. Zeros where the system does not say.
struct room {
    uint64_t boot;   // of the running kernel: other machines are other rooms
    uint64_t memory; // the file system at /dev/shm
    uint64_t net;    // network namespace
    uint64_t user;
};
_Static_assert(sizeof(struct room) == ROOM_BYTES, "travels as it is");

struct room room_here(void);
// Of one machine (so that shared memory looks possible), and yet not of one room.
bool room_is_next_door(const struct room *a, const struct room *b);
