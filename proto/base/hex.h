// hex: bytes as hexadecimal digits.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Two small digits for each byte, and a NUL: 2 n + 1 of `out`.
void hex_write(const uint8_t *data, size_t n, char *out);
// n bytes of 2 n digits, small or capital. False: another character is among them; a text may end
// there.
bool hex_read(const char *s, size_t n, uint8_t *out);
