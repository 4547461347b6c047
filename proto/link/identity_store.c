#include "proto/link/identity_priv.h"

#include "proto/base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES_MAX = 65536 };

err_t identity_store_open(const char *dir, struct err_text *why)
{
    struct stat st;
    if (stat(dir, &st) != 0 && (folder_make(dir) != 0 || stat(dir, &st) != 0))
        return err_say(why, ERR_CONFIG, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return err_say(why, ERR_CONFIG, "%s is not a folder", dir);
    if (st.st_mode & 077)
        return err_say(why, ERR_CONFIG, "%s holds keys but is open to others: chmod 700 %s", dir,
                       dir);
    return OK;
}

static err_t path_of(const char *dir, const char *name, char path[PATH_MAX], struct err_text *why)
{
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    if (n > 0 && n < PATH_MAX) return OK;
    return err_say(why, ERR_CONFIG, "%s: the name is too long", dir);
}

static err_t read_all(int fd, size_t size, const char *path, struct buf *out, struct err_text *why)
{
    size_t before = out->len;
    if (!buf_reserve(out, size)) return ERR_MEMORY;
    while (out->len - before < size) {
        ssize_t n = read(fd, out->data + out->len, size - (out->len - before));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(errno));
        if (n == 0) break;
        out->len += (size_t)n;
    }
    out->data[out->len] = 0;
    return OK;
}

err_t identity_store_read(const char *dir, const char *name, struct buf *out, struct err_text *why)
{
    char path[PATH_MAX];
    struct stat st;
    err_t e = path_of(dir, name, path, why);
    if (e) return e;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return ERR_NOT_FOUND;
    if (fd < 0 || fstat(fd, &st) != 0)
        e = err_say(why, ERR_CONFIG, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX)
        e = err_say(why, ERR_CONFIG, "%s is not a file of ours", path);
    else if (st.st_mode & 077)
        e = err_say(why, ERR_CONFIG, "%s can be read by others: chmod 600 %s", path, path);
    else
        e = read_all(fd, (size_t)st.st_size, path, out, why);
    if (fd >= 0) close(fd);
    return e;
}

static bool write_all(int fd, const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        data += n;
        len -= (size_t)n;
    }
    return fsync(fd) == 0;
}

// A rename is on disk when its folder is.
static void sync_folder(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(dir, sizeof dir, ".");
    else
        snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return; // the file itself is whole; only its durability over a power cut is less
    fsync(fd);
    close(fd);
}

err_t identity_write_file(const char *path, const void *data, size_t len, struct err_text *why)
{
    char tmp[PATH_MAX];
    int n = snprintf(tmp, sizeof tmp, "%s.%ld.new", path, (long)getpid());
    if (n < 0 || n >= (int)sizeof tmp)
        return err_say(why, ERR_CONFIG, "%s: the name is too long", path);
    unlink(tmp); // left by a process that had our pid and died
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write_all(fd, data, len);
    int saved = errno;
    if (fd >= 0 && close(fd) != 0) ok = false;
    if (ok && rename(tmp, path) != 0) {
        saved = errno;
        ok = false;
    }
    if (ok) {
        sync_folder(path);
        return OK;
    }
    if (fd >= 0) unlink(tmp);
    return err_say(why, ERR_SYSTEM, "%s: %s", path, strerror(saved));
}

err_t identity_store_write(const char *dir, const char *name, const struct buf *data,
                           struct err_text *why)
{
    char path[PATH_MAX];
    err_t e = path_of(dir, name, path, why);
    return e ? e : identity_write_file(path, data->data, data->len, why);
}
