// What the files of wire share; nobody else includes it. wire.c has the envelope, the tables of
// kinds and what a worker says of itself; wire_rates.c its measured speed; wire_plan.c what a plan
// is made of; wire_survey.c the measuring of links; wire_file.c the copying of files; wire_step.c
// the work.
#pragma once
#include "proto/wire/control.pb-c.h"
#include "proto/wire/wire.h"

#include <math.h>

enum { WIRE_NAME_BYTES_MAX = 255 };

struct wire_in {
    struct arena *arena;
    struct err_text *why;
};

// Returns from a converter when the peer broke a rule.
#define WIRE_NEED(in, cond, ...)                                                                   \
    do {                                                                                           \
        if (!(cond)) return err_say((in)->why, ERR_LINK_PROTOCOL, __VA_ARGS__);                    \
    } while (0)

// -- rules --
enum wire_text { WIRE_ONE_LINE, WIRE_LINES };
// UTF-8 of at most `max` bytes without control bytes (WIRE_LINES: but newlines).
bool wire_text_ok(const char *s, size_t max, enum wire_text rule);
// Measured rates of a device; NULL, or no types: not measured.
err_t wire_rates_in(struct wire_in *in, const Trireme__Rates *r, struct rates *out);
bool wire_rates_out(struct arena *a, const struct rates *r,
                    Trireme__Rates **out); // false: no memory
err_t wire_hash_in(struct wire_in *in, const char *what, ProtobufCBinaryData b, uint8_t out[32]);

static inline bool wire_speed_ok(double v)
{
    return isfinite(v) && v >= 0;
}

// -- the way out --
static inline char *wire_text_out(const char *s)
{
    return (char *)(s ? s : "");
}

static inline ProtobufCBinaryData wire_bytes_out(const uint8_t *p, size_t len)
{
    return (ProtobufCBinaryData){len, (uint8_t *)p};
}

// -- converters --
// Out of the unpacked message (whose memory lies in in->arena) and into one that borrows from the
// plain structs and takes the rest from `a`; those return false when memory is refused.
typedef err_t wire_in_fn(struct wire_in *in, const Trireme__Envelope *env, struct msg *out);
typedef bool wire_out_fn(struct arena *a, const struct msg *m, Trireme__Envelope *env);

wire_in_fn wire_plan_in, wire_prepared_in, wire_connect_in, wire_linked_in, wire_usage_in;
wire_out_fn wire_plan_out, wire_prepared_out, wire_connect_out, wire_linked_out, wire_usage_out;
wire_in_fn wire_survey_in, wire_surveyed_in;
wire_out_fn wire_survey_out, wire_surveyed_out;
wire_in_fn wire_file_fetch_in, wire_file_chunk_in;
wire_out_fn wire_file_fetch_out, wire_file_chunk_out;
err_t wire_file_list_in(struct wire_in *in, const Trireme__Welcome *w, struct msg_welcome *out);
bool wire_file_list_out(struct arena *a, const struct msg_welcome *w, Trireme__Welcome *out);

err_t wire_step_in(struct wire_in *in, const Trireme__Step *s, struct step *out);
err_t wire_step_result_in(struct wire_in *in, const Trireme__Result *r, struct step_result *out);
bool wire_step_out(struct arena *a, const struct step *s, Trireme__Step *out);
bool wire_step_result_out(struct arena *a, const struct step_result *r, Trireme__Result *out);
