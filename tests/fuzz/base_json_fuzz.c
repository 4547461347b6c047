// JSON bodies: whatever the bytes, json_read ends with a tree or one sentence; a tree writes and
// reads back.
#include "proto/base/buf.h"
#include "proto/base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a;
    const struct json *j = NULL, *again = NULL;
    struct err_text why = {0};
    arena_init(&a, 8 << 20);
    if (json_read((const char *)data, size, &a, &j, NULL, &why) == OK) {
        struct buf b = {.max = 64 << 20};
        json_write(&b, j);
        BUG_ON(buf_ok(&b) && json_read(b.data, b.len, &a, &again, NULL, NULL) == ERR_INVALID);
        buf_fini(&b);
    } else {
        BUG_ON(!why.s[0]);
    }
    arena_fini(&a);
    return 0;
}
