// pace: how long steps really take on a device, all their operations one after another as a stage
// runs them, beside what the same operations take one by one (rates.h). In a step the caches hold
// what the operation before left there, every matrix is read from its beginning, and threads wait
// for each other some hundred times; where layers are small that is a third of the time. So a step
// is measured (worker/step_times), and what it takes beyond its operations is put on its layers.
// Of one model on one device; pure.
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct cost_model;
struct cluster_device;

enum { PACE_POINTS = 4 };
// Rows of the steps that are measured: each of a sequence of its own, and all of one.
extern const int32_t pace_decode_rows[PACE_POINTS]; // 1, 4, 8, 16
extern const int32_t pace_chunk_rows[PACE_POINTS];  // 32, 128, 256, 512

// Seconds of steps of the layers [layer_from, layer_to), the model's last ones, with the embedding
// if they are all.
struct pace_times {
    int32_t layer_from, layer_to;
    int32_t kv_elem_bits;
    double depth[PACE_POINTS];    // tokens that the rows of decode_s have before them, mean
    double decode_s[PACE_POINTS]; // no row asks for a token
    double choose_s[PACE_POINTS]; // every row does
    double chunk_s[PACE_POINTS];  // without a token before, and none asked for
};

// Seconds beyond the operations: of a layer, and of the head. Below zero where operations are
// faster in a step than alone.
struct pace {
    bool is_known;
    double decode_s[PACE_POINTS], chunk_s[PACE_POINTS], head_s[PACE_POINTS];
};

// Of a step of `rows` rows of n_seq sequences: linear between points, and beyond the last one.
double pace_layer_s(const struct pace *p, int32_t rows, int32_t n_seq);
double pace_head_s(const struct pace *p, int32_t logit_rows);
// As slow as the part (0 to 1) of a device's time that one has.
void pace_scale(struct pace *p, double part);
// What the measured steps take beyond what the cost model says of them without a pace.
struct pace pace_fit(const struct cost_model *m, const struct cluster_device *d,
                     const struct pace_times *t);
