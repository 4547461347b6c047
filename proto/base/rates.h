// rates: measured speed of a device's own operations, for predictions that are closer to the truth
// than the roofline of its peaks. Optional: a device without a table is planned by its peaks.
// Made by worker/rate on the machine itself, told in HELLO, kept in cluster files (`kernels`).
#pragma once
#include "proto/base/dtype.h"

enum { RATES_POINTS = 5, RATES_TYPES_MAX = 16 };

// Rows of one product at which it was measured.
extern const int32_t rates_rows[RATES_POINTS]; // 1, 4, 16, 64, 512

struct rates_type {
    enum dtype dtype;
    // Multiply-adds per second (a row times an element of the matrix is one) at each of rates_rows,
    // of matrices far larger than the caches.
    double mul_per_s[RATES_POINTS];
};

struct rates {
    int32_t n_type; // 0: nothing was measured, the rest means nothing
    struct rates_type types[RATES_TYPES_MAX];
    double attn_one_flops_per_s;  // attention of one row with what it sees, long sequences
    double attn_many_flops_per_s; // of a prompt's rows
    double product_us;            // what a product costs besides, however small
    double layer_us;              // everything else in a layer (norms, rotations, activations) at
                                  // one row
    double float_ns;              // and for each row more, of one float of cost_model.row_floats
    double seq_us;                // and for each sequence more
    double logit_ns;              // choosing a token, of one logit
};

// The measured type itself, or, of those that are quantised (or not) as it is, the one with the
// nearest size. NULL: no such one.
const struct rates_type *rates_find(const struct rates *r, enum dtype t);
// Seconds of `rows` (>= 1, may be fractional: a mean) rows times n elements: the time per element
// is linear in the rows between two measured points, and beyond the last one.
double rates_seconds(const struct rates_type *t, double rows, double n);
// As fast as the part (0 to 1) of a device's time that one has.
void rates_scale(struct rates *r, double part);
// What its products were seen to read in a second, at least.
double rates_read_bytes(const struct rates *r);
// What is read at most: of a matrix of each type no more elements than this bandwidth brings.
void rates_bound(struct rates *r, double read_bytes_per_s);
// One number for comparing devices: the mean (geometric) of the rates of all types up to 16 rows.
double rates_speed(const struct rates *r);
// The ranges that figures from outside must keep. ERR_CONFIG naming the one that does not.
err_t rates_check(const struct rates *r, struct err_text *why);
