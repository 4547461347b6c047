// What wire.c and wire_step.c share; nobody else includes it.
#pragma once
#include "proto/wire/control.pb-c.h"
#include "proto/wire/wire.h"

struct wire_in {
    struct arena *arena;
    struct err_text *why;
};

// Returns from a converter when the peer broke a rule.
#define WIRE_NEED(in, cond, ...)                                                                   \
    do {                                                                                           \
        if (!(cond)) return err_say((in)->why, ERR_LINK_PROTOCOL, __VA_ARGS__);                    \
    } while (0)

// Converters out of the unpacked message (whose memory lies in in->arena) and into one that borrows
// from the plain structs and takes the rest from `a`; those return false when memory is refused.
err_t wire_step_in(struct wire_in *in, const Trireme__Step *s, struct step *out);
err_t wire_step_result_in(struct wire_in *in, const Trireme__Result *r, struct step_result *out);
bool wire_step_out(struct arena *a, const struct step *s, Trireme__Step *out);
bool wire_step_result_out(struct arena *a, const struct step_result *r, Trireme__Result *out);
