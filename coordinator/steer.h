// steer: which lane a request takes. Pure: figures of the lanes in, a lane out; beside that only a
// small table of where each conversation went last.
//
//   1. near lanes with room: the one whose prefix cache knows most of the prompt, if that is half
//      of it or more (the conversation goes on there); else the one that the conversation was in
//      last; else the one that is expected to be done first, by its predicted speed, what runs
//      there and what it knows of the prompt; else the first
//   2. far lanes with room, likewise: they take what the near ones cannot take at once
//   3. all are full: it waits in the near lane that is expected to be done first; in a far one only
//      if there are no others
//
// Room: a free slot for every choice and all who wait already, pages for the prompt. Where a lane's
// speed is not known, shares of the slots in use are compared instead.
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
    // Predicted: a step that draws a token for each of n requests takes step_us + n * row_us, a
    // token of a prompt prompt_us. 0: not known.
    double step_us, row_us, prompt_us;
};

// A request that is to be dealt.
struct steer_ask {
    uint64_t session; // 0: it belongs to none
    uint32_t n_choice, n_prompt;
    uint32_t n_output; // tokens of each choice at most
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
// Microseconds until the request would be done there; 0: the lane's speed is not known.
double steer_finish_us(const struct steer_lane *l, const struct steer_ask *ask);
// Index of a lane, or STEER_NONE: none is open.
uint32_t steer_choose(const struct steer *s, const struct steer_lane *lanes, uint32_t n,
                      const struct steer_ask *ask);
// The lane of the session's last request; STEER_NONE: not known.
uint32_t steer_home(const struct steer *s, uint64_t session);
void steer_remember(struct steer *s, uint64_t session, uint32_t lane);
