// A member of a group that lies: any frames, in any order, that bear the epoch's key, to a member
// that gathers and receives. It ends each time, writes nowhere but into its own rows, and says what
// was wrong; a port takes what fits its frames and no more.
#include "proto/base/log.h"
#include "proto/link/group.h"
#include "proto/wire/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MEMBERS = 3, ROWS = 6, COLS = 20, FRAME_BYTES = 128, TURNS = 40 };

static const uint8_t key[FRAME_KEY_BYTES] = {7};

struct input {
    const uint8_t *at;
    size_t left;
    struct port *liar; // sends to the group's port
    int turns;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    log_set_level(LOG_ERROR);
    return 0;
}

static uint32_t byte(struct input *in)
{
    if (!in->left) return 0;
    in->left--;
    return *in->at++;
}

// One frame. Its header goes through the bytes, as over a network: what is not sound is dropped.
static void lie(struct input *in)
{
    uint8_t payload[2 * FRAME_BYTES], header[FRAME_HEADER_BYTES];
    struct frame f = {.kind = byte(in) % 8 ? FRAME_PIECE : (enum frame_kind)(byte(in) % 7),
                      .dtype = byte(in) % 2 ? DT_F32 : DT_I32,
                      .epoch = byte(in) % 16 ? 1 : 2,
                      .step = byte(in) % 16 ? 1 : byte(in),
                      .stage = byte(in) % 16 < 14 ? 1 + byte(in) % 2 : byte(in)},
                 sound;
    f.n_row = byte(in) % 4;
    f.n_col = byte(in) % 32;
    f.tag = byte(in) % 8;
    f.tag |= byte(in) % 8 << 16;
    if (byte(in) % 16 == 0) f.n_col |= byte(in) << 24;
    f.bytes = (uint64_t)f.n_row * f.n_col * 4;
    if (byte(in) % 16 == 0) f.bytes = byte(in);
    if (f.bytes > sizeof payload) f.bytes = sizeof payload;
    for (size_t i = 0; i < f.bytes; i++)
        payload[i] = (uint8_t)byte(in);
    f.payload = payload;
    frame_pack(&f, key, header);
    if (frame_unpack(header, key, &sound, NULL) != OK) return;
    sound.payload = payload;
    if (frame_check(header, payload, sound.bytes)) port_send(in->liar, 0, &sound);
}

// In each turn that the member waits, some frames come; in the end nothing does.
static err_t rest(void *arg, struct port *port, int64_t since_us, struct err_text *why)
{
    struct input *in = arg;
    (void)port, (void)since_us;
    if (in->turns++ >= TURNS) return err_say(why, ERR_CANCELLED, "enough");
    for (uint32_t n = 1 + byte(in) % 4; n && in->left; n--)
        lie(in);
    return OK;
}

static struct port *open_port(uint64_t max_bytes, struct port *to)
{
    struct port_config c = {.road = ROAD_LOCAL, .epoch = 1, .n_frame = 8, .max_bytes = max_bytes};
    struct port *p;
    const uint8_t *address;
    uint32_t len;
    memcpy(c.key, key, sizeof key);
    if (port_open(&c, &p, NULL)) abort();
    if (!to) return p;
    port_address(to, &address, &len);
    if (port_connect(p, 0, address, len, NULL)) abort();
    return p;
}

static void run(struct group *g, struct input *in)
{
    const int64_t from[MEMBERS + 1] = {0, 7, 9, COLS};
    float *y = calloc(ROWS * COLS, sizeof *y); // of its own, so that the sanitizer sees its end
    if (!y) abort();
    g->ops->begin(g, 1);
    for (int i = 0; i < 8 && !g->ops->status(g, NULL); i++) {
        in->turns = 0;
        switch (byte(in) % 4) {
        case 0:
            g->ops->gather(g, y, ROWS, COLS, from, -1);
            break;
        case 1:
            g->ops->gather(g, y, ROWS, COLS, from, 0);
            break;
        case 2:
            if (g->ops->recv(g, 1, y, -1, 6, ROWS) > ROWS) abort();
            break;
        default:
            g->ops->send(g, 2, y, ROWS, 6);
        }
    }
    struct err_text why = {{0}};
    if (g->ops->status(g, &why) && !why.s[0]) abort();
    free(y);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.at = data, .left = size};
    struct group_link_config c = {.port = {.road = ROAD_LOCAL, .epoch = 1},
                                  .n_member = MEMBERS,
                                  .frame_bytes = FRAME_BYTES,
                                  .deadline_us = 1000000,
                                  .rest = rest,
                                  .rest_arg = &in};
    struct group *g;
    const uint8_t *address;
    uint32_t len;
    memcpy(c.port.key, key, sizeof key);
    if (group_link_open(&c, &g, NULL)) abort();
    in.liar = open_port(2 * FRAME_BYTES, group_link_port(g));
    port_address(in.liar, &address, &len);
    for (int32_t i = 1; i < MEMBERS; i++)
        if (group_link_connect(g, i, address, len, NULL)) abort();
    run(g, &in);
    port_close(in.liar);
    group_close(g);
    return 0;
}
