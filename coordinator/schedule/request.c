#include "coordinator/schedule/request.h"

struct request *request_new(size_t max_bytes)
{
    struct arena a;
    arena_init(&a, max_bytes);
    struct request *r = arena_take(&a, sizeof *r);
    if (!r) {
        arena_fini(&a);
        return NULL;
    }
    r->arena = a;
    r->sampling =
        (struct sampling){.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1};
    list_init(&r->node);
    return r;
}

void request_free(struct request *r)
{
    if (!r) return;
    if (r->rules) r->rules->free(r);
    struct arena a = r->arena; // r lies in it
    arena_fini(&a);
}

err_t request_init_choices(struct request *r, uint32_t n_choice)
{
    if (!n_choice || !r->n_prompt || !r->max_tokens != !!r->pooling || r->n_prompt > INT32_MAX ||
        r->max_tokens > INT32_MAX)
        return ERR_INVALID;
    struct choice *cs = arena_take_n(&r->arena, n_choice, sizeof *cs);
    int32_t *ids = arena_take_n(&r->arena, (size_t)n_choice * r->max_tokens, sizeof *ids);
    if (!cs || !ids) return ERR_MEMORY;
    for (uint32_t i = 0; i < n_choice; i++) {
        cs[i] = (struct choice){
            .req = r, .index = i, .slot = -1, .generated = ids + (size_t)i * r->max_tokens};
        list_init(&cs[i].node);
    }
    r->choices = cs;
    r->n_choice = r->n_live = n_choice;
    return OK;
}
