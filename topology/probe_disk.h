// probe_disk: the volume that a model lies on: how much is free there, and how fast it is read when
// nothing of it is in the page cache.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct probe_disk {
    char file[256];   // what was read; the end of its path
    char mount[256];  // where the volume is mounted
    char source[128]; // "/dev/nvme0n1p2"
    char type[32];    // "ext4"
    uint64_t bytes, free_bytes;
    double read_bytes_per_s; // 0: the file is empty
    bool is_direct;          // read past the page cache; else through it, after dropping the file
    uint64_t read_bytes;     // that the figure stands on
};

// path: a file, or a folder, whose largest file is read: at most 256 MiB or budget_ms (0: nothing).
// ERR_NOT_FOUND if there is no such file, ERR_SYSTEM if it cannot be read.
err_t probe_disk_read(const char *path, int32_t budget_ms, struct probe_disk *out,
                      struct err_text *why);
