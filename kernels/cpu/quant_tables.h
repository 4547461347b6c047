// quant_tables: the grids of GGML's IQ types (https://github.com/ggml-org/ggml, ggml-common.h). An
// entry is a point of 8 columns (IQ3: of 4); the level of column i is in bits 2i, 2i + 1 (IQ3: in
// 3i to 3i + 2). quant_grid.c has what the levels mean.
#pragma once
#include <stdint.h>

extern const uint16_t quant_iq2_xxs[256];
extern const uint16_t quant_iq2_xs[512];
extern const uint16_t quant_iq2_s[1024];
extern const uint16_t quant_iq3_xxs[256];
extern const uint16_t quant_iq3_s[512];
extern const uint16_t quant_iq1[2048];
