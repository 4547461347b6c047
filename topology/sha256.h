// sha256: SHA-256 (FIPS 180-4), for naming models and plans. One owner at a time.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t n_bytes; // taken so far
    uint8_t block[64];
    bool is_hard; // the processor has instructions for it
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);
// Writes the 32-byte digest; the state must be initialised again before further use.
void sha256_end(struct sha256 *s, uint8_t *out);
