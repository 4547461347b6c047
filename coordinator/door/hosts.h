// hosts: which names may stand in the Host header, and which origins a browser may call from.
// A web page can make a browser send requests to any address under a name of the page's choosing
// (DNS rebinding); such a request carries that name, so only names known here are answered.
#pragma once
#include "proto/base/err.h"
#include <stdbool.h>

struct hosts {
    const char *const *names;   // further names, NULL-terminated or NULL; borrowed
    const char *const *origins; // NULL: no CORS at all; borrowed
};

// `host` is the header's value, with or without a port. `local` is the text of the address at which
// this connection arrived: an address cannot be rebound, so it is always right. "localhost" and the
// loopback addresses are too. Decimal, octal and short forms of addresses are not.
bool hosts_allow(const struct hosts *h, const char *host, const char *local);
// The Origin value to be echoed, or NULL: no Access-Control-* headers.
const char *hosts_origin(const struct hosts *h, const char *origin);
