#include "proto/wire/frame.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

static const uint32_t MAGIC = 0x31465254; // "TRF1"

// -- little endian --

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

// -- SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) --

static uint64_t rotl(uint64_t v, int n)
{
    return v << n | v >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] = rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] = rotl(v[2], 32);
}

// Of the 56 bytes before the MAC: a whole number of words, so the last block holds the length only.
static uint64_t header_mac(const uint8_t header[FRAME_HEADER_BYTES],
                           const uint8_t key[FRAME_KEY_BYTES])
{
    enum { LEN = 56 };
    uint64_t k0 = get64(key), k1 = get64(key + 8);
    uint64_t v[4] = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                     k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    for (int at = 0; at <= LEN; at += 8) {
        uint64_t word = at < LEN ? get64(header + at) : (uint64_t)LEN << 56;
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

// -- CRC-32C (Castagnoli; RFC 3720 B.4), reflected polynomial 0x82f63b78 --

typedef uint32_t crc_fn(uint32_t crc, const uint8_t *p, uint64_t n);

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_hard(uint32_t crc, const uint8_t *p,
                                                           uint64_t n)
{
    uint64_t c = crc, word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    for (; n; n--, p++)
        c = _mm_crc32_u8((uint32_t)c, *p);
    return (uint32_t)c;
}

static bool has_crc(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__)
__attribute__((target("+crc"))) static uint32_t crc_hard(uint32_t crc, const uint8_t *p, uint64_t n)
{
    uint64_t word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        crc = __crc32cd(crc, word);
    }
    for (; n; n--, p++)
        crc = __crc32cb(crc, *p);
    return crc;
}

static bool has_crc(void)
{
    return getauxval(AT_HWCAP) & HWCAP_CRC32;
}
#else
static crc_fn *const crc_hard;
static bool has_crc(void)
{
    return false;
}
#endif

// Eight tables, one per byte of a word (Kounavis and Berry 2008, "slicing-by-8"); made once.
static uint32_t slices[8][256];
static pthread_once_t slices_once = PTHREAD_ONCE_INIT;

static void slices_make(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = b;
        for (int i = 0; i < 8; i++)
            c = c >> 1 ^ (c & 1 ? 0x82f63b78 : 0);
        slices[0][b] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int b = 0; b < 256; b++)
            slices[t][b] = slices[t - 1][b] >> 8 ^ slices[0][slices[t - 1][b] & 0xff];
}

static uint32_t crc_soft(uint32_t crc, const uint8_t *p, uint64_t n)
{
    pthread_once(&slices_once, slices_make);
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w = get64(p) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= slices[7 - i][w >> 8 * i & 0xff];
    }
    for (; n; n--, p++)
        crc = crc >> 8 ^ slices[0][(crc ^ *p) & 0xff];
    return crc;
}

uint32_t frame_checksum(const void *data, uint64_t n)
{
    crc_fn *fn = has_crc() ? crc_hard : crc_soft;
    return ~fn(~UINT32_C(0), data, n);
}

// -- frames --

static const struct {
    enum dtype dtype; // DT_NONE: DT_F32 or DT_I32
    uint32_t n_col;   // 0: any
    bool is_shaped;   // bytes = n_row * n_col * 4
} kinds[] = {
    [FRAME_ACTIVATIONS] = {DT_F32, 0, true}, [FRAME_IDS] = {DT_I32, 2, true},
    [FRAME_PING] = {DT_NONE, 0, false},      [FRAME_PONG] = {DT_NONE, 0, false},
    [FRAME_PIECE] = {DT_NONE, 0, true},
};
enum { N_KIND = sizeof kinds / sizeof *kinds };

void frame_pack(const struct frame *f, const uint8_t key[FRAME_KEY_BYTES],
                uint8_t out[FRAME_HEADER_BYTES])
{
    memset(out, 0, FRAME_HEADER_BYTES);
    put32(out, MAGIC);
    put16(out + 4, (uint16_t)f->kind);
    put16(out + 6, (uint16_t)f->dtype);
    put64(out + 8, f->epoch);
    put64(out + 16, f->step);
    put32(out + 24, f->stage);
    put32(out + 28, f->n_row);
    put32(out + 32, f->n_col);
    put32(out + 36, f->tag);
    put64(out + 40, f->bytes);
    put64(out + 48, f->bytes ? frame_checksum(f->payload, f->bytes) : 0);
    put64(out + 56, header_mac(out, key));
}

err_t frame_unpack(const uint8_t in[FRAME_HEADER_BYTES], const uint8_t key[FRAME_KEY_BYTES],
                   struct frame *out, struct err_text *why)
{
    if (get32(in) != MAGIC) return err_say(why, ERR_LINK_PROTOCOL, "frame: not a frame");
    if (get64(in + 56) != header_mac(in, key))
        return err_say(why, ERR_LINK_AUTH, "frame: wrong key or altered header");
    struct frame f = {
        .kind = get16(in + 4),
        .dtype = get16(in + 6),
        .epoch = get64(in + 8),
        .step = get64(in + 16),
        .stage = get32(in + 24),
        .n_row = get32(in + 28),
        .n_col = get32(in + 32),
        .tag = get32(in + 36),
        .bytes = get64(in + 40),
    };
    unsigned kind = (unsigned)f.kind;
    if (kind < FRAME_ACTIVATIONS || kind >= N_KIND)
        return err_say(why, ERR_LINK_PROTOCOL, "frame: unknown kind %u", kind);
    if (kind != FRAME_PIECE && f.tag)
        return err_say(why, ERR_LINK_PROTOCOL, "frame: kind %u with tag %u", kind, f.tag);
    if (kinds[kind].dtype ? f.dtype != kinds[kind].dtype : f.dtype != DT_F32 && f.dtype != DT_I32)
        return err_say(why, ERR_LINK_PROTOCOL, "frame: kind %u of type %u", kind,
                       (unsigned)f.dtype);
    if (kinds[kind].n_col && f.n_col != kinds[kind].n_col)
        return err_say(why, ERR_LINK_PROTOCOL, "frame: kind %u with %u columns", kind, f.n_col);
    uint64_t bytes; // two 32-bit factors and 4 can exceed 64 bits
    if (kinds[kind].is_shaped &&
        (__builtin_mul_overflow((uint64_t)f.n_row * f.n_col, UINT64_C(4), &bytes) ||
         bytes != f.bytes))
        return err_say(why, ERR_LINK_PROTOCOL, "frame: %u x %u values in %llu bytes", f.n_row,
                       f.n_col, (unsigned long long)f.bytes);
    *out = f;
    return OK;
}

bool frame_check(const uint8_t header[FRAME_HEADER_BYTES], const void *payload, uint64_t bytes)
{
    return get64(header + 48) == (bytes ? frame_checksum(payload, bytes) : 0);
}
