// log: one line per event on stderr, lower case, ids as words ("worker 2 epoch 7 left"), never per
// token, never prompt text. Thread-safe: one write(2) per line.
#pragma once

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// Lines above `level` are dropped. Default: LOG_INFO.
void log_set_level(enum log_level level);
// Name put in front of each line, e.g. "coordinator" or "worker a". Copied; at most 31 bytes.
void log_set_who(const char *who);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
