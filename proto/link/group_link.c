// A group over a port: every member has one, connected to every other member's.
//
// What one member hands another is cut into pieces of at most frame_bytes, one frame each. Pieces
// from A to B are counted through, from the opening on; the receiver takes them in that order,
// whatever the order in which they come. The tag of a frame is (the piece's number) | (how many of
// your pieces I have used) << 16, both modulo 2^16. A frame of no columns is nothing but the
// latter.
//
// Bounded memory: A sends piece k only when it knows that B has used piece k - WINDOW. So of each
// member there are at most WINDOW unused pieces here, and at most WINDOW / TELL frames of no
// columns, each of which tells of TELL pieces that the sender of them took for unused: FRAMES of
// each other member are enough for anything that can come, and no frame is ever dropped.
//
// No deadlock, if the operations, in the order in which each member calls them, could be done one
// at a time by all who take part: take the first operation in such an order that somebody never
// finishes. All who take part in it have finished what comes before, and enter it. In it
//   - each takes every piece that comes, and tells the sender when TELL of them have not been told;
//     it does not leave before that is on its way (`settled`). So a sender knows of all but TELL -
//     1 of the pieces that were used, and sees room for one more as soon as the others are used;
//   - nobody waits for one thing at a time: a gather sends what it may and takes what has come in
//     turn; in send and recv one side only sends and the other only takes.
// So some piece can always be sent or taken until all are, and everybody finishes: a contradiction.
// (Two members who both send to each other first have no such order.)
#include "proto/link/group.h"

#include "proto/base/clock.h"
#include "proto/wire/wire.h"

#include <stdlib.h>
#include <string.h>

enum {
    WINDOW = 4,
    TELL = 2, // pieces used before the sender is told, if no piece of ours goes there anyway
    FRAMES = WINDOW + WINDOW / TELL,
    FRAME_BYTES_MIN = 64,
};

struct peer {
    bool is_connected;
    uint16_t n_sent, n_known; // pieces to it: sent; known to be used
    uint16_t n_used, n_told;  // pieces from it: used; told of
};

struct group_link {
    struct group group;
    struct port *port;
    struct group_link_config config;
    int64_t n_piece; // 4-byte elements of the largest piece
    uint64_t step;
    const char *doing; // the operation, for errors
    uint64_t n_done;   // operations of this step
    err_t error;
    struct err_text why;
    uint64_t wait_us;
    struct peer peers[GROUP_MEMBERS_MAX];
};

static struct group_link *of(struct group *g)
{
    return (struct group_link *)g;
}

// -- errors --

static void broken(struct group_link *g, err_t e, const char *what, int32_t member)
{
    if (g->error) return;
    g->error =
        err_say(&g->why, e, "step %llu, operation %llu (%s): member %d %s",
                (unsigned long long)g->step, (unsigned long long)g->n_done, g->doing, member, what);
}

static void broken_here(struct group_link *g, err_t e, const struct err_text *why)
{
    if (g->error) return;
    g->error =
        err_say(&g->why, e, "step %llu, operation %llu (%s): %s", (unsigned long long)g->step,
                (unsigned long long)g->n_done, g->doing, why->s[0] ? why->s : err_name(e));
}

// -- frames --

static uint16_t unknown(const struct peer *p) // sent, and for all we know not used yet
{
    return (uint16_t)(p->n_sent - p->n_known);
}

static uint16_t untold(const struct peer *p)
{
    return (uint16_t)(p->n_used - p->n_told);
}

static struct frame frame_to(const struct group_link *g, int32_t member)
{
    const struct peer *p = &g->peers[member];
    return (struct frame){
        .kind = FRAME_PIECE,
        .dtype = DT_I32,
        .epoch = g->config.port.epoch,
        .step = g->step,
        .stage = (uint32_t)g->group.member,
        .tag = p->n_sent | (uint32_t)p->n_used << 16,
    };
}

// False: later (or never, when it failed).
static bool put(struct group_link *g, int32_t member, const struct frame *f, port_fill_fn *fill,
                void *arg)
{
    struct peer *p = &g->peers[member];
    err_t e = port_send_filled(g->port, (uint32_t)member, f, fill, arg);
    if (e == OK) p->n_told = (uint16_t)(f->tag >> 16);
    if (e && e != ERR_AGAIN) broken(g, e, "cannot be reached", member);
    return e == OK;
}

static bool tell(struct group_link *g, int32_t member)
{
    const struct frame f = frame_to(g, member);
    return untold(&g->peers[member]) < TELL || put(g, member, &f, NULL, NULL);
}

struct look {
    struct group_link *g;
    int32_t member; // whose next piece is looked for; -1: nobody's
    const char *wrong;
};

// Wants that piece, and whatever is not a piece that will be wanted later. Reads from all how far
// our pieces have been used: what was known already is told again in older frames.
static bool wants(void *arg, const struct frame *f)
{
    struct look *l = arg;
    const uint32_t n_member = (uint32_t)l->g->group.n_member;
    l->wrong = NULL;
    if (f->kind == FRAME_PING) return false; // the port's own
    if (f->kind != FRAME_PIECE || f->stage >= n_member ||
        f->stage == (uint32_t)l->g->group.member) {
        l->wrong = "sent what no member sends";
        return true;
    }
    struct peer *p = &l->g->peers[f->stage];
    const uint16_t more = (uint16_t)((f->tag >> 16) - p->n_known);
    if (more <= unknown(p)) p->n_known = (uint16_t)(p->n_known + more);
    if (f->n_col == 0) return true;
    const uint16_t ahead = (uint16_t)(f->tag - p->n_used);
    if (ahead >= WINDOW) {
        l->wrong = "sent a piece out of order";
        return true;
    }
    return ahead == 0 && (int32_t)f->stage == l->member;
}

// The next piece of `member`, or NULL. port_give when it is used, then used().
static struct frame *look_for(struct group_link *g, int32_t member)
{
    struct look l = {.g = g, .member = member};
    for (struct frame *f; !g->error && (f = port_find_if(g->port, wants, &l));) {
        if (!l.wrong && f->n_col) {
            if (f->step == g->step) return f;
            l.wrong = "is in another step";
        }
        if (l.wrong) broken(g, ERR_LINK_PROTOCOL, l.wrong, (int32_t)f->stage);
        port_give(g->port, f);
    }
    return NULL;
}

static void used(struct group_link *g, int32_t member, struct frame *f)
{
    port_give(g->port, f);
    g->peers[member].n_used++;
    tell(g, member); // what cannot be told now is told by settled()
}

// Nothing of ours is needed any more by those who are still in this operation.
static bool settled(struct group_link *g)
{
    bool all = true;
    for (int32_t i = 0; i < g->group.n_member; i++)
        if (g->peers[i].is_connected) all &= tell(g, i);
    return all && !port_is_sending(g->port);
}

// -- waiting --

struct turn {
    int64_t since_us; // nothing has moved since; 0: it has
};

static void turn_moved(struct group_link *g, struct turn *t)
{
    if (t->since_us) g->wait_us += (uint64_t)(clock_now_us() - t->since_us);
    t->since_us = 0;
}

// Between two looks at what has come. `member`: one that is waited for.
static void turn_next(struct group_link *g, struct turn *t, bool moved, int32_t member)
{
    struct err_text why = {0};
    err_t e = port_progress(g->port, &why);
    if (moved) turn_moved(g, t);
    if (!e && !moved) {
        const int64_t now = clock_now_us();
        if (!t->since_us) t->since_us = now;
        if (now - t->since_us > g->config.deadline_us) {
            broken(g, ERR_TIMEOUT, "was waited for too long", member);
            return;
        }
        e = g->config.rest(g->config.rest_arg, g->port, now - t->since_us, &why);
    }
    if (e) broken_here(g, e, &why);
}

// -- gathers --

// What is left, on the way to or from one other member, of the elements of one member: columns
// [col, col + width) of y (.., ld).
struct span {
    float *y;
    int64_t ld;
    int32_t member;
    int64_t col, width;
    int64_t row, at; // next element
    int64_t left;
};

// The next n elements out of the rows into `flat`, or the other way.
static void span_copy(struct span *s, float *flat, int64_t n, bool is_out)
{
    s->left -= n;
    while (n > 0) {
        float *mine = s->y + s->row * s->ld + s->col + s->at;
        const int64_t m = n < s->width - s->at ? n : s->width - s->at;
        memcpy(is_out ? flat : mine, is_out ? mine : flat, (size_t)m * sizeof *flat);
        flat += m;
        n -= m;
        s->at += m;
        if (s->at < s->width) continue;
        s->at = 0;
        s->row++;
    }
}

static void span_fill(void *arg, void *payload, uint64_t bytes)
{
    span_copy(arg, payload, (int64_t)(bytes / sizeof(float)), true);
}

static int64_t piece_of(const struct group_link *g, int64_t left)
{
    return left < g->n_piece ? left : g->n_piece;
}

// Sends what may be sent of s. True: something moved.
static bool push(struct group_link *g, int32_t to, struct span *s)
{
    struct peer *p = &g->peers[to];
    bool moved = false;
    while (s->left && unknown(p) < WINDOW && !g->error) {
        struct frame f = frame_to(g, to);
        f.dtype = DT_F32;
        f.n_row = 1;
        f.n_col = (uint32_t)piece_of(g, s->left);
        f.bytes = f.n_col * sizeof(float);
        if (!put(g, to, &f, span_fill, s)) break;
        p->n_sent++;
        moved = true;
    }
    return moved;
}

// Takes what has come of s.
static bool pull(struct group_link *g, struct span *s)
{
    bool moved = false;
    struct frame *f;
    while (s->left && (f = look_for(g, s->member))) {
        if (f->dtype != DT_F32 || f->n_row != 1 || f->n_col != piece_of(g, s->left)) {
            broken(g, ERR_LINK_PROTOCOL, "sent a piece of another shape", s->member);
            port_give(g->port, f);
            break;
        }
        span_copy(s, f->payload, f->n_col, false);
        used(g, s->member, f);
        moved = true;
    }
    return moved;
}

// in[i]: what is member i's; all get all of it, or the root alone.
static void gather_run(struct group_link *g, const struct span *parts, int32_t root)
{
    const int32_t n = g->group.n_member, me = g->group.member;
    struct span in[GROUP_MEMBERS_MAX], out[GROUP_MEMBERS_MAX];
    struct turn t = {0};
    for (int32_t i = 0; i < n; i++) {
        in[i] = parts[i];
        out[i] = parts[me];
        if (i == me || (root >= 0 && i != root)) out[i].left = 0;
        if (i == me || (root >= 0 && me != root)) in[i].left = 0;
    }
    const int32_t other = root >= 0 && root != me ? root : me == 0;
    while (!g->error) {
        bool moved = false, takes = false;
        int32_t waits_for = -1;
        for (int32_t i = 0; i < n; i++) {
            takes |= in[i].left > 0;
            if (in[i].left) moved |= pull(g, &in[i]);
            if (out[i].left) moved |= push(g, i, &out[i]);
            if (out[i].left || in[i].left) waits_for = i;
        }
        if (waits_for < 0 && settled(g)) break;
        if (!takes) look_for(g, -1); // who only sends learns here how far the others are
        turn_next(g, &t, moved, waits_for < 0 ? other : waits_for);
    }
    turn_moved(g, &t);
    g->n_done++;
}

static void link_gather(struct group *group, float *y, int64_t n_row, int64_t ld,
                        const int64_t *from, int32_t root)
{
    struct group_link *g = of(group);
    struct span parts[GROUP_MEMBERS_MAX];
    if (g->error) return;
    g->doing = "gathering columns";
    for (int32_t i = 0; i < group->n_member; i++) {
        const int64_t width = from[i + 1] - from[i];
        BUG_ON(width < 0 || from[i] < 0 || from[i + 1] > ld);
        parts[i] = (struct span){.y = y, .ld = ld, .member = i, .col = from[i], .width = width};
        parts[i].left = n_row * width;
    }
    gather_run(g, parts, root);
}

// -- blocks: pieces of whole rows; the first one that is not full is the last --

static int64_t rows_of(struct group_link *g, int64_t n_col, int32_t member)
{
    const int64_t n = n_col > 0 ? g->n_piece / n_col : 0;
    if (!n) broken(g, ERR_TOO_LARGE, "would need larger frames", member);
    return n;
}

struct block {
    const uint8_t *data;
    uint64_t bytes;
};

static void block_fill(void *arg, void *payload, uint64_t bytes)
{
    const struct block *b = arg;
    if (bytes) memcpy(payload, b->data, bytes);
}

static void link_send(struct group *group, int32_t to, const void *data, int64_t n_row,
                      int64_t n_col)
{
    struct group_link *g = of(group);
    struct turn t = {0};
    if (g->error) return;
    g->doing = "sending";
    BUG_ON(to < 0 || to >= group->n_member || to == group->member);
    struct peer *p = &g->peers[to];
    const int64_t n_full = rows_of(g, n_col, to);
    bool is_last = false;
    while (!g->error && !(is_last && settled(g))) {
        bool moved = false;
        if (!is_last && unknown(p) >= WINDOW) look_for(g, -1);
        if (!is_last && unknown(p) < WINDOW) {
            struct frame f = frame_to(g, to);
            f.n_row = (uint32_t)(n_row < n_full ? n_row : n_full);
            f.n_col = (uint32_t)n_col;
            f.bytes = (uint64_t)f.n_row * f.n_col * 4;
            moved = put(g, to, &f, block_fill, &(struct block){data, f.bytes});
            if (moved) {
                p->n_sent++;
                is_last = n_row < n_full;
                data = (const uint8_t *)data + f.bytes;
                n_row -= f.n_row;
                continue;
            }
        }
        turn_next(g, &t, moved, to);
    }
    turn_moved(g, &t);
    g->n_done++;
}

// Room for `room` rows more.
static bool block_fits(const struct frame *f, int64_t n_col, int64_t n_full, int64_t room)
{
    return f->dtype == DT_I32 && f->n_col == n_col && f->n_row <= n_full && f->n_row <= room;
}

static int64_t link_recv(struct group *group, int32_t from, void *data, int64_t n_row,
                         int64_t n_col, int64_t cap_row)
{
    struct group_link *g = of(group);
    struct turn t = {0};
    if (g->error) return 0;
    g->doing = "receiving";
    BUG_ON(from < 0 || from >= group->n_member || from == group->member);
    const int64_t n_full = rows_of(g, n_col, from), most = n_row < 0 ? cap_row : n_row;
    int64_t n = 0;
    bool is_last = false;
    while (!g->error && !(is_last && settled(g))) {
        struct frame *f = is_last ? NULL : look_for(g, from);
        if (f && !block_fits(f, n_col, n_full, most - n)) {
            broken(g, ERR_LINK_PROTOCOL, "sent a block of another shape", from);
            port_give(g->port, f);
        } else if (f) {
            if (f->bytes) memcpy((uint8_t *)data + n * n_col * 4, f->payload, f->bytes);
            n += f->n_row;
            is_last = f->n_row < n_full;
            used(g, from, f);
        }
        if (!f) turn_next(g, &t, false, from);
        if (f) turn_moved(g, &t);
    }
    if (!g->error && n_row >= 0 && n != n_row)
        broken(g, ERR_LINK_PROTOCOL, "sent fewer rows than expected", from);
    turn_moved(g, &t);
    g->n_done++;
    return g->error ? 0 : n;
}

// -- the rest --

static void link_begin(struct group *group, uint64_t step)
{
    struct group_link *g = of(group);
    g->step = step;
    g->n_done = 0;
}

static err_t link_status(struct group *group, struct err_text *why)
{
    const struct group_link *g = of(group);
    if (g->error && why) *why = g->why;
    return g->error;
}

static bool link_is_recordable(const struct group *group, int64_t n_row, int64_t ld)
{
    (void)group, (void)n_row, (void)ld;
    return false; // the host takes part
}

static uint64_t link_wait_us(const struct group *group)
{
    return ((const struct group_link *)group)->wait_us;
}

static void link_close(struct group *group)
{
    struct group_link *g = of(group);
    port_close(g->port);
    free(g);
}

static const struct group_ops link_ops = {
    .name = "link",
    .close = link_close,
    .begin = link_begin,
    .gather = link_gather,
    .send = link_send,
    .recv = link_recv,
    .is_recordable = link_is_recordable,
    .status = link_status,
    .wait_us = link_wait_us,
};

static uint32_t frames_of(int32_t n_member)
{
    return (uint32_t)(n_member - 1) * FRAMES;
}

uint64_t group_link_bytes(int32_t n_member, uint64_t frame_bytes)
{
    return 2 * (uint64_t)frames_of(n_member) * (frame_bytes ? frame_bytes : GROUP_LINK_FRAME_BYTES);
}

err_t group_link_open(const struct group_link_config *c, struct group **out, struct err_text *why)
{
    if (c->n_member < 2 || c->n_member > GROUP_MEMBERS_MAX || c->member < 0 ||
        c->member >= c->n_member)
        return err_say(why, ERR_INVALID, "group: member %d of %d, limit %d", c->member, c->n_member,
                       GROUP_MEMBERS_MAX);
    const uint64_t frame_bytes = c->frame_bytes ? c->frame_bytes : GROUP_LINK_FRAME_BYTES;
    if (frame_bytes < FRAME_BYTES_MIN || frame_bytes > INT32_MAX)
        return err_say(why, ERR_INVALID, "group: frames of %llu bytes",
                       (unsigned long long)frame_bytes);
    struct group_link *g = calloc(1, sizeof *g);
    if (!g) return err_say(why, ERR_MEMORY, "group: no memory");
    g->group = (struct group){.ops = &link_ops, .n_member = c->n_member, .member = c->member};
    g->group.side = &g->group;
    g->config = *c;
    g->config.port.n_frame = frames_of(c->n_member);
    g->config.port.max_bytes = frame_bytes;
    g->n_piece = (int64_t)(frame_bytes / sizeof(float));
    g->doing = "nothing";
    err_t e = port_open(&g->config.port, &g->port, why);
    if (e) {
        free(g);
        return e;
    }
    *out = &g->group;
    return OK;
}

struct port *group_link_port(struct group *group)
{
    return of(group)->port;
}

void group_link_address(const struct group *group, const uint8_t **data, uint32_t *len)
{
    port_address(((const struct group_link *)group)->port, data, len);
}

err_t group_link_connect(struct group *group, int32_t member, const uint8_t *address, uint32_t len,
                         struct err_text *why)
{
    struct group_link *g = of(group);
    if (member < 0 || member >= group->n_member || member == group->member)
        return err_say(why, ERR_INVALID, "group: no other member %d of %d", member,
                       group->n_member);
    err_t e = port_connect(g->port, (uint32_t)member, address, len, why);
    if (!e) g->peers[member].is_connected = true;
    return e;
}
