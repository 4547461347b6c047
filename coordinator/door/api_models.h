// GET /v1/models and /v1/models/{id}: one body that OpenAI's and Anthropic's clients both read.
// Neither waits for a model nor wakes one.
#pragma once

struct exchange;

void api_models_list(struct exchange *x);
void api_models_one(struct exchange *x); // an id may contain '/'
