#include "proto/base/folder.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

int folder_make(const char *path)
{
    char at[PATH_MAX];
    const size_t len = strlen(path);
    if (len == 0 || len >= sizeof at) {
        errno = len ? ENAMETOOLONG : ENOENT;
        return -1;
    }
    memcpy(at, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        at[i] = 0;
        if (mkdir(at, 0700) != 0 && errno != EEXIST) return -1;
        at[i] = path[i];
    }
    return 0;
}
