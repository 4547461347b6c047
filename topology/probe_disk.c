#include "topology/probe_disk.h"

#include "proto/base/clock.h"
#include "topology/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 8 << 20,
    READ_MAX = 256 << 20,
    ALIGN = 4096, // what direct reading asks of the buffer
    PATH_BYTES = 4096,
};

// ---- which file

static err_t largest_of(const char *folder, char out[PATH_BYTES], struct err_text *why)
{
    DIR *d = opendir(folder);
    if (!d) return err_say(why, ERR_SYSTEM, "%s: cannot open: %m", file_tail(folder));
    int64_t best = -1;
    char path[PATH_BYTES];
    for (struct dirent *entry; (entry = readdir(d));) {
        struct stat st;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path)
            continue;
        if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size <= best) continue;
        best = st.st_size;
        memcpy(out, path, sizeof path);
    }
    closedir(d);
    return best >= 0 ? OK
                     : err_say(why, ERR_NOT_FOUND, "%s: has no files to read", file_tail(folder));
}

static err_t choose_file(const char *path, char out[PATH_BYTES], struct err_text *why)
{
    struct stat st;
    if (stat(path, &st)) {
        const bool is_absent = errno == ENOENT || errno == ENOTDIR;
        return err_say(why, is_absent ? ERR_NOT_FOUND : ERR_SYSTEM, "%s: %m", file_tail(path));
    }
    if (S_ISDIR(st.st_mode)) return largest_of(path, out, why);
    if (!S_ISREG(st.st_mode))
        return err_say(why, ERR_NOT_FOUND, "%s: no regular file", file_tail(path));
    return snprintf(out, PATH_BYTES, "%s", path) < PATH_BYTES
               ? OK
               : err_say(why, ERR_NOT_FOUND, "%s: path too long", file_tail(path));
}

// ---- the volume

// The kernel writes blanks in mount points as \040 and the like.
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

static bool lies_below(const char *path, const char *mount)
{
    const size_t n = strlen(mount);
    return strcmp(mount, "/") == 0 ||
           (strncmp(path, mount, n) == 0 && (path[n] == '/' || path[n] == 0));
}

// The mount with the longest name above the file; of several at one place the last, which covers
// the others.
static void find_mount(const char *real, struct probe_disk *d)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char line[PATH_BYTES];
    size_t longest = 0;
    while (f && fgets(line, sizeof line, f)) {
        char mount[256], type[32], source[128];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*s %*s %*s %*s %255s", mount) != 1 ||
            sscanf(rest, " - %31s %127s", type, source) != 2)
            continue;
        unescape(mount);
        if (!lies_below(real, mount) || strlen(mount) < longest) continue;
        longest = strlen(mount);
        memcpy(d->mount, mount, sizeof mount);
        memcpy(d->type, type, sizeof type);
        memcpy(d->source, source, sizeof source);
    }
    if (f) fclose(f);
}

// ---- reading

static err_t read_pieces(int fd, void *piece, int32_t budget_ms, struct probe_disk *d,
                         struct err_text *why)
{
    const int64_t from = clock_now_us(), until = from + (int64_t)budget_ms * 1000;
    uint64_t done = 0;
    ssize_t n = 0;
    do {
        n = pread(fd, piece, PIECE_BYTES, (off_t)done);
        if (n > 0) done += (uint64_t)n;
    } while (n == PIECE_BYTES && done < READ_MAX && clock_now_us() < until);
    if (n < 0) return err_say(why, ERR_SYSTEM, "%s: cannot read: %m", d->file);
    const int64_t took = clock_now_us() - from;
    d->read_bytes = done;
    d->read_bytes_per_s = (double)done * 1e6 / (double)(took > 0 ? took : 1);
    return OK;
}

// Past the page cache, or, where the file system does not do that, through it after asking the
// kernel to drop the file.
static err_t read_speed(const char *path, int32_t budget_ms, struct probe_disk *d,
                        struct err_text *why)
{
    void *piece = aligned_alloc(ALIGN, PIECE_BYTES);
    if (!piece) return err_say(why, ERR_MEMORY, "%s: no memory to read it", d->file);
    err_t e = ERR_SYSTEM;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
    if (fd >= 0) e = read_pieces(fd, piece, budget_ms, d, NULL);
    d->is_direct = e == OK;
    if (fd >= 0) close(fd);
    if (e) {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) {
            err_say(why, e, "%s: cannot open: %m", d->file);
        } else {
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            e = read_pieces(fd, piece, budget_ms, d, why);
            close(fd);
        }
    }
    free(piece);
    return e;
}

err_t probe_disk_read(const char *path, int32_t budget_ms, struct probe_disk *out,
                      struct err_text *why)
{
    char file[PATH_BYTES];
    struct statvfs v;
    struct probe_disk d = {0};
    err_t e = choose_file(path, file, why);
    if (e) return e;
    char *real = realpath(file, NULL);
    snprintf(d.file, sizeof d.file, "%.255s", file_tail(file));
    if (!real || statvfs(real, &v)) {
        e = err_say(why, ERR_SYSTEM, "%s: %m", d.file);
    } else {
        d.bytes = (uint64_t)v.f_blocks * v.f_frsize;
        d.free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
        find_mount(real, &d);
        e = budget_ms > 0 ? read_speed(real, budget_ms, &d, why) : OK;
    }
    free(real);
    if (!e) *out = d;
    return e;
}
