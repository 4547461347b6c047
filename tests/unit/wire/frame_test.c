// The frame header against the published vectors of its parts, and against everything that can be
// wrong with it.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/wire/frame.c" // the checksum's two versions are its own business, but not untested

#include <stdio.h>
#include <stdlib.h>

static const uint8_t key[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// SipHash for any length, written down separately from the paper.
static uint64_t sip_any(const uint8_t *in, size_t len)
{
    uint64_t k0, k1, m;
    memcpy(&k0, key, 8);
    memcpy(&k1, key + 8, 8);
    uint64_t a = 0x736f6d6570736575u ^ k0, b = 0x646f72616e646f6du ^ k1;
    uint64_t c = 0x6c7967656e657261u ^ k0, d = 0x7465646279746573u ^ k1;
    for (size_t at = 0; at <= len; at += 8) {
        size_t n = len - at < 8 ? len - at : 8;
        m = 0;
        memcpy(&m, in + at, n);
        if (n < 8) m |= (uint64_t)(len & 0xff) << 56;
        d ^= m;
        for (int i = 0; i < 2 + 4 * (n < 8); i++) {
            if (i == 2) {
                a ^= m;
                c ^= 0xff;
            }
            a += b, b = b << 13 | b >> 51, b ^= a, a = a << 32 | a >> 32;
            c += d, d = d << 16 | d >> 48, d ^= c;
            a += d, d = d << 21 | d >> 43, d ^= a;
            c += b, b = b << 17 | b >> 47, b ^= c, c = c << 32 | c >> 32;
        }
        if (n == 8) a ^= m;
    }
    return a ^ b ^ c ^ d;
}

static void test_siphash(void **state)
{
    (void)state;
    uint8_t in[64];
    for (int i = 0; i < 64; i++)
        in[i] = (uint8_t)i;
    assert_true(sip_any(in, 15) == 0xa129ca6149be45e5u); // the paper's appendix A
    assert_true(header_mac(in, key) == sip_any(in, 56));
    memset(in, 0xee, sizeof in);
    assert_true(header_mac(in, key) == sip_any(in, 56));
}

static void test_crc(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0}, ones[32], up[32];
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++)
        up[i] = (uint8_t)i;
    assert_int_equal(frame_checksum("123456789", 9), 0xe3069283);
    assert_int_equal(frame_checksum(zeros, 32), 0x8a9136aa); // RFC 3720 B.4
    assert_int_equal(frame_checksum(ones, 32), 0x62a8ab43);
    assert_int_equal(frame_checksum(up, 32), 0x46dd794e);
    assert_int_equal(crc_soft(~0u, up, 32), ~0x46dd794eu);
    if (!has_crc()) {
        print_message("no CRC instructions here: only the software version was tested\n");
        return;
    }
    uint8_t data[1000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * i + 3 * i);
    for (size_t from = 0; from < 9; from++)
        for (size_t len = 0; from + len <= sizeof data; len += 1 + len / 7)
            assert_int_equal(crc_hard(7, data + from, len), crc_soft(7, data + from, len));
}

static struct frame good(void *payload)
{
    return (struct frame){.kind = FRAME_ACTIVATIONS,
                          .dtype = DT_F32,
                          .epoch = UINT64_MAX - 1,
                          .step = 0x0102030405060708,
                          .stage = 63,
                          .n_row = 3,
                          .n_col = 5,
                          .bytes = 60,
                          .payload = payload};
}

static void test_round_trip(void **state)
{
    (void)state;
    float payload[15] = {1, 2, 3};
    uint8_t h[FRAME_HEADER_BYTES];
    struct frame a = good(payload), b;
    struct err_text why;
    frame_pack(&a, key, h);
    assert_memory_equal(h, "TRF1\x01\0\x01\0", 8);
    assert_int_equal(h[16], 8); // little endian
    assert_int_equal(frame_unpack(h, key, &b, &why), OK);
    assert_true(b.kind == a.kind && b.dtype == a.dtype && b.epoch == a.epoch && b.step == a.step);
    assert_true(b.stage == 63 && b.n_row == 3 && b.n_col == 5 && b.bytes == 60 && !b.payload);
    assert_true(frame_check(h, payload, 60));
    payload[14] = 1e-45f;
    assert_false(frame_check(h, payload, 60));
    a = (struct frame){.kind = FRAME_PONG, .dtype = DT_I32, .epoch = 1};
    frame_pack(&a, key, h);
    assert_int_equal(frame_unpack(h, key, &b, &why), OK);
    assert_true(frame_check(h, NULL, 0));
    for (enum dtype dtype = DT_F32; dtype <= DT_COUNT; dtype++) {
        a = (struct frame){.kind = FRAME_PIECE,
                           .dtype = dtype,
                           .tag = 0xfffe0001,
                           .n_row = 1,
                           .n_col = 15,
                           .bytes = 60,
                           .payload = payload};
        frame_pack(&a, key, h);
        const err_t e = frame_unpack(h, key, &b, &why);
        assert_int_equal(e, dtype == DT_F32 || dtype == DT_I32 ? OK : ERR_LINK_PROTOCOL);
        if (!e) assert_true(b.tag == 0xfffe0001 && b.dtype == dtype && b.n_col == 15);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    float payload[15] = {0};
    uint8_t h[FRAME_HEADER_BYTES], other[16] = {1};
    struct frame f = good(payload), out = {.stage = 12345};
    struct err_text why;
    frame_pack(&f, key, h);
    assert_int_equal(frame_unpack(h, other, &out, &why), ERR_LINK_AUTH);
    for (int bit = 0; bit < FRAME_HEADER_BYTES * 8; bit++) {
        h[bit / 8] ^= (uint8_t)(1 << bit % 8);
        err_t e = frame_unpack(h, key, &out, &why);
        assert_int_equal(e, bit < 32 ? ERR_LINK_PROTOCOL : ERR_LINK_AUTH);
        h[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    // Made by a member of the cluster, and wrong all the same.
    static const struct frame bad[] = {
        {.kind = 0, .dtype = DT_F32},
        {.kind = 6, .dtype = DT_F32},
        {.kind = 65535, .dtype = DT_F32},
        {.kind = FRAME_ACTIVATIONS, .dtype = DT_I32, .n_row = 1, .n_col = 1, .bytes = 4},
        {.kind = FRAME_ACTIVATIONS, .dtype = DT_NONE, .n_row = 1, .n_col = 1, .bytes = 4},
        {.kind = FRAME_ACTIVATIONS, .dtype = DT_F32, .n_row = 1, .n_col = 1, .bytes = 8},
        {.kind = FRAME_ACTIVATIONS, .dtype = DT_F32, .n_row = 1u << 31, .n_col = 1u << 31},
        {.kind = FRAME_ACTIVATIONS,
         .dtype = DT_F32,
         .n_row = UINT32_MAX,
         .n_col = UINT32_MAX,
         .bytes = 4},
        {.kind = FRAME_IDS, .dtype = DT_F32, .n_row = 1, .n_col = 2, .bytes = 8},
        {.kind = FRAME_IDS, .dtype = DT_I32, .n_row = 1, .n_col = 3, .bytes = 12},
        {.kind = FRAME_IDS, .dtype = DT_I32, .n_row = 1, .n_col = 2, .tag = 1, .bytes = 8},
        {.kind = FRAME_PIECE, .dtype = DT_NONE, .n_row = 1, .n_col = 2, .bytes = 8},
        {.kind = FRAME_PIECE, .dtype = DT_I32, .n_row = 1, .n_col = 2, .bytes = 4},
        {.kind = FRAME_PING, .dtype = DT_NONE},
        {.kind = FRAME_PING, .dtype = DT_COUNT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct frame b = bad[i];
        uint64_t bytes = b.bytes;
        b.bytes = 0; // frame_pack would read the payload
        frame_pack(&b, key, h);
        put64(h + 40, bytes);
        put64(h + 56, header_mac(h, key));
        if (frame_unpack(h, key, &out, &why) != ERR_LINK_PROTOCOL) fail_msg("accepted %zu", i);
    }
    assert_int_equal(out.stage, 12345); // nothing written
}

static void test_speed(void **state)
{
    (void)state;
    enum { BYTES = 1 << 22 };
    void *p = calloc(1, BYTES);
    uint8_t h[FRAME_HEADER_BYTES];
    struct frame f = {.kind = FRAME_PING, .dtype = DT_F32, .payload = p};
    int64_t from = clock_now_us();
    for (int i = 0; i < 20000; i++)
        frame_pack(&f, key, h);
    print_message("header: %.3f us to pack\n", (double)(clock_now_us() - from) / 20000);
    from = clock_now_us();
    uint32_t hard = has_crc() ? crc_hard(0, p, BYTES) : 0;
    int64_t mid = clock_now_us();
    uint32_t soft = crc_soft(0, p, BYTES);
    int64_t to = clock_now_us();
    print_message("checksum: %.1f GB/s by instruction, %.1f by table\n",
                  BYTES / 1e3 / (double)(mid - from + 1), BYTES / 1e3 / (double)(to - mid + 1));
    if (has_crc()) assert_int_equal(hard, soft);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_siphash),    cmocka_unit_test(test_crc),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
