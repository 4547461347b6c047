#include "topology/cluster_rates.h"

#include "proto/base/buf.h"

#include <stdlib.h>
#include <string.h>

enum { MUST = CYAML_FLAG_POINTER, MAY = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL };

#define NUMBER(name) CYAML_FIELD_STRING_PTR(#name, MUST, struct cluster_rates, name, 1, 40)
#define TYPE(name)                                                                                 \
    CYAML_FIELD_STRING_PTR(#name, MAY, struct cluster_rates, types[DT_##name], 1, 200)

const cyaml_schema_field_t cluster_rates_fields[] = {
    NUMBER(attn_one_flops_per_s),
    NUMBER(attn_many_flops_per_s),
    NUMBER(product_us),
    NUMBER(layer_us),
    NUMBER(float_ns),
    NUMBER(seq_us),
    NUMBER(logit_ns),
    TYPE(F32),
    TYPE(F16),
    TYPE(BF16),
    TYPE(Q4_0),
    TYPE(Q4_1),
    TYPE(Q5_0),
    TYPE(Q5_1),
    TYPE(Q8_0),
    TYPE(Q2_K),
    TYPE(Q3_K),
    TYPE(Q4_K),
    TYPE(Q5_K),
    TYPE(Q6_K),
    TYPE(IQ4_NL),
    TYPE(IQ4_XS),
    TYPE(IQ2_XXS),
    TYPE(IQ2_XS),
    TYPE(IQ2_S),
    TYPE(IQ3_XXS),
    TYPE(IQ3_S),
    TYPE(IQ1_S),
    TYPE(IQ1_M),
    TYPE(TQ1_0),
    TYPE(TQ2_0),
    TYPE(MXFP4),
    TYPE(NVFP4),
    TYPE(INT4),
    TYPE(INT8),
    TYPE(FP8),
    CYAML_FIELD_END,
};

// The next number of a text, which it leaves behind; false: there is none.
static bool next_number(const char **text, double *out)
{
    char *end;
    const char *at = *text + strspn(*text, " ");
    const size_t n = strspn(at, "0123456789+-.eE");
    if (n == 0) return false;
    *out = strtod(at, &end);
    if (end != at + n || (*end && *end != ' ')) return false;
    *text = end + strspn(end, " ");
    return true;
}

static err_t take_numbers(const char *who, const char *what, const char *text, int32_t n,
                          double *out, struct err_text *why)
{
    const char *at = text;
    for (int32_t i = 0; i < n; i++)
        if (!next_number(&at, &out[i]))
            return err_say(why, ERR_CONFIG, "%s: kernels: %s is '%.80s', allowed: %d numbers", who,
                           what, text, n);
    return *at ? err_say(why, ERR_CONFIG, "%s: kernels: %s is '%.80s', allowed: %d numbers", who,
                         what, text, n)
               : OK;
}

err_t cluster_rates_take(const char *who, const struct cluster_rates *f, struct rates *out,
                         struct err_text *why)
{
    struct rates r = {0};
    struct err_text said = {{0}};
    *out = r;
    if (!f) return OK;
    const struct {
        const char *what, *text;
        double *to;
    } list[] = {
        {"attn_one_flops_per_s", f->attn_one_flops_per_s, &r.attn_one_flops_per_s},
        {"attn_many_flops_per_s", f->attn_many_flops_per_s, &r.attn_many_flops_per_s},
        {"product_us", f->product_us, &r.product_us},
        {"layer_us", f->layer_us, &r.layer_us},
        {"float_ns", f->float_ns, &r.float_ns},
        {"seq_us", f->seq_us, &r.seq_us},
        {"logit_ns", f->logit_ns, &r.logit_ns},
    };
    err_t e = OK;
    for (size_t i = 0; !e && i < sizeof list / sizeof *list; i++)
        e = take_numbers(who, list[i].what, list[i].text, 1, list[i].to, why);
    for (int t = 0; !e && t < DT_COUNT; t++) {
        if (!f->types[t]) continue;
        if (r.n_type == RATES_TYPES_MAX)
            return err_say(why, ERR_CONFIG, "%s: kernels: over %d types of weights", who,
                           RATES_TYPES_MAX);
        struct rates_type *one = &r.types[r.n_type++];
        one->dtype = (enum dtype)t;
        e = take_numbers(who, dtype_info(one->dtype)->name, f->types[t], RATES_POINTS,
                         one->mul_per_s, why);
    }
    if (e) return e;
    if (!r.n_type) return err_say(why, ERR_CONFIG, "%s: kernels: no type of weights", who);
    if (rates_check(&r, &said)) return err_say(why, ERR_CONFIG, "%s: %s", who, said.s);
    *out = r;
    return OK;
}

void cluster_rates_write(const struct rates *r, struct buf *out)
{
    const struct {
        const char *what;
        double v;
    } list[] = {
        {"attn_one_flops_per_s", r->attn_one_flops_per_s},
        {"attn_many_flops_per_s", r->attn_many_flops_per_s},
        {"product_us", r->product_us},
        {"layer_us", r->layer_us},
        {"float_ns", r->float_ns},
        {"seq_us", r->seq_us},
        {"logit_ns", r->logit_ns},
    };
    if (!r->n_type) return;
    buf_str(out, "    kernels:\n");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        buf_printf(out, "      %s: ", list[i].what);
        buf_json_num(out, list[i].v);
        buf_char(out, '\n');
    }
    for (int32_t i = 0; i < r->n_type; i++) {
        buf_printf(out, "      %s:", dtype_info(r->types[i].dtype)->name);
        for (int p = 0; p < RATES_POINTS; p++) {
            buf_char(out, ' ');
            buf_json_num(out, r->types[i].mul_per_s[p]);
        }
        buf_char(out, '\n');
    }
}
