#include "proto/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level log_level = LOG_INFO;
static char log_who[32] = "trireme";

void log_set_level(enum log_level level)
{
    log_level = level;
}

void log_set_who(const char *who)
{
    snprintf(log_who, sizeof log_who, "%s", who);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    if (level > log_level) return;
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    localtime_r(&t.tv_sec, &tm);
    char line[1024];
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s: %s: ", tm.tm_hour, tm.tm_min,
                     tm.tm_sec, t.tv_nsec / 1000000, log_who, words[level]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0) m = 0;
    n += m;
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    // One event is one line whatever the text holds.
    for (int i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
    line[n++] = '\n';
    // A reader that stopped reading must not stop us: a lost line is better than a stuck server.
    ssize_t unused = write(STDERR_FILENO, line, (size_t)n);
    (void)unused;
}
