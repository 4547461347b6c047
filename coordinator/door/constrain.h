// constrain: what the caller wants the answer to look like -> a grammar that the choices of its
// requests follow: response_format, structured_outputs, the guided_* spellings, and calls that must
// be made or are strict. Bad schemas are 400s that name the place.
#pragma once
#include "coordinator/door/prepare.h"

// Finds what the body asks for and checks the shape of it; p->answer. On a thread of the pool.
err_t constrain_read(struct prepare *p, struct refusal *no);
// Once the prompt is known (its end may have opened the thoughts): compiles everything into
// p->grammar, or leaves NULL where any text will do. The caller of prepare_close gives it back.
err_t constrain_open(struct prepare *p, const struct prepared *out, struct refusal *no);
