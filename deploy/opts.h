// opts: command-line options from one table per command: the table parses, validates and prints the
// help. Errors are one line on stderr and exit code 2.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum opt_kind {
    OPT_FLAG,   // bool *: set true
    OPT_STR,    // const char **
    OPT_STRS,   // struct opt_strs *: may be given several times
    OPT_U32,    // uint32_t *, within [min, max]
    OPT_SIZE,   // uint64_t *: bytes or tokens, with K, M, G suffixes (1024)
    OPT_CHOICE, // uint32_t *: index of the word in `words` ("a|b|c")
};

enum { OPT_STRS_MAX = 32 };
struct opt_strs {
    const char *at[OPT_STRS_MAX + 1]; // NULL-terminated
    int n;
};

struct opt {
    const char *name; // without the dashes
    enum opt_kind kind;
    void *to;
    const char *arg; // word shown for the value in the help; OPT_CHOICE: the choices
    const char *help;
    uint32_t min, max; // OPT_U32; max 0: no limit
};

struct opt_spec {
    const char *usage;      // "serve MODEL [options]"
    const char *about;      // one sentence
    const struct opt *opts; // ends with name NULL
    int min_args, max_args; // positional arguments
};

// Parses argv[1..]; positional arguments go to args[0..max_args), borrowed. Returns -1 to go on, or
// an exit code (0 after --help, 2 after a usage error).
int opts_parse(const struct opt_spec *spec, int argc, char **argv, const char **args);
