// utf8: what a well-formed UTF-8 sequence is (Unicode 15, table 3-7): no overlong forms, no
// surrogates, nothing above U+10FFFF. Everything that reads text from outside asks here.
#pragma once
#include <stdbool.h>
#include <stddef.h>

// Length of the well-formed sequence at `at`, 1 to 4, or 0 if there is none within `left` bytes.
static inline size_t utf8_len(const void *at, size_t left)
{
    const unsigned char *s = at;
    if (left == 0) return 0;
    if (s[0] < 0x80) return 1;
    const size_t n = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

// True if the well-formed sequence at `at` is a character that terminals obey instead of showing
// it: C0, DEL, and C1 (U+0080 to U+009F).
static inline bool utf8_is_control(const void *at)
{
    const unsigned char *s = at;
    return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}
