// check: what the check programs of the kernels share: random numbers, verdicts, a digest of
// outputs by which two machines' bits can be compared, and the loop over instruction sets.
//
// KERNELS_CHECK_ALL=1 prints every check with its error and what is allowed.
#pragma once
#include "tests/unit/soon.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// -- random numbers --

static uint64_t rng_state; // set by every check, so that its data is its own
static void rng_seed(uint64_t n)
{
    rng_state = 88172645463325252u + n;
}
static uint32_t rng(void) // xorshift64*
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (uint32_t)(rng_state * 0x2545f4914f6cdd1d >> 32);
}
static float rng_float(void) // about normal, exact in 16 fraction bits
{
    int32_t s = 0;
    for (int i = 0; i < 4; i++)
        s += (int32_t)(rng() & 0xffff) - 0x8000;
    return (float)s / 0x8000;
}
static float *floats(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p);
    for (int64_t i = 0; p && i < n; i++)
        p[i] = rng_float();
    if (!p) exit(2);
    return p;
}

// -- verdicts --

static int n_check, n_failed;
static uint64_t digest; // of the outputs of the instruction set under test
static const char *isa_name;
// The reference is slow and made from the same bodies as the others: fewer cuts, one thread. That
// its bits are theirs is checked by the digest. Under a sanitizer everything is slow.
static bool is_brief, always_brief = SOON_ROOM > 4;
static int most_threads = 3;

static void verdict(const char *op, const char *what, double err, double allowed)
{
    bool ok = err <= allowed; // a NaN fails
    n_check++;
    n_failed += !ok;
    if (!ok || getenv("KERNELS_CHECK_ALL"))
        printf("%-10s %-10s %-34s error %-10.3g allowed %-10.3g %s\n", isa_name, op, what, err,
               allowed, ok ? "ok" : "FAILED");
}

static void same_bits(const char *op, const char *what, const void *a, const void *b, size_t bytes)
{
    verdict(op, what, memcmp(a, b, bytes) ? 1 : 0, 0);
}

static void digest_add(const void *p, size_t bytes) // FNV-1a
{
    for (size_t i = 0; i < bytes; i++)
        digest = (digest ^ ((const uint8_t *)p)[i]) * 0x100000001b3;
}

// Other backends than the CPU's are checked with the same programs (tests/unit/cuda).
static err_t (*open_backend)(const char *name, const struct kernels_limits *l, struct kernels **out,
                             struct err_text *why) = kernels_open_cpu;

static struct kernels *open_limits(struct kernels_limits l, int n_threads, enum precision p)
{
    struct kernels *k;
    struct err_text why;
    l.n_threads = n_threads;
    l.precision = p;
    if (open_backend(isa_name, &l, &k, &why)) {
        printf("%s\n", why.s);
        exit(2);
    }
    return k;
}

// Runs `checks` on each instruction set that this machine has; fails if two digests differ.
static int check_all(const char *const *names, int n, void (*checks)(void))
{
    const struct kernels_limits tiny = {.n_threads = 1,
                                        .max_tok = 1,
                                        .max_cols = 1,
                                        .max_rows = 1,
                                        .max_head = 1,
                                        .max_head_dim = 1,
                                        .max_ctx = 1};
    uint64_t first = 0;
    int n_run = 0;
    n_check = n_failed = 0;
    for (int i = 0; i < n; i++) {
        struct kernels *k;
        if (open_backend(names[i], &tiny, &k, NULL)) continue;
        k->ops->close(k);
        int checked = n_check, failed = n_failed;
        isa_name = names[i];
        is_brief = always_brief || !strcmp(isa_name, "reference");
        digest = 0xcbf29ce484222325;
        checks();
        printf("%-10s %d checks, %d failed, digest %016llx\n", isa_name, n_check - checked,
               n_failed - failed, (unsigned long long)digest);
        if (n_run++ == 0) first = digest;
        if (digest != first) {
            printf("%s gives other bits than %s\n", names[i], names[0]);
            n_failed++;
        }
    }
    if (!n_run) printf("no instruction set to check\n");
    return n_run && !n_failed ? 0 : 1;
}

// [-b] [-t THREADS] [ISA...]; -b: brief, for emulators. The digest is the same.
static inline int check_main(int argc, char **argv, void (*checks)(void))
{
    static const char *const all[] = {"reference", "avx2", "vnni", "neon", "dotprod", "i8mm"};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "-b"))
            always_brief = true;
        else if (!strcmp(argv[i], "-t") && i + 1 < argc)
            most_threads = atoi(argv[++i]);
    }
    return argc > i ? check_all((const char *const *)argv + i, argc - i, checks)
                    : check_all(all, (int)(sizeof all / sizeof *all), checks);
}
