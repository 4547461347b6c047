#include "coordinator/door/api_openapi.h"
#include "coordinator/door/api.h"
#include "coordinator/door/exchange.h"
#include "coordinator/door/fields.h"

#include <string.h>

// Texts of this file are JSON with ' in place of ", <#Name> for a schema of that name, and short
// words for the schemas that are met everywhere.
static const struct {
    const char *word, *json;
} shorts[] = {
    {"int", "{\"type\":\"integer\"}"},
    {"str", "{\"type\":\"string\"}"},
    {"str?", "{\"type\":[\"string\",\"null\"]}"},
    {"obj", "{\"type\":\"object\"}"},
    {"obj?", "{\"type\":[\"object\",\"null\"]}"},
    {"strs", "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}"},
    {"objs", "{\"type\":\"array\",\"items\":{\"type\":\"object\"}}"},
    {"objs?", "{\"type\":[\"array\",\"null\"],\"items\":{\"type\":\"object\"}}"},
};

static void put_short(struct buf *out, const char *word, size_t len)
{
    if (word[0] == '#') {
        buf_printf(out, "{\"$ref\":\"#/components/schemas/%.*s\"}", (int)len - 1, word + 1);
        return;
    }
    for (size_t i = 0; i < sizeof shorts / sizeof *shorts; i++)
        if (strlen(shorts[i].word) == len && memcmp(shorts[i].word, word, len) == 0)
            buf_str(out, shorts[i].json);
}

static void put(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<') {
            const size_t len = strcspn(text + 1, ">");
            put_short(out, text + 1, len);
            text += len + 1;
        } else {
            buf_char(out, *text == '\'' ? '"' : *text);
        }
    }
}

// ---- bodies, from the table of fields

// What a kind does not tell: more of a field's schema.
static const struct {
    const char *name;
    unsigned apis;
    const char *more;
} refinements[] = {
    {"messages", FIELD_CHAT | FIELD_TOKENS, "'minItems':1,'items':<#ChatMessage>"},
    {"prompt", FIELD_COMPLETIONS,
     "'description':'A text, several texts, token ids, or several lists of token ids.'"},
    {"stop", FIELD_BOTH, "'items':<str>"},
    {"tools", FIELD_CHAT | FIELD_TOKENS, "'items':<#ChatTool>"},
    {"tool_choice", FIELD_CHAT,
     "'description':'none, auto, required, or {type: function, function: {name}}'"},
    {"logit_bias", FIELD_BOTH,
     "'additionalProperties':{'type':'number','minimum':-100,'maximum':100}"},
    {"guided_choice", FIELD_BOTH, "'items':<str>"},
    {"tokens", FIELD_TOKENS, "'items':{'type':'integer','minimum':0}"},
    {"input", FIELD_EMBED,
     "'minItems':1,'maxItems':2048,"
     "'description':'A text, several texts, token ids, or several lists of token ids.'"},
    {"encoding_format", FIELD_EMBED, "'enum':['float','base64',null]"},
    {"pooling", FIELD_EMBED, "'enum':['last','mean','cls',null]"},
    {"response_format", FIELD_BOTH,
     "'properties':{'type':{'enum':['text','json_object','json_schema']},"
     "'json_schema':{'type':'object'}}"},
};

static void put_kinds(const struct field *f, struct buf *out)
{
    static const char *const words[] = {NULL,     "boolean", "integer", "number",
                                        "string", "array",   "object"};
    put(out, "'type':[");
    for (unsigned k = 1; k < sizeof words / sizeof *words; k++)
        if (f->kinds & 1u << k && !(k == J_INT && f->kinds & 1u << J_REAL))
            buf_printf(out, "\"%s\",", words[k]);
    put(out, "'null']"); // of every field: not given
}

static void put_fields(const struct field *fields, size_t n, unsigned api, struct buf *out);

static void put_field(const struct field *f, unsigned api, struct buf *out)
{
    buf_printf(out, "\"%s\":{", f->name);
    put_kinds(f, out);
    if ((f->store == STORE_INT || f->store == STORE_NUM) && f->min < f->max)
        buf_printf(out, ",\"%s\":%.15g,\"maximum\":%.15g",
                   f->above_min ? "exclusiveMinimum" : "minimum", f->min, f->max);
    for (size_t i = 0; i < sizeof refinements / sizeof *refinements; i++) {
        if (!(refinements[i].apis & f->apis & api) || strcmp(refinements[i].name, f->name) != 0)
            continue;
        buf_char(out, ',');
        put(out, refinements[i].more);
    }
    if (f->store == STORE_OBJECT) {
        put(out, ",'properties':{");
        put_fields(f->sub, f->n_sub, api, out);
        buf_char(out, '}');
    }
    buf_char(out, '}');
}

static void put_fields(const struct field *fields, size_t n, unsigned api, struct buf *out)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (!(fields[i].apis & api)) continue;
        if (any) buf_char(out, ',');
        put_field(&fields[i], api, out);
        any = true;
    }
}

// Those of chat completions that another dialect takes under the same name.
static void put_named(const char *const *names, struct buf *out)
{
    size_t n;
    const struct field *table = fields_table(&n);
    for (; *names; names++) {
        for (size_t i = 0; i < n; i++) {
            if (!(table[i].apis & FIELD_CHAT) || strcmp(table[i].name, *names) != 0) continue;
            put_field(&table[i], FIELD_CHAT, out);
            buf_char(out, ',');
        }
    }
}

static const char *const messages_same[] = {"model", "max_tokens", "temperature", "top_p",
                                            "top_k", "stream",     "seed",        NULL};
static const char *const responses_same[] = {"model",  "temperature",         "top_p", "user",
                                             "stream", "parallel_tool_calls", "seed",  NULL};

static const struct {
    const char *name;
    unsigned api;            // the fields of one api, or
    const char *const *same; // some fields of chat completions, and then `more`
    const char *more;
    const char *required; // one; NULL: none
} bodies[] = {
    {"ChatRequest", FIELD_CHAT, NULL, NULL, "messages"},
    {"CompletionRequest", FIELD_COMPLETIONS, NULL, NULL, "prompt"},
    {"TokensRequest", FIELD_TOKENS, NULL, NULL, NULL},
    {"EmbeddingsRequest", FIELD_EMBED, NULL, NULL, "input"},
    {"LlamaRequest", FIELD_LLAMA, NULL, NULL, "prompt"},
    {"InfillRequest", FIELD_LLAMA | FIELD_INFILL, NULL, NULL, "input_prefix"},
    {"LlamaEmbedRequest", FIELD_LLAMA_EMBED, NULL, NULL, NULL},
    {"MessagesRequest", 0, messages_same,
     "'messages':<objs>,'system':{'type':['string','array','null']},'stop_sequences':<strs>,"
     "'tools':<objs>,'tool_choice':<obj>,'thinking':<obj>,'output_config':<obj>,'metadata':<obj>",
     "messages"},
    {"ResponsesRequest", 0, responses_same,
     "'input':{'type':['string','array'],'items':<obj>},'instructions':<str?>,"
     "'max_output_tokens':{'type':['integer','null'],'minimum':1},'tools':<objs?>,"
     "'tool_choice':{'type':['string','object','null']},'reasoning':<obj?>,'text':<obj?>,"
     "'store':{'type':['boolean','null']},'metadata':<obj?>",
     "input"},
};

static void put_bodies(struct buf *out)
{
    size_t n;
    const struct field *table = fields_table(&n);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        buf_printf(out, "\"%s\":{", bodies[i].name);
        put(out, "'type':'object','additionalProperties':true,");
        if (bodies[i].required) {
            put(out, "'required':[");
            buf_printf(out, "\"%s\"],", bodies[i].required);
        }
        put(out, "'properties':{");
        if (bodies[i].same)
            put_named(bodies[i].same, out);
        else
            put_fields(table, n, bodies[i].api, out);
        if (bodies[i].more) put(out, bodies[i].more);
        put(out, "}},");
    }
}

// ---- shapes of answers, and of what bodies hold

static const struct {
    const char *name, *required, *properties;
} shapes[] = {
    {"ChatMessage", "'role'",
     "'role':{'enum':['system','developer','user','assistant','tool','function']},"
     "'content':{'type':['string','array','null'],'items':<obj>},'tool_calls':<objs?>,"
     "'tool_call_id':<str?>,'reasoning_content':<str?>,'reasoning':<str?>"},
    {"ChatTool", "'type','function'", "'type':{'const':'function'},'function':<#Function>"},
    {"Function", "'name'",
     "'name':<str>,'description':<str>,'parameters':<obj>,"
     "'strict':{'type':['boolean','null']}"},
    {"Usage", "'prompt_tokens','completion_tokens','total_tokens'",
     "'prompt_tokens':<int>,'completion_tokens':<int>,'total_tokens':<int>,"
     "'prompt_tokens_details':<obj>,'completion_tokens_details':<obj>"},
    {"ChatCompletion", "'id','object','created','model','choices','usage'",
     "'id':<str>,'object':{'const':'chat.completion'},'created':<int>,'model':<str>,"
     "'system_fingerprint':<str>,'choices':<objs>,'usage':<#Usage>"},
    {"Completion", "'id','object','created','model','choices','usage'",
     "'id':<str>,'object':{'const':'text_completion'},'created':<int>,'model':<str>,"
     "'choices':<objs>,'usage':<#Usage>"},
    {"Message", "'id','type','role','content','model','stop_reason','usage'",
     "'id':<str>,'type':{'const':'message'},'role':{'const':'assistant'},'content':<objs>,"
     "'model':<str>,'stop_reason':<str?>,'stop_sequence':<str?>,'usage':<obj>"},
    {"Response", "'id','object','status','output','usage'",
     "'id':<str>,'object':{'const':'response'},'output':<objs>,'usage':<obj?>,"
     "'status':{'enum':['completed','incomplete','failed','in_progress']}"},
    {"Embeddings", "'object','data','model','usage'",
     "'object':{'const':'list'},'data':{'type':'array','items':<#Embedding>},'model':<str>,"
     "'usage':<obj>"},
    {"Embedding", "'object','index','embedding'",
     "'object':{'const':'embedding'},'index':<int>,"
     "'embedding':{'type':['array','string'],'items':{'type':'number'}}"},
    {"InputTokens", "'input_tokens'", "'input_tokens':<int>"},
    {"Tokens", "'tokens'",
     "'count':<int>,'max_model_len':<int>,"
     "'tokens':{'type':'array','items':{'type':['integer','object']}}"},
    {"Text", "'prompt','content'", "'prompt':<str>,'content':<str>"},
    {"Model", "'id','object','created','owned_by'",
     "'id':<str>,'object':{'const':'model'},'created':<int>,'owned_by':<str>,"
     "'max_model_len':<int>,'context_length':<int>,'display_name':<str>"},
    {"Models", "'object','data'",
     "'object':{'const':'list'},'data':{'type':'array','items':<#Model>},"
     "'has_more':{'type':'boolean'}"},
    {"Status", "'status'", "'status':<str>,'reason':<str?>"},
    {"Version", "'version'", "'version':<str>"},
    {"DrainRequest", "'name'",
     "'name':<str>,'grace_s':{'type':'number','minimum':0,'maximum':86400}"},
    {"Error", "'error'", "'error':<#ErrorInside>"},
    {"ErrorInside", "'message','type','param','code'",
     "'message':<str>,'type':<str>,'param':<str?>,'code':<str?>"},
    {"MessagesError", "'type','error','request_id'",
     "'type':{'const':'error'},'error':<#MessagesErrorInside>,'request_id':<str>"},
    {"MessagesErrorInside", "'type','message'", "'type':<str>,'message':<str>"},
};

static void put_shapes(struct buf *out)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        buf_printf(out, "\"%s\":{", shapes[i].name);
        put(out, "'type':'object','required':[");
        put(out, shapes[i].required);
        put(out, "],'properties':{");
        put(out, shapes[i].properties);
        put(out, "}},");
    }
    put(out, "'Object':<obj>,'Objects':<objs>,'Any':{}");
}

// ---- paths, from the routes

static const struct doc {
    const char *path, *says;
    const char *body, *answer; // schemas; answer NULL: plain text
    bool can_stream;
} docs[] = {
    {"/v1/chat/completions", "An answer to a conversation", "ChatRequest", "ChatCompletion", true},
    {"/v1/chat/completions/input_tokens", "Tokens of a conversation", "ChatRequest", "InputTokens",
     false},
    {"/v1/completions", "A text goes on", "CompletionRequest", "Completion", true},
    {"/v1/responses", "An answer, as items; nothing is kept between requests", "ResponsesRequest",
     "Response", true},
    {"/v1/responses/input_tokens", "Tokens of its input", "ResponsesRequest", "InputTokens", false},
    {"/v1/messages", "An answer, as blocks", "MessagesRequest", "Message", true},
    {"/v1/messages/count_tokens", "Tokens of a conversation", "MessagesRequest", "InputTokens",
     false},
    {"/v1/embeddings", "Vectors of texts, of length 1", "EmbeddingsRequest", "Embeddings", false},
    {"/completion", "A text goes on, in llama.cpp's form", "LlamaRequest", "Any", true},
    {"/completions", "The same, or OpenAI's form where a model is named", "LlamaRequest", "Any",
     true},
    {"/infill", "What is missing between two texts", "InfillRequest", "Any", true},
    {"/embedding", "Vectors of texts, in llama.cpp's form", "LlamaEmbedRequest", "Objects", false},
    {"/embeddings", "The same, or OpenAI's form where there is 'input'", "LlamaEmbedRequest", "Any",
     false},
    {"/apply-template", "A conversation as the model's template writes it", "ChatRequest", "Object",
     false},
    {"/props", "The model, its template and what requests ask for by default", NULL, "Object",
     false},
    {"/lora-adapters", "An empty list", NULL, "Objects", false},
    {"/slots", "What runs, without its text", NULL, "Objects", false},
    {"/slots/", "Not supported", NULL, "Object", false},
    {"/v1/rerank", "Not supported", NULL, "Object", false},
    {"/v1/reranking", "Not supported", NULL, "Object", false},
    {"/tokenize", "Tokens of a text or a conversation", "TokensRequest", "Tokens", false},
    {"/detokenize", "Text of tokens", "TokensRequest", "Text", false},
    {"/v1/models", "The model and its aliases", NULL, "Models", false},
    {"/v1/models/", "One of them", NULL, "Model", false},
    {"/v1/cluster", "Lanes, stages, workers, links and requests", NULL, "Object", false},
    {"/v1/cluster/experts", "Use of experts", NULL, "Object", false},
    {"/v1/cluster/drain", "A worker or lane finishes what it does, and leaves", "DrainRequest",
     "Status", false},
    {"/metrics", "Prometheus text, version 0.0.4", NULL, NULL, false},
    {"/livez", "The process lives", NULL, "Status", false},
    {"/readyz", "A request would be served now", NULL, "Status", false},
    {"/health", "The same", NULL, "Status", false},
    {"/v1/health", "The same", NULL, "Status", false},
    {"/ping", "The same as livez, for this machine or with a key", NULL, "Status", false},
    {"/version", "Version of the program", NULL, "Version", false},
    {"/openapi.json", "This description", NULL, "Object", false},
    {"/", "Status page for browsers, else a name", NULL, "Object", false},
};

static const struct doc *doc_of(const char *path)
{
    for (size_t i = 0; i < sizeof docs / sizeof *docs; i++)
        if (strcmp(docs[i].path, path) == 0) return &docs[i];
    return NULL;
}

static void put_content(const char *schema, struct buf *out)
{
    put(out, "'application/json':{'schema':{'$ref':'#/components/schemas/");
    buf_str(out, schema);
    put(out, "'}}");
}

// Every refusal of gate, exchange and prepare, in the words of the path's dialect.
static void put_refusals(const struct route *r, const char *error, struct buf *out)
{
    static const struct {
        int status;
        const char *says;
        bool only_post;
    } refusals[] = {
        {400, "The request is malformed, or a value is out of its range", false},
        {401, "No key, or a wrong one", false},
        {403, "This host, address or key may not", false},
        {404, "No such path, model, worker or lane", false},
        {405, "Another method", false},
        {408, "The request came too slowly", false},
        {413, "The body is too large", true},
        {414, "The URI is too long", false},
        {415, "The body is not application/json", true},
        {417, "Expect asks for what is not done", false},
        {429, "Too many requests: Retry-After tells when", false},
        {431, "The headers are too large", false},
        {500, "A fault of the server", false},
        {501, "This server or model does not have it", false},
        {503, "Loading, draining or without capacity: Retry-After tells when", false},
    };
    // Health says 503 with its own body.
    const bool is_health = r->access == ROUTE_HEALTH;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        if (refusals[i].only_post && !r->is_post) continue;
        const bool is_529 = refusals[i].status == 503 && r->api && r->api->dialect->status_503;
        buf_printf(out, ",\"%d\":{\"description\":\"%s\",\"content\":{",
                   is_529 ? r->api->dialect->status_503 : refusals[i].status, refusals[i].says);
        put_content(refusals[i].status == 503 && is_health ? "Status" : error, out);
        put(out, "}}");
    }
}

static void put_operation(const struct route *r, const struct doc *d, struct buf *out)
{
    static const char *const who[] = {
        [ROUTE_OPEN] = "Open to all.",
        [ROUTE_HEALTH] = "For this machine, or with a key.",
        [ROUTE_ADMIN] = "With a key; where there are none, for this machine.",
        [ROUTE_KEY] = "With a key, if there are any.",
    };
    const bool is_below = r->path[1] && r->path[strlen(r->path) - 1] == '/';
    buf_printf(out, "\"%s\":{\"summary\":\"%s\",\"description\":\"%s\"",
               r->is_post ? "post" : "get", d ? d->says : r->path, who[r->access]);
    put(out, r->access == ROUTE_OPEN ? ",'security':[]"
                                     : ",'security':[{},{'bearer':[]},{'header':[]}]");
    if (is_below)
        put(out, ",'parameters':[{'name':'id','in':'path','required':true,'schema':<str>}]");
    if (d && d->body) {
        put(out, ",'requestBody':{'required':true,'content':{");
        put_content(d->body, out);
        put(out, "}}");
    }
    put(out, ",'responses':{'200':{'description':'Done','content':{");
    if (!d || d->answer)
        put_content(d ? d->answer : "Object", out);
    else
        put(out, "'text/plain':{'schema':<str>}");
    if (d && d->can_stream)
        put(out, ",'text/event-stream':{'schema':{'description':'Events, one by one'}}");
    if (r->path[1] == 0) put(out, ",'text/html':{'schema':<str>}");
    put(out, "}}");
    const bool has_dialect = r->api && r->api->dialect->status_503;
    put_refusals(r, has_dialect ? "MessagesError" : "Error", out);
    put(out, "}}");
}

void api_openapi_get(struct exchange *x)
{
    struct buf all = {0}, *out = &all;
    size_t n;
    const struct route *routes = route_table(&n);
    put(out, "{'openapi':'3.1.0','info':{'title':'Trireme','description':'One model over several "
             "machines. Fields that are not listed are ignored; null means: not given.',"
             "'version':'" TRIREME_VERSION "'},'servers':[{'url':'/'}],'paths':{");
    for (size_t i = 0; i < n; i++) {
        const bool is_below =
            routes[i].path[1] && routes[i].path[strlen(routes[i].path) - 1] == '/';
        buf_printf(out, "%s\"%s%s\":{", i ? "," : "", routes[i].path, is_below ? "{id}" : "");
        put_operation(&routes[i], doc_of(routes[i].path), out);
        buf_char(out, '}');
    }
    put(out, "},'components':{'securitySchemes':{'bearer':{'type':'http','scheme':'bearer'},"
             "'header':{'type':'apiKey','in':'header','name':'x-api-key'}},'schemas':{");
    put_bodies(out);
    put_shapes(out);
    put(out, "}}}");
    exchange_json(x, 200, out);
}
