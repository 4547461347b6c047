// GET /props, /slots, /lora-adapters as llama.cpp's clients ask for them, and clear refusals of
// what of its endpoints we do not have.
#pragma once

struct exchange;

void api_props_get(struct exchange *x);
void api_props_adapters(struct exchange *x);
// Places for requests: which are taken, and how far these are. Nothing of their text.
void api_props_slots(struct exchange *x);
void api_props_no_slot(struct exchange *x);
void api_props_no_rank(struct exchange *x);
