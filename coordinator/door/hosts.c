#include "coordinator/door/hosts.h"

#include <string.h>
#include <strings.h>

// Length of the host part of "host", "host:port", "[v6]", "[v6]:port"; 0 if malformed.
static size_t host_len(const char *s)
{
    size_t n = s[0] == '[' ? strcspn(s, "]") + 1 : strcspn(s, ":");
    if (n == 0 || n > 255 || (s[0] == '[' && s[n - 1] != ']')) return 0;
    const char *port = s + n;
    if (*port == 0) return n;
    if (*port++ != ':') return 0;
    size_t digits = strspn(port, "0123456789");
    return digits <= 5 && port[digits] == 0 ? n : 0;
}

static bool is_name(const char *host, size_t len, const char *name)
{
    if (host[0] == '[' && name[0] != '[') {
        host++;
        len -= 2;
    }
    return strlen(name) == len && strncasecmp(host, name, len) == 0;
}

bool hosts_allow(const struct hosts *h, const char *host, const char *local)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "::1"};
    size_t len = host_len(host);
    if (len == 0) return false;
    for (size_t i = 0; i < sizeof loopback / sizeof *loopback; i++)
        if (is_name(host, len, loopback[i])) return true;
    if (local && is_name(host, len, local)) return true;
    for (size_t i = 0; h->names && h->names[i]; i++)
        if (is_name(host, len, h->names[i])) return true;
    return false;
}

const char *hosts_origin(const struct hosts *h, const char *origin)
{
    for (size_t i = 0; origin && h->origins && h->origins[i]; i++)
        if (strcasecmp(h->origins[i], origin) == 0) return h->origins[i];
    return NULL;
}
