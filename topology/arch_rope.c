// Rotary embeddings (Su et al. 2021) and their scalings. Each scaling that treats frequencies
// differently comes down to a list of divisors:
//     llama3    Grattafiori et al. 2024 (arXiv 2407.21783)
//     yarn      Peng et al. 2023 (arXiv 2309.00071)
//     longrope  Ding et al. 2024 (arXiv 2402.13753)
#include "topology/arch.h"

#include <math.h>

enum scaling {
    SCALE_NONE,
    SCALE_DEFAULT,
    SCALE_LINEAR,
    SCALE_LLAMA3,
    SCALE_YARN,
    SCALE_LONGROPE,
    SCALE_SU,
    SCALE_MROPE
};

static double *list_of(const struct config *c, int32_t n)
{
    return arena_take_n(c->arena, (size_t)n, sizeof(double));
}

static err_t no_memory(const struct config *c)
{
    return err_say(c->why, ERR_MEMORY, "%s: no memory for its numbers", c->path);
}

static double frequency(const struct model_rope *r, int32_t i)
{
    return pow(r->theta, -2.0 * i / r->n_rot);
}

static err_t original_ctx(const struct config *c, const char *group, const struct model_shape *s,
                          double *out)
{
    return config_positive(c, KEY_ROPE_ORIGINAL, group, s->ctx_train, out);
}

static err_t llama3(const struct config *c, const char *group, const struct model_shape *s,
                    struct model_rope *r)
{
    double factor, low, high, ctx;
    err_t e = config_positive(c, KEY_ROPE_FACTOR, group, NAN, &factor);
    if (e || (e = config_positive(c, KEY_ROPE_LOW, group, NAN, &low))) return e;
    if ((e = config_positive(c, KEY_ROPE_HIGH, group, NAN, &high))) return e;
    if ((e = original_ctx(c, group, s, &ctx))) return e;
    if (high <= low)
        return config_fail(c, "key 'high_freq_factor': found %g, allowed more than %g", high, low);
    double *f = list_of(c, r->n_rot / 2);
    if (!f) return no_memory(c);
    for (int32_t i = 0; i < r->n_rot / 2; i++) {
        double turns = ctx * frequency(r, i) / (2 * M_PI); // in the original context
        double smooth = (turns - low) / (high - low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        f[i] = 1 / ((1 - smooth) / factor + smooth);
    }
    r->factors = f;
    return OK;
}

static double mscale_of(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static err_t yarn_attn(const struct config *c, const char *group, const struct arch *a,
                       double factor, struct model_shape *s, double *attn)
{
    double given, mscale, all;
    err_t e = config_positive(c, KEY_ROPE_MSCALE_ALL, group, 0, &all);
    if (e || (e = config_positive(c, KEY_ROPE_MSCALE, group, 0, &mscale))) return e;
    if ((e = config_positive(c, KEY_ROPE_ATTN, group, 0, &given))) return e;
    if (c->gguf) { // has no key for mscale: one, or in these models the other's value
        bool tenth = a->traits & ARCH_GGUF_MSCALE_TENTH;
        if (tenth) all *= 10;
        mscale = tenth && all > 0 ? all : 1;
    }
    *attn = mscale > 0 && all > 0 ? mscale_of(factor, mscale) / mscale_of(factor, all)
                                  : mscale_of(factor, 1);
    if (given > 0) *attn = c->gguf ? *attn * given : given;
    if ((a->traits & ARCH_MLA) && all > 0) {
        double m = mscale_of(factor, all);
        s->attn_scale = (float)((double)s->attn_scale * m * m);
    }
    return OK;
}

static double yarn_bound(const struct model_rope *r, double turns, double ctx)
{
    return r->n_rot * log(ctx / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static err_t yarn(const struct config *c, const char *group, const struct arch *a,
                  struct model_shape *s, struct model_rope *r)
{
    double factor, fast, slow, ctx;
    bool truncate;
    err_t e = original_ctx(c, group, s, &ctx);
    if (e || (e = config_positive(c, KEY_ROPE_FACTOR, group, s->ctx_train / ctx, &factor)))
        return e;
    if ((e = config_positive(c, KEY_ROPE_FAST, group, 32, &fast))) return e;
    if ((e = config_positive(c, KEY_ROPE_SLOW, group, 1, &slow))) return e;
    if ((e = config_flag(c, KEY_ROPE_TRUNCATE, true, &truncate))) return e;
    if (r->theta <= 1) return config_fail(c, "yarn with a base of %g, allowed above 1", r->theta);
    double low = yarn_bound(r, fast, ctx), high = yarn_bound(r, slow, ctx);
    if (truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low < 0 ? 0 : low;
    high = high > r->n_rot - 1 ? r->n_rot - 1 : high;
    if (low == high) high += 0.001;
    double *f = list_of(c, r->n_rot / 2);
    if (!f) return no_memory(c);
    for (int32_t i = 0; i < r->n_rot / 2; i++) {
        double ramp = (i - low) / (high - low); // 0: as it was, 1: divided by factor
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        f[i] = 1 / (ramp / factor + (1 - ramp));
    }
    r->factors = f;
    return yarn_attn(c, group, a, factor, s, &r->attn_factor);
}

static err_t factor_list(const struct config *c, enum key key, const struct model_rope *r,
                         const double **out)
{
    const struct json *j;
    err_t e = config_get(c, key, NULL, &j);
    if (e) return e;
    if (!j || j->kind != J_ARR || j->arr.n != (size_t)r->n_rot / 2)
        return config_fail(c, "key '%s': found %zu factors, allowed %d", config_key_name(c, key),
                           j && j->kind == J_ARR ? j->arr.n : 0, r->n_rot / 2);
    double *f = list_of(c, r->n_rot / 2);
    if (!f) return no_memory(c);
    for (int32_t i = 0; i < r->n_rot / 2; i++) {
        f[i] = json_number(&j->arr.items[i], NAN);
        if (!isfinite(f[i]) || f[i] <= 0)
            return config_fail(c, "key '%s': factor %d is no finite number above 0",
                               config_key_name(c, key), i);
    }
    *out = f;
    return OK;
}

// GGUF has the factors as tensors (SLOT_ROPE_FREQS, SLOT_ROPE_FREQS_LONG) and no type.
static err_t longrope(const struct config *c, struct model_shape *s, struct model_rope *r)
{
    double ctx, factor, attn;
    err_t e = original_ctx(c, NULL, s, &ctx);
    if (e || (e = config_positive(c, KEY_ROPE_FACTOR, NULL, s->ctx_train / ctx, &factor))) return e;
    attn = factor <= 1 || ctx <= 1 ? 1 : sqrt(1 + log(factor) / log(ctx));
    if ((e = config_positive(c, KEY_ROPE_ATTN, NULL, attn, &r->attn_factor))) return e;
    r->long_from = (int32_t)ctx;
    if (c->gguf) return OK;
    if ((e = factor_list(c, KEY_ROPE_SHORT, r, &r->factors))) return e;
    return factor_list(c, KEY_ROPE_LONG, r, &r->long_factors);
}

static err_t scaled(const struct config *c, const char *group, const struct arch *a,
                    struct model_shape *s, struct model_rope *r)
{
    static const char *const words[] = {"none",     "default", "linear", "llama3", "yarn",
                                        "longrope", "su",      "mrope",  NULL};
    double factor, attn;
    const struct json *given;
    int32_t type;
    err_t e = config_get(c, KEY_ROPE_FACTOR, group, &given);
    if (e) return e;
    // GGUF: a factor without a type is linear
    int32_t otherwise = c->gguf && given ? SCALE_LINEAR : SCALE_DEFAULT;
    if ((e = config_word(c, KEY_ROPE_TYPE, group, words, otherwise, &type))) return e;
    switch (type) {
    case SCALE_LLAMA3:
        return llama3(c, group, s, r);
    case SCALE_YARN:
        return yarn(c, group, a, s, r);
    case SCALE_LONGROPE:
    case SCALE_SU:
        return longrope(c, s, r);
    case SCALE_LINEAR:
        if ((e = config_positive(c, KEY_ROPE_FACTOR, group, c->gguf ? 1 : NAN, &factor))) return e;
        r->freq_scale = 1 / factor;
        break;
    default:
        break;
    }
    if (!c->gguf) return OK;
    if ((e = config_positive(c, KEY_ROPE_ATTN, group, 1, &attn))) return e;
    r->attn_factor = attn;
    if (config_has(c, KEY_ROPE_ORIGINAL)) { // longrope of phi3, told by its tensors
        double ctx;
        if ((e = original_ctx(c, NULL, s, &ctx))) return e;
        r->long_from = (int32_t)ctx;
    }
    return OK;
}

// Numbers that are fine one by one can still make frequencies that are not.
static err_t check_factors(const struct config *c, const struct model_rope *r)
{
    for (int32_t i = 0; r->factors && i < r->n_rot / 2; i++)
        if (!isfinite(r->factors[i]) || r->factors[i] <= 0)
            return config_fail(c, "the scaling of rotations divides frequency %d by %g", i,
                               r->factors[i]);
    if (isfinite(r->attn_factor)) return OK;
    return config_fail(c, "the scaling of rotations has no finite factor");
}

static err_t n_rot(const struct config *c, const struct model_shape *s, int32_t head_dim,
                   struct model_rope *r)
{
    double part;
    err_t e = config_positive(c, KEY_ROTARY_PART, NULL, 1, &part);
    if (e) return e;
    if (part > 1)
        return config_fail(c, "key 'partial_rotary_factor': found %g, allowed up to 1", part);
    int32_t share = s->mla.kv_rank ? head_dim : (int32_t)(head_dim * part + 1e-6);
    if ((e = config_count(c, KEY_ROTARY_DIM, head_dim, share, &r->n_rot))) return e;
    if (r->n_rot % 2 || r->n_rot < 2)
        return config_fail(c, "key '%s': found %d, allowed even numbers",
                           config_key_name(c, KEY_ROTARY_DIM), r->n_rot);
    return OK;
}

err_t arch_rope(const struct config *c, const struct arch *a, struct model_shape *s)
{
    struct model_rope *r = &s->rope;
    bool interleaved = a->traits & (c->gguf ? ARCH_GGUF_INTERLEAVED : ARCH_HF_INTERLEAVED);
    double theta_local;
    err_t e = n_rot(c, s, s->mla.kv_rank ? s->mla.rope_dim : s->head_dim, r);
    if (e || (e = config_flag(c, KEY_ROPE_INTERLEAVE, interleaved, &r->interleaved))) return e;
    if (c->gguf) r->interleaved = interleaved;
    if ((e = config_positive(c, KEY_THETA, "full_attention", 10000, &r->theta))) return e;
    r->freq_scale = r->attn_factor = 1;
    s->rope_local = *r;
    if ((e = scaled(c, "full_attention", a, s, r))) return e;
    if ((e = check_factors(c, r))) return e;
    // Local layers turn like the others unless something says how they turn.
    const struct json *own = json_get(json_get(c->text, "rope_parameters"), "sliding_attention");
    if ((e = config_positive(c, KEY_THETA_LOCAL, NULL, 0, &theta_local))) return e;
    if (own && own->kind == J_OBJ) {
        if (theta_local <= 0) theta_local = r->theta;
        if (json_get(own, "rope_theta"))
            e = config_positive(c, KEY_THETA, "sliding_attention", NAN, &theta_local);
        if (e) return e;
        s->rope_local.theta = theta_local;
        return scaled(c, "sliding_attention", a, s, &s->rope_local);
    }
    if (theta_local > 0)
        s->rope_local.theta = theta_local;
    else
        s->rope_local = *r;
    return OK;
}
