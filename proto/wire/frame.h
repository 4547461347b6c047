// frame: a tensor on the data road. 64-byte header in little endian, then the payload.
//
//   0  u32 magic "TRF1"     4 u16 kind       6 u16 dtype
//   8  u64 epoch           16 u64 step      24 u32 stage (sender)   28 u32 n_row
//  32  u32 n_col           36 u32 tag
//  40  u64 payload bytes   48 u64 checksum of the payload (CRC-32C, zero-extended)
//  56  u64 MAC: SipHash-2-4 of bytes 0..55 under the epoch's key (Aumasson and Bernstein 2012)
//
// The MAC proves that the sender belongs to this epoch of this cluster; the checksum that the bytes
// arrived right.
#pragma once
#include "proto/base/dtype.h"
#include <stdbool.h>

enum { FRAME_HEADER_BYTES = 64, FRAME_KEY_BYTES = 16 };

enum frame_kind {
    FRAME_ACTIVATIONS =
        1,         // (n_row tokens, n_col = dim) F32 residual stream after the sender's layers
    FRAME_IDS = 2, // (n_row, 2) I32 pairs slot, id drawn in this step: last stage -> first
    FRAME_PING =
        3, // answered by FRAME_PONG with the same step; with n_row 1 its payload comes back
    FRAME_PONG = 4,
    FRAME_PIECE = 5, // (n_row, n_col) of what the members of a group hand each other; stage is the
                     // sender's member number, tag counts the pieces (proto/link/group_link.c)
};

struct frame {
    enum frame_kind kind;
    enum dtype dtype; // DT_F32 or DT_I32
    uint64_t epoch, step;
    uint32_t stage;
    uint32_t n_row, n_col;
    uint32_t tag;   // of FRAME_PIECE, else 0
    uint64_t bytes; // n_row * n_col * 4, except PING/PONG: any
    void *payload;  // aligned to 64
};

// payload may be NULL when bytes is 0.
void frame_pack(const struct frame *f, const uint8_t key[FRAME_KEY_BYTES],
                uint8_t out[FRAME_HEADER_BYTES]);
// Checks magic, MAC, kind, dtype, and that bytes agrees with the shape; out->payload is NULL.
// ERR_LINK_AUTH for a wrong MAC, ERR_LINK_PROTOCOL for the rest.
err_t frame_unpack(const uint8_t in[FRAME_HEADER_BYTES], const uint8_t key[FRAME_KEY_BYTES],
                   struct frame *out, struct err_text *why);
// True if the payload has the checksum that the (already unpacked) header bytes carry.
bool frame_check(const uint8_t header[FRAME_HEADER_BYTES], const void *payload, uint64_t bytes);
// CRC-32C (RFC 3720, appendix B.4).
uint32_t frame_checksum(const void *data, uint64_t n);
