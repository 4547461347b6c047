// route: which path is answered by what, by which methods, and who may ask.
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct api;
struct exchange;
struct auth_addr;

enum route_access {
    ROUTE_OPEN,   // anybody
    ROUTE_HEALTH, // this machine, or with a key
    ROUTE_ADMIN,  // with a key; where there are none, this machine
    ROUTE_KEY,    // with a key if there are any
};

struct route {
    const char *path; // ending in '/': everything below it
    bool is_post;     // else GET and HEAD
    enum route_access access;
    void (*run)(struct exchange *x); // the body is whole; must answer, or arrange for it
    const struct api *api;           // of call_api
};

// Both may be NULL. `any`: a route of this path by whatever method, for 405 and Allow.
const struct route *route_find(const char *path, bool is_post, const struct route **any,
                               const char **rest);
// All of them; no two have the same path.
const struct route *route_table(size_t *n);
