#include "coordinator/door/route.h"
#include "coordinator/door/api.h"
#include "coordinator/door/api_admin.h"
#include "coordinator/door/api_models.h"
#include "coordinator/door/api_openapi.h"
#include "coordinator/door/api_page.h"
#include "coordinator/door/api_props.h"
#include "coordinator/door/call.h"

#include <string.h>

static const struct route routes[] = {
    // Before the paths with /v1, which are found without it too.
    {"/completions", true, ROUTE_KEY, call_api, &api_llama_or_completions},
    {"/embeddings", true, ROUTE_KEY, call_api, &api_llama_or_embeddings},
    {"/v1/chat/completions", true, ROUTE_KEY, call_api, &api_chat},
    {"/v1/chat/completions/input_tokens", true, ROUTE_KEY, call_api, &api_chat_count_only},
    {"/v1/completions", true, ROUTE_KEY, call_api, &api_completions},
    {"/v1/responses", true, ROUTE_KEY, call_api, &api_responses},
    {"/v1/responses/input_tokens", true, ROUTE_KEY, call_api, &api_responses_count},
    {"/v1/messages", true, ROUTE_KEY, call_api, &api_messages},
    {"/v1/messages/count_tokens", true, ROUTE_KEY, call_api, &api_messages_count},
    {"/v1/embeddings", true, ROUTE_KEY, call_api, &api_embeddings},
    {"/completion", true, ROUTE_KEY, call_api, &api_llama},
    {"/infill", true, ROUTE_KEY, call_api, &api_llama_infill},
    {"/embedding", true, ROUTE_KEY, call_api, &api_llama_embedding},
    {"/apply-template", true, ROUTE_KEY, call_api, &api_chat_apply},
    {"/props", false, ROUTE_KEY, api_props_get, NULL},
    {"/lora-adapters", false, ROUTE_KEY, api_props_adapters, NULL},
    {"/slots", false, ROUTE_ADMIN, api_props_slots, NULL},
    {"/slots/", true, ROUTE_ADMIN, api_props_no_slot, NULL},
    {"/v1/rerank", true, ROUTE_KEY, api_props_no_rank, NULL},
    {"/v1/reranking", true, ROUTE_KEY, api_props_no_rank, NULL},
    {"/tokenize", true, ROUTE_KEY, call_api, &api_tokenize},
    {"/detokenize", true, ROUTE_KEY, call_api, &api_detokenize},
    {"/v1/models", false, ROUTE_KEY, api_models_list, NULL},
    {"/v1/models/", false, ROUTE_KEY, api_models_one, NULL},
    {"/v1/cluster", false, ROUTE_ADMIN, api_admin_cluster, NULL},
    {"/v1/cluster/experts", false, ROUTE_ADMIN, api_admin_experts, NULL},
    {"/v1/cluster/drain", true, ROUTE_ADMIN, api_admin_drain, NULL},
    {"/metrics", false, ROUTE_ADMIN, api_admin_metrics, NULL},
    {"/livez", false, ROUTE_OPEN, api_admin_livez, NULL},
    {"/readyz", false, ROUTE_HEALTH, api_admin_readyz, NULL},
    {"/health", false, ROUTE_HEALTH, api_admin_readyz, NULL},
    {"/v1/health", false, ROUTE_HEALTH, api_admin_readyz, NULL},
    {"/ping", false, ROUTE_HEALTH, api_admin_ping, NULL},
    {"/version", false, ROUTE_HEALTH, api_admin_version, NULL},
    {"/openapi.json", false, ROUTE_KEY, api_openapi_get, NULL},
    {"/", false, ROUTE_OPEN, api_page_root, NULL},
};

const struct route *route_table(size_t *n)
{
    *n = sizeof routes / sizeof *routes;
    return routes;
}

// Whether a route answers a path. Callers that were given the address without /v1 leave it out
// everywhere: what needs a key is found without it too.
static bool answers(const struct route *r, const char *path, const char **rest)
{
    static const char version[] = "/v1";
    const size_t skip =
        r->access == ROUTE_KEY && strncmp(r->path, "/v1/", 4) == 0 && strncmp(path, "/v1/", 4) != 0
            ? sizeof version - 1
            : 0;
    const char *want = r->path + skip;
    const size_t len = strlen(want);
    const bool below =
        len > 1 && want[len - 1] == '/' && strncmp(path, want, len) == 0 && path[len];
    if (!below && strcmp(path, want) != 0) return false;
    *rest = path + len;
    return true;
}

const struct route *route_find(const char *path, bool is_post, const struct route **any,
                               const char **rest)
{
    *any = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *r = &routes[i];
        if (!answers(r, path, rest)) continue;
        *any = r;
        if (r->is_post == is_post) return r;
    }
    return NULL;
}
