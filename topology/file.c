#include "topology/file.h"

#include "proto/base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Odd bytes take four times the room when the sentence escapes them.
const char *file_tail(const char *path)
{
    size_t len = strlen(path), max = 80;
    for (size_t i = 0, n; i < len; i += n ? n : 1)
        if ((n = utf8_len(path + i, len - i)) == 0 || utf8_is_control(path + i)) max = 20;
    return len > max ? path + len - max : path;
}

err_t file_open(const char *path, struct file *out, struct err_text *why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); // a FIFO must not block us
    if (fd < 0) return err_say(why, ERR_SYSTEM, "%s: cannot open: %m", file_tail(path));
    if (fstat(fd, &st)) {
        err_say(why, ERR_SYSTEM, "%s: cannot examine: %m", file_tail(path));
        close(fd);
        return ERR_SYSTEM;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_say(why, ERR_MODEL, "%s: is a %s, expected a regular file", file_tail(path),
                       S_ISDIR(st.st_mode)    ? "directory"
                       : S_ISFIFO(st.st_mode) ? "pipe"
                                              : "device or socket");
    }
    *out = (struct file){.path = path, .bytes = (uint64_t)st.st_size, .fd = fd};
    return OK;
}

void file_close(struct file *f)
{
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

err_t file_read(const struct file *f, uint64_t at, void *to, uint64_t len, struct err_text *why)
{
    uint64_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (uint8_t *)to + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_say(why, ERR_SYSTEM, "%s: cannot read: %m", file_tail(f->path));
        if (n == 0)
            return err_say(
                why, ERR_MODEL, "%s: the file shrank to %llu bytes while it was read, it had %llu",
                file_tail(f->path), (unsigned long long)(at + done), (unsigned long long)f->bytes);
        done += (uint64_t)n;
    }
    return OK;
}

uint64_t file_sample(uint64_t bytes, uint64_t from, uint32_t n, uint32_t i, uint64_t *len)
{
    const uint64_t room = bytes - from;
    *len = room < FILE_SAMPLE_BYTES ? room : FILE_SAMPLE_BYTES;
    return from + (room - *len) / (n - 1) * i;
}

err_t file_add_samples(const struct file *f, uint64_t from, uint32_t n, struct sha256 *sha,
                       struct err_text *why)
{
    uint8_t piece[FILE_SAMPLE_BYTES], size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(f->bytes >> (8 * i));
    sha256_add(sha, size, sizeof size);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t len;
        const uint64_t at = file_sample(f->bytes, from, n, i, &len);
        err_t e = file_read(f, at, piece, len, why);
        if (e) return e;
        sha256_add(sha, piece, len);
    }
    return OK;
}

const char *file_stem(const char *path, size_t *len)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t from = end;
    while (from > 0 && path[from - 1] != '/')
        from--;
    *len = end - from;
    if (*len > 5 && !memcmp(path + end - 5, ".gguf", 5)) *len -= 5;
    return path + from;
}
