// source, shared by its files: one job is some rows of one matrix of a source.
#pragma once
#include "worker/source.h"

// A matrix of the source is (out, in). Of it the rows [lo, lo + n_src) are read; wanted are the n
// rows lo + at[0], lo + at[1] ...
struct source_job {
    struct source_reader *reader;
    const struct model_weight *w;
    const struct model_source *src;
    int64_t matrix, n_matrix; // the tensors hold n_matrix matrices one after another
    int64_t in, out;
    int64_t lo, n_src;
    int64_t n;
    const int32_t *at; // (n)
    bool is_run;       // at is 0, 1, 2, ...
    int32_t *order;    // as in struct source_piece
    bool is_ordered;
};

// Each writes n rows of w->dtype and `in` elements at dst.
err_t source_float_rows(struct source_job *j, uint8_t *dst, struct err_text *why);
err_t source_int_rows(struct source_job *j, uint8_t *dst, struct err_text *why);
err_t source_byte_rows(struct source_job *j, uint8_t *dst, struct err_text *why);
err_t source_fp4_rows(struct source_job *j, uint8_t *dst, struct err_text *why);
// The rows of a piece, and the factor, of SOURCE_MADE.
void source_made_rows(const struct source_piece *p, uint8_t *dst);
float source_made_factor(const struct model_weight *w);

// A buffer of at least so many bytes; what it held is lost.
err_t source_buffer(struct source_reader *r, enum source_buffer b, uint64_t bytes, void *out,
                    struct err_text *why);
// Bytes [from, from + bytes) of a tensor.
err_t source_read(struct source_reader *r, const struct model_tensor *t, uint64_t from,
                  uint64_t bytes, void *dst, struct err_text *why);
// n_line lines of n bytes each, `stride` bytes apart from byte `from` on, close together at dst.
struct source_lines {
    int64_t from, n, stride, n_line;
};
err_t source_read_lines(struct source_reader *r, const struct model_tensor *t,
                        const struct source_lines *l, void *dst, struct err_text *why);
// The same of elements, as floats. Uses SOURCE_BUFFER_RAW on the way.
err_t source_floats(struct source_reader *r, const struct model_tensor *t,
                    const struct source_lines *l, float *dst, struct err_text *why);
// n elements of a plain type as F32.
void source_to_f32(enum dtype t, const void *src, int64_t n, float *dst);
// "tensor X: SENTENCE (file)"
err_t source_say(const struct source_reader *r, const struct model_tensor *t, struct err_text *why,
                 const char *sentence);

// The 8 nibbles of a word as 8 bytes, lowest first.
static inline uint64_t source_spread(uint32_t w)
{
    uint64_t x = w;
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
}
