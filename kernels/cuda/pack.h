// pack: the forms of weights (form.h) from file layout, on the host.
#pragma once
#include "kernels/cuda/contract.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of the planes, of the scales behind them, and of a unit of 64 columns of a form's type; of
// other types 0.
struct pack_size {
    uint32_t planes, scales, unit;
};
struct pack_size pack_sizes(enum dtype form);

// Bytes of a tile of 16 rows of `cols` columns.
int64_t pack_tile_bytes(enum dtype t, int64_t cols);
// Packs n_row rows (cols columns, in file layout) into tiles at out: zeroed memory of as many tiles
// as they need. Any thread.
void pack_rows(enum dtype t, const void *src, int64_t n_row, int64_t cols, uint8_t *out);
// The levels that the codes of a type are numbers of (form_levels), zeros for others.
void pack_levels(enum dtype t, int8_t out[16]);

#ifdef __cplusplus
}
#endif
