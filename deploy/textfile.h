// textfile: small text files that the user names: keys, certificates, tokens.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

// The whole text of a regular file of at most 1 MiB, NUL-terminated; free() it. A secret must not
// be readable by group or others. ERR_CONFIG names the file and, for a secret, the chmod.
err_t textfile_read(const char *path, bool is_secret, char **out, struct err_text *why);
