// Typed reads of GGUF metadata. What is here was validated by gguf_open: types are known, payloads
// lie inside the header, strings are UTF-8.
#include "topology/gguf.h"
#include "topology/file.h"

#include <math.h>
#include <string.h>

static const char *const type_names[] = {
    "uint8", "int8",   "uint16", "int16",  "uint32", "int32",   "float32",
    "bool",  "string", "array",  "uint64", "int64",  "float64",
};

static err_t wrong(const struct gguf *g, const struct gguf_kv *kv, const char *allowed,
                   struct err_text *why)
{
    return err_say(why, ERR_MODEL, "%s: key '%.*s': found %s%s, allowed %s",
                   file_tail(gguf_path(g)), (int)(kv->key.len > 64 ? 64 : kv->key.len), kv->key.s,
                   kv->type == GGUF_ARR ? "array of " : "",
                   type_names[kv->type == GGUF_ARR ? kv->elem : kv->type], allowed);
}

static err_t find(const struct gguf *g, const char *key, const struct gguf_kv **out)
{
    *out = gguf_find(g, key);
    return *out ? OK : ERR_NOT_FOUND;
}

static uint64_t le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

// Element i of an integer payload as sign and magnitude bits; false if `t` is no integer type.
static bool int_at(const uint8_t *data, enum gguf_type t, uint64_t i, bool *negative, uint64_t *v)
{
    int64_t s;
    switch (t) {
    case GGUF_U8:
        s = data[i];
        break;
    case GGUF_I8:
        s = (int8_t)data[i];
        break;
    case GGUF_U16:
        s = (uint16_t)le(data + 2 * i, 2);
        break;
    case GGUF_I16:
        s = (int16_t)le(data + 2 * i, 2);
        break;
    case GGUF_U32:
        s = (uint32_t)le(data + 4 * i, 4);
        break;
    case GGUF_I32:
        s = (int32_t)le(data + 4 * i, 4);
        break;
    case GGUF_I64:
        s = (int64_t)le(data + 8 * i, 8);
        break;
    case GGUF_U64:
        *negative = false;
        *v = le(data + 8 * i, 8);
        return true;
    default:
        return false;
    }
    *negative = s < 0;
    *v = (uint64_t)s;
    return true;
}

static bool float_at(const uint8_t *data, enum gguf_type t, uint64_t i, float *out)
{
    if (t == GGUF_F32) {
        uint32_t u = (uint32_t)le(data + 4 * i, 4);
        memcpy(out, &u, 4);
        return true;
    }
    if (t != GGUF_F64) return false;
    uint64_t u = le(data + 8 * i, 8);
    double d;
    memcpy(&d, &u, 8);
    *out = fabs(d) <= 3.402823466e38 ? (float)d : d > 0 ? INFINITY : d < 0 ? -INFINITY : NAN;
    return true;
}

err_t gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct err_text *why)
{
    const struct gguf_kv *kv;
    bool negative;
    uint64_t v;
    err_t e = find(g, key, &kv);
    if (e) return e;
    if (!int_at(kv->data, kv->type, 0, &negative, &v) || negative || v > UINT32_MAX)
        return wrong(g, kv, "an integer from 0 to 4294967295", why);
    *out = (uint32_t)v;
    return OK;
}

err_t gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err_text *why)
{
    const struct gguf_kv *kv;
    err_t e = find(g, key, &kv);
    if (e) return e;
    return float_at(kv->data, kv->type, 0, out) ? OK : wrong(g, kv, "float32 and float64", why);
}

err_t gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err_text *why)
{
    const struct gguf_kv *kv;
    err_t e = find(g, key, &kv);
    if (e) return e;
    if (kv->type != GGUF_BOOL) return wrong(g, kv, "bool", why);
    *out = kv->data[0] != 0;
    return OK;
}

err_t gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out,
                   struct err_text *why)
{
    const struct gguf_kv *kv;
    err_t e = find(g, key, &kv);
    if (e) return e;
    if (kv->type != GGUF_STR) return wrong(g, kv, "string", why);
    *out = (struct gguf_str){(const char *)kv->data + 8, le(kv->data, 8)};
    return OK;
}

// The array and room for its n converted elements.
static err_t array(const struct gguf *g, const char *key, struct arena *a, size_t size,
                   const struct gguf_kv **kv, void **room, struct err_text *why)
{
    err_t e = find(g, key, kv);
    if (e) return e;
    if ((*kv)->type != GGUF_ARR) return wrong(g, *kv, "an array", why);
    *room = arena_take_n(a, (*kv)->n, size);
    return *room ? OK : err_say(why, ERR_MEMORY, "%s: no memory for %s", gguf_path(g), key);
}

err_t gguf_get_strs(const struct gguf *g, const char *key, struct arena *a,
                    const struct gguf_str **out, uint64_t *n, struct err_text *why)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv && (kv->type != GGUF_ARR || kv->elem != GGUF_STR))
        return wrong(g, kv, "array of string", why);
    void *room;
    err_t e = array(g, key, a, sizeof(struct gguf_str), &kv, &room, why);
    if (e) return e;
    struct gguf_str *strs = room;
    const uint8_t *p = kv->data;
    for (uint64_t i = 0; i < kv->n; i++) {
        strs[i] = (struct gguf_str){(const char *)p + 8, le(p, 8)};
        p += 8 + strs[i].len;
    }
    *out = strs;
    *n = kv->n;
    return OK;
}

err_t gguf_get_f32s(const struct gguf *g, const char *key, struct arena *a, const float **out,
                    uint64_t *n, struct err_text *why)
{
    const struct gguf_kv *kv;
    void *room;
    err_t e = array(g, key, a, sizeof(float), &kv, &room, why);
    if (e) return e;
    float *v = room;
    for (uint64_t i = 0; i < kv->n; i++)
        if (!float_at(kv->data, kv->elem, i, &v[i]))
            return wrong(g, kv, "array of float32 or float64", why);
    *out = v;
    *n = kv->n;
    return OK;
}

err_t gguf_get_i32s(const struct gguf *g, const char *key, struct arena *a, const int32_t **out,
                    uint64_t *n, struct err_text *why)
{
    const struct gguf_kv *kv;
    void *room;
    err_t e = array(g, key, a, sizeof(int32_t), &kv, &room, why);
    if (e) return e;
    int32_t *v = room;
    for (uint64_t i = 0; i < kv->n; i++) {
        bool negative;
        uint64_t u;
        if (!int_at(kv->data, kv->elem, i, &negative, &u) ||
            (negative ? (int64_t)u < INT32_MIN : u > INT32_MAX))
            return wrong(g, kv, "array of integers of 32 bits", why);
        v[i] = (int32_t)(int64_t)u;
    }
    *out = v;
    *n = kv->n;
    return OK;
}
