// steer: which lane a request takes. Pure: figures of the lanes in, a lane out; beside that only a
// small table of where each conversation went last.
//
//   1. near lanes with room: the one whose prefix cache knows most of the prompt; of equals the one
//      the conversation was in last; of equals the least loaded, then the first
//   2. far lanes with room, likewise: they take what the near ones cannot take at once
//   3. all are full: it waits in the near lane with the shortest queue for its size; far ones only
//      if there are no others
//
// Room: a free slot for every choice and all who wait already, pages for the prompt.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { STEER_HOMES = 4096 };
static const uint32_t STEER_NONE = UINT32_MAX;

struct steer_lane {
    bool is_open; // serves, and takes new requests
    bool is_far;
    uint32_t n_slot, n_running, n_waiting;
    uint32_t n_page_room; // that can be taken now
    uint32_t n_page;      // that the request takes here
    uint32_t n_known;     // tokens of its prompt in the prefix cache
};

struct steer {
    // Indexed by the session's low bits; a newer one takes the place.
    struct steer_home {
        uint64_t session; // 0: none
        uint32_t lane;
    } homes[STEER_HOMES];
};

bool steer_has_room(const struct steer_lane *l, uint32_t n_choice);
// Even one that waits there alone could not begin now.
bool steer_is_full(const struct steer_lane *l, uint32_t n_choice);
// Index of a lane, or STEER_NONE: none is open. session 0: the request belongs to none.
uint32_t steer_choose(const struct steer *s, const struct steer_lane *lanes, uint32_t n,
                      uint64_t session, uint32_t n_choice);
void steer_remember(struct steer *s, uint64_t session, uint32_t lane);
