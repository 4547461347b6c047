#include "deploy/textfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

err_t textfile_read(const char *path, bool is_secret, char **out, struct err_text *why)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode) || st.st_size > 1 << 20) {
        if (f) fclose(f);
        return err_say(why, ERR_CONFIG, "%s: not a readable file of at most 1 MiB", path);
    }
    if (is_secret && (st.st_mode & 077)) {
        fclose(f);
        return err_say(why, ERR_CONFIG, "%s: others may read it: run chmod 600 %s", path, path);
    }
    // No copy of a secret stays behind in the stream's buffer.
    if (is_secret) setvbuf(f, NULL, _IONBF, 0);
    char *text = calloc(1, (size_t)st.st_size + 1);
    size_t n = text ? fread(text, 1, (size_t)st.st_size, f) : 0;
    fclose(f);
    if (!text) return err_say(why, ERR_MEMORY, "out of memory");
    text[n] = 0;
    *out = text;
    return OK;
}
