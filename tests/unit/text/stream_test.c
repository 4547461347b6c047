#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "coordinator/text/stream.h"
#include "tests/unit/text/vocab_file.h"

static struct tokenizer *bpe, *spm;

static int open_both(void **state)
{
    (void)state;
    struct vocab_file v;
    struct err_text why;
    vocab_file_bpe(&v);
    if (vocab_file_open(&v, &bpe, &why) != OK) return -1;
    vocab_file_spm(&v);
    return vocab_file_open(&v, &spm, &why) == OK ? 0 : -1;
}

static int close_both(void **state)
{
    (void)state;
    tokenizer_close(bpe);
    tokenizer_close(spm);
    return 0;
}

struct run {
    struct stream s;
    struct buf out;
    struct stream_stop stops[STREAM_STOPS_MAX];
    int n_stop, stopped;
};

static void begin(struct run *r, const char *const *stops, bool include)
{
    *r = (struct run){.stopped = -1};
    for (; stops && stops[r->n_stop]; r->n_stop++)
        r->stops[r->n_stop] = (struct stream_stop){stops[r->n_stop], strlen(stops[r->n_stop])};
    stream_init(&r->s, bpe, r->stops, r->n_stop, true);
    r->s.include_stop = include;
}

// Pushes the bytes of text one by one, as byte tokens; checks what came out after each.
static void push_bytes(struct run *r, const char *text, size_t len)
{
    for (size_t i = 0; i < len && r->stopped < 0; i++)
        r->stopped = stream_push(&r->s, (unsigned char)text[i], &r->out);
}

static void check_out(struct run *r, const char *want)
{
    const char *got = r->out.data ? r->out.data : "";
    if (strcmp(got, want) != 0) fail_msg("want \"%s\", got \"%s\"", want, got);
}

static void end(struct run *r)
{
    stream_fini(&r->s);
    buf_fini(&r->out);
}

static void test_holds_back_utf8(void **state)
{
    (void)state;
    struct run r;
    begin(&r, NULL, false);
    push_bytes(&r, "a\xe6\x97", 3);
    check_out(&r, "a");
    push_bytes(&r, "\xa5\xf0\x9f\x98", 4);
    check_out(&r, "a\xe6\x97\xa5");
    push_bytes(&r, "\x80", 1);
    check_out(&r, "a\xe6\x97\xa5\xf0\x9f\x98\x80");
    end(&r);
}

static void test_broken_utf8(void **state)
{
    (void)state;
    struct run r;
    begin(&r, NULL, false);
    push_bytes(&r, "\xff\xe6\x97x\xc3", 5);
    check_out(&r, "\xef\xbf\xbd\xef\xbf\xbdx");
    stream_flush(&r.s, &r.out);
    check_out(&r, "\xef\xbf\xbd\xef\xbf\xbdx\xef\xbf\xbd");
    stream_flush(&r.s, &r.out); // nothing is left
    assert_int_equal(r.out.len, 10);
    end(&r);
}

static void test_stop_over_tokens(void **state)
{
    (void)state;
    struct run r;
    static const char *const stops[] = {"\n\nUser:", "END", NULL};
    begin(&r, stops, false);
    push_bytes(&r, "hi\n\nUse", 7);
    check_out(&r, "hi");
    push_bytes(&r, "d EN", 4);
    check_out(&r, "hi\n\nUsed ");
    push_bytes(&r, "Dxyz", 4);
    assert_int_equal(r.stopped, 1);
    check_out(&r, "hi\n\nUsed ");
    end(&r);
    begin(&r, stops, true);
    push_bytes(&r, "aENEND", 6);
    assert_int_equal(r.stopped, 1);
    check_out(&r, "aENEND");
    end(&r);
}

static void test_earliest_stop_wins(void **state)
{
    (void)state;
    struct run r;
    static const char *const stops[] = {"e", "the", NULL};
    begin(&r, stops, false);
    r.stopped = stream_push(&r.s, 257, &r.out); // one token, "the": both match, "the" begins first
    assert_int_equal(r.stopped, 1);
    check_out(&r, "");
    end(&r);
}

static void test_overlapping_partial(void **state)
{
    (void)state;
    struct run r;
    static const char *const stops[] = {"aab", NULL};
    begin(&r, stops, false);
    push_bytes(&r, "aaa", 3);
    check_out(&r, "a");
    push_bytes(&r, "b", 1);
    assert_int_equal(r.stopped, 0);
    check_out(&r, "a");
    end(&r);
    begin(&r, stops, false);
    push_bytes(&r, "aa", 2);
    stream_flush(&r.s, &r.out);
    check_out(&r, "aa");
    end(&r);
}

static void test_control_tokens_are_silent(void **state)
{
    (void)state;
    struct run r;
    begin(&r, NULL, false);
    assert_int_equal(stream_push(&r.s, tokenizer_eos(bpe), &r.out), -1);
    assert_int_equal(stream_push(&r.s, -5, &r.out), -1);
    check_out(&r, "");
    end(&r);
}

static void test_spm_first_space(void **state)
{
    (void)state;
    struct buf out = {0};
    struct stream s;
    for (int at_start = 0; at_start < 2; at_start++) {
        stream_init(&s, spm, NULL, 0, at_start);
        stream_push(&s, 263, &out); // " a"
        stream_push(&s, 263, &out);
        assert_string_equal(out.data, at_start ? "a a" : " a a");
        buf_clear(&out);
        stream_fini(&s);
    }
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_back_utf8),
        cmocka_unit_test(test_broken_utf8),
        cmocka_unit_test(test_stop_over_tokens),
        cmocka_unit_test(test_earliest_stop_wins),
        cmocka_unit_test(test_overlapping_partial),
        cmocka_unit_test(test_control_tokens_are_silent),
        cmocka_unit_test(test_spm_first_space),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
