// head_short: rows of logits that stay on the device: what it tells of them (kernels' top) mostly
// is enough to draw from (draw.h). For head.c only.
#pragma once
#include "worker/draw.h"
#include "worker/mem.h"

enum { HEAD_SHORT_ROWS = 32 }; // asked about at once

struct head;
struct head_want;
struct head_short {
    struct top_row rows[HEAD_SHORT_ROWS]; // their pointers are to what follows
    int32_t n_row, n_top;
    float *value, *pick;       // (rows, KERNELS_TOP_MAX), (rows, KERNELS_TOP_PICKS)
    int32_t *id, *picks;       // likewise
    uint32_t *masks;           // (rows, words)
    double *mass;              // (rows, chunks)
    struct sample_cand *extra; // (KERNELS_TOP_PICKS)
    struct sample_cand *cands; // (KERNELS_TOP_PICKS + KERNELS_TOP_MAX)
    float *chunk;              // (KERNELS_TOP_CHUNK) of logits
};

void head_short_carve(struct head_short *s, int32_t n_vocab, struct mem_carver *host);
// Asks the device about the rows of the block from `from` on whose ids may be drawn this way: sets
// `top` of each of these wants, NULL of the others. Returns how many wants it has gone through.
uint32_t head_short_ask(struct head *h, uint32_t from, uint32_t n);
// Draws the id of row i of the block, whose `top` is set. False: the whole row is needed.
bool head_short_draw(struct head *h, uint32_t i, struct drawn *out);
