// Frame headers: arbitrary bytes are refused, and a header with a right MAC over arbitrary fields
// is accepted only if what it says fits together. (The MAC is made by packing the fields, so that
// the checks behind it are reached.)
#include "proto/wire/frame.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t key[FRAME_KEY_BYTES] = {1, 2, 3};
    uint8_t header[FRAME_HEADER_BYTES] = {0};
    struct frame f = {0}, out;
    struct err_text why;
    memcpy(header, data, size < sizeof header ? size : sizeof header);
    if (frame_unpack(header, key, &out, &why) == OK) abort(); // a MAC is not guessed

    struct {
        uint16_t kind, dtype;
        uint64_t epoch, step;
        uint32_t stage, n_row, n_col, tag;
    } s = {0};
    memcpy(&s, data, size < sizeof s ? size : sizeof s);
    const uint8_t *payload = size > sizeof s ? data + sizeof s : NULL;
    f.kind = s.kind;
    f.dtype = s.dtype;
    f.epoch = s.epoch;
    f.step = s.step;
    f.stage = s.stage;
    f.n_row = s.n_row;
    f.n_col = s.n_col;
    f.tag = s.tag;
    f.bytes = payload ? size - sizeof s : 0;
    f.payload = (void *)payload;
    frame_pack(&f, key, header);
    if (frame_unpack(header, key, &out, &why) != OK) return 0;
    if (out.kind != f.kind || out.bytes != f.bytes || out.n_row != f.n_row) abort();
    if (out.tag != f.tag || (f.tag && f.kind != FRAME_PIECE)) abort();
    if ((f.kind <= FRAME_IDS || f.kind == FRAME_PIECE) &&
        (unsigned __int128)f.n_row * f.n_col * 4 != f.bytes)
        abort();
    if (!frame_check(header, payload, f.bytes)) abort();
    return 0;
}
