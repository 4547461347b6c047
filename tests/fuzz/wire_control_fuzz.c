// wire_unpack over arbitrary bytes. What it accepts must survive packing and unpacking again.
#include "proto/wire/wire.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arena a, b;
    static struct buf first, second;
    struct msg m, again;
    struct err_text why;
    arena_reset(&a);
    arena_reset(&b);
    buf_clear(&first);
    buf_clear(&second);
    err_t e = wire_unpack(data, size, &a, &m, &why);
    if (a.used_bytes > 2 * WIRE_ARENA_MAX) abort();
    if (e) {
        if (e != ERR_LINK_PROTOCOL || !why.s[0]) abort();
        return 0;
    }
    if (wire_pack(&m, &first) || wire_unpack(first.data, first.len, &b, &again, &why)) abort();
    if (wire_pack(&again, &second)) abort();
    if (first.len != second.len || memcmp(first.data, second.data, first.len) != 0) abort();
    return 0;
}
