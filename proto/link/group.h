// group: the members that share one stage, and what they hand each other in the middle of a step.
// One interface; over a port of its own (group_link), or from device to device
// (worker/group_device). All members call the same operations in the same order; nothing here adds
// numbers, so results do not depend on the road.
//
// Whose memory the data is: the host's, or, of a group `on_device`, the device's on which the
// member computes; there an operation is given to the device like any other and done later.
//
// Errors stick: the first one is kept, every later call returns at once without touching data, and
// the step that notices it is thrown away with its epoch. Each wait ends at the caller's deadline.
// Owned by the compute thread; nothing is allocated after opening.
#pragma once
#include "proto/link/port.h"

struct group;

enum { GROUP_MEMBERS_MAX = 16, GROUP_LINK_FRAME_BYTES = 256 << 10 };

struct group_ops {
    const char *name;
    void (*close)(struct group *g);
    // A step begins; operations are counted from here, so members agree on what they talk about.
    void (*begin)(struct group *g, uint64_t step);
    // y (n_row, ld) F32: member i has filled columns [from[i], from[i + 1]) of every row. After it
    // all have all columns; with root >= 0 only that member has.
    void (*gather)(struct group *g, float *y, int64_t n_row, int64_t ld, const int64_t *from,
                   int32_t root);
    // The rows row[i] of data alone (in the host's memory; NULL: the first n_row). On devices only;
    // the other one receives them as if they lay together.
    void (*send_rows)(struct group *g, int32_t to, const float *data, const int32_t *row,
                      int64_t n_row, int64_t n_col);
    // One block of rows from one member to another; I32 or F32 elements. recv must ask for the
    // sizes that were sent, except that n_row < 0 takes up to cap_row rows and returns how many (0
    // after an error). A send may wait until the other has come as far: two members must not both
    // send to each other first. A row must fit a piece. On devices the number is always known: what
    // is not goes by `side`.
    void (*send)(struct group *g, int32_t to, const void *data, int64_t n_row, int64_t n_col);
    int64_t (*recv)(struct group *g, int32_t from, void *data, int64_t n_row, int64_t n_col,
                    int64_t cap_row);
    // Whether a gather of so many rows can be part of a step that a device records and repeats.
    bool (*is_recordable)(const struct group *g, int64_t n_row, int64_t ld);
    // First error since opening; OK: none. On devices it waits for what has been asked for.
    err_t (*status)(struct group *g, struct err_text *why);
    uint64_t (*wait_us)(const struct group *g); // spent waiting for others, since opening
};

struct group {
    const struct group_ops *ops;
    int32_t n_member, member;
    bool on_device;
    struct group *side; // over a port, for what lies on the host; itself where everything does
};

// -- group_link: over a port --
struct group_link_config {
    struct port_config port; // max_bytes and n_frame are chosen by the group
    int32_t n_member, member;
    uint64_t frame_bytes; // largest piece handed over at once, the same at all members; 0: as above
    int64_t deadline_us;  // how long an operation may wait for the others without any progress
    // Called again and again in a wait, to sleep or spin and to notice a stop (ERR_CANCELLED).
    // `since_us`: how long this wait has lasted. It need not move the port's bytes.
    err_t (*rest)(void *arg, struct port *port, int64_t since_us, struct err_text *why);
    void *rest_arg;
};
err_t group_link_open(const struct group_link_config *c, struct group **out, struct err_text *why);
// Bytes that a group of this size will take for its frames.
uint64_t group_link_bytes(int32_t n_member, uint64_t frame_bytes);
// Its port, for those who sleep: between operations it wants port_progress now and then, so that a
// member that is late gets the rest of what was sent. Nobody else sends, finds or gives there.
struct port *group_link_port(struct group *g);
void group_link_address(const struct group *g, const uint8_t **data, uint32_t *len);
err_t group_link_connect(struct group *g, int32_t member, const uint8_t *address, uint32_t len,
                         struct err_text *why);

// Whether all members say yes; the group is one whose numbers lie on the host. Takes a struct
// group, as kernels_group's connect wants it. The group's first error.
err_t group_agree(void *group, bool mine, bool *all);

static inline void group_close(struct group *g)
{
    if (g) g->ops->close(g);
}
