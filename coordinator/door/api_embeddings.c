// POST /v1/embeddings: texts or ids in, one vector of length 1 each out. Every input is a request
// of its own. A vector becomes text when it comes, so that many of them at once delay nobody.
#include "coordinator/door/api.h"
#include "coordinator/door/texts.h"
#include "coordinator/text/pooling.h"

#include <math.h>
#include <string.h>

enum { INPUTS_MAX = 2048 }; // as the OpenAI API documents

static struct texts inputs(const struct prepare *p)
{
    return (struct texts){.field = "input", .value = p->p.input, .n_max = INPUTS_MAX};
}

err_t api_read_pooling(const struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *word = p->p.pooling;
    out->pooling = word ? pooling_named(word->str.s) : p->in->model->pooling;
    if (out->pooling) return OK;
    if (word)
        return refusal_field(no, "pooling", "'pooling' must be \"last\", \"mean\" or \"cls\"");
    return refusal_field(no, "model", "%s: say 'pooling'", p->in->model->pooling_why);
}

static err_t embeddings_read(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct json *format = p->p.encoding_format;
    const uint32_t dim = p->in->model->dim;
    out->as_base64 = format && json_is(format, "base64");
    out->n_dim = p->p.dimensions ? (uint32_t)p->p.dimensions : dim;
    if (format && !out->as_base64 && !json_is(format, "float"))
        return refusal_field(no, "encoding_format",
                             "'encoding_format' must be \"float\" or \"base64\"");
    if (out->n_dim > dim)
        return refusal_field(no, "dimensions", "'dimensions' must be at most %u, not %u", dim,
                             out->n_dim);
    const struct texts t = inputs(p);
    err_t err = api_read_pooling(p, out, no);
    return err ? err : texts_check(&t, p, no);
}

static err_t embeddings_encode(struct prepare *p, struct prepared *out, struct refusal *no)
{
    const struct texts t = inputs(p);
    return texts_encode(&t, p, out, no);
}

// -- out --

static float scaled(float v, double length)
{
    return length > 0 ? (float)((double)v / length) : 0;
}

// 192 numbers are 768 bytes, which base64 has no remainder of.
enum { PART = 192 };

static void put_floats(struct buf *out, const float *v, uint32_t n, double length)
{
    buf_char(out, '"');
    for (uint32_t i = 0; i < n; i += PART) {
        uint8_t bytes[PART * 4];
        const uint32_t end = n - i < PART ? n - i : PART;
        for (uint32_t k = 0; k < end; k++) { // little-endian, as every caller reads them
            const float f = scaled(v[i + k], length);
            uint32_t bits;
            memcpy(&bits, &f, sizeof bits);
            for (int b = 0; b < 4; b++)
                bytes[4 * k + (uint32_t)b] = (uint8_t)(bits >> (8 * b));
        }
        buf_base64(out, bytes, end * 4);
    }
    buf_char(out, '"');
}

// The first n_dim numbers, of length 1 together; nine digits are enough for every float.
static void embeddings_vector(const struct prepared *p, const float *v, uint32_t n, struct buf *out)
{
    double sum = 0;
    if (n > p->n_dim) n = p->n_dim;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    const double length = sqrt(sum);
    if (p->as_base64) {
        put_floats(out, v, n, length);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        buf_printf(out, "%c%.9g", i ? ',' : '[', (double)scaled(v[i], length));
    buf_char(out, ']');
}

static void embeddings_body(struct reply *r, struct buf *out)
{
    const struct reply_usage u = reply_usage_get(r);
    buf_str(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < r->n_choice; i++) {
        const struct buf *text = &r->choices[i].text;
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "", i);
        buf_add(out, text->data, text->len);
        buf_char(out, '}');
    }
    buf_str(out, "],\"model\":");
    buf_json_str(out, r->p.name, strlen(r->p.name));
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
               (unsigned long long)u.prompt, (unsigned long long)u.prompt);
}

static void embeddings_refused(const struct refusal *no, const char *request_id, struct buf *out)
{
    (void)request_id;
    refusal_json(out, no);
}

// Never streamed: there is no field that asks for it.
static const struct dialect dialect_embeddings = {.body = embeddings_body,
                                                  .refused = embeddings_refused};

const struct api api_embeddings = {
    .id_prefix = "embd-",
    .prompt_field = "input",
    .fields = FIELD_EMBED,
    .dialect = &dialect_embeddings,
    .read = embeddings_read,
    .encode = embeddings_encode,
    .vector = embeddings_vector,
};
