// members: the two roads of a group (group.cu) from device to device: nccl.cu and peers.cu. Both
// hand over parts of one array: part i is made by member i, and all get all of them, or one does.
#pragma once
#include "kernels/cuda/cuda.h"

// n_row pieces of `width` floats, the first at y + at, each `ld` floats behind the one before.
struct members_part {
    int64_t at, width, n_row, ld;
};
struct members_parts {
    struct members_part of[KERNELS_MEMBERS_MAX];
};

struct members_config {
    struct cuda *c;
    int32_t n_member, member;
    uint64_t row_bytes, queue_bytes; // of the group's config
    // In waits that are not for the device. False: give up.
    bool (*rest)(void *arg, int64_t since_us);
    void *rest_arg;
};

// -- nccl.cu --
struct nccl;
enum { NCCL_ID_BYTES = 128 };
err_t nccl_open(const struct members_config *c, struct nccl **out, struct err_text *why);
void nccl_close(struct nccl *n); // ends what is under way
int32_t nccl_version(const struct nccl *n);
// Made by one member, for all.
err_t nccl_id(const struct nccl *n, uint8_t out[NCCL_ID_BYTES], struct err_text *why);
err_t nccl_connect(struct nccl *n, const uint8_t id[NCCL_ID_BYTES], struct err_text *why);
// root -1: all get all parts. Floats of one call to fit its buffers, but for parts of one row.
uint64_t nccl_most(const struct nccl *n);
void nccl_exchange(struct nccl *n, float *y, const struct members_parts *p, int32_t root);
void nccl_send(struct nccl *n, int32_t to, const float *x, const int32_t *row, int64_t n_row,
               int64_t n_col);
void nccl_recv(struct nccl *n, int32_t from, float *y, int64_t n_row, int64_t n_col);
// One way: x from member 0 to all others, y there.
void nccl_give(struct nccl *n, const float *x, int64_t count);
void nccl_take(struct nccl *n, float *y, int64_t count);
// First error; looks for those that come by themselves.
err_t nccl_status(struct nccl *n, struct err_text *why);
void nccl_abort(struct nccl *n);

// -- peers.cu --
struct peers;
err_t peers_open(const struct members_config *c, struct peers **out, struct err_text *why);
void peers_close(struct peers *p);
const struct device_shared *peers_shared(const struct peers *p);
// ERR_UNSUPPORTED: a member's memory is out of reach.
err_t peers_connect(struct peers *p, const struct device_shared *of, struct err_text *why);
uint64_t peers_most(const struct peers *p); // floats of one exchange, from the first to the last
// All parts lie within peers_most floats from y on.
void peers_exchange(struct peers *p, float *y, const struct members_parts *parts, int32_t root);
// One way: n floats from member 0 to all others, of which n are asked for.
void peers_give(struct peers *p, const float *x, int64_t n);
void peers_take(struct peers *p, float *y, int64_t n);
void peers_abort(struct peers *p);
err_t peers_status(const struct peers *p, struct err_text *why); // ERR_LINK: a member has left
