// Cluster files: whatever the bytes, cluster_read ends with one sentence or with a cluster that
// keeps its own rules and reads back the same after writing.
#include "proto/base/buf.h"
#include "topology/cluster.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cluster *c = NULL, *again = NULL;
    struct err_text why = {{0}};
    err_t e = cluster_read("f.yaml", (const char *)data, size, &c, &why);
    if (e) {
        BUG_ON(strncmp(why.s, "f.yaml", 6) || strchr(why.s, '\n'));
        return 0;
    }
    BUG_ON(cluster_check(c, NULL));
    struct buf text = {0};
    cluster_write(c, &text);
    BUG_ON(!buf_ok(&text));
    if (cluster_read("again.yaml", text.data, text.len, &again, &why) == OK)
        BUG_ON(memcmp(c, again, sizeof *c));
    else
        BUG_ON(text.len <= 256 << 10);
    buf_fini(&text);
    free(c);
    free(again);
    return 0;
}
