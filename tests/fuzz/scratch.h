// scratch: the one file through which a fuzz target hands its input to code that opens files; in
// memory where the system has such a place, gone when the process ends.
#pragma once
#include "proto/base/log.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64] = "/dev/shm/trireme-fuzz-XXXXXX";
static int fd = -1;

static void remove_file(void)
{
    unlink(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_ERROR);
    fd = mkstemp(path);
    if (fd < 0) {
        snprintf(path, sizeof path, "/tmp/trireme-fuzz-XXXXXX");
        fd = mkstemp(path);
    }
    if (fd < 0) abort();
    atexit(remove_file);
    return 0;
}
