// A small judge of JSON Schema on jansson's trees, written apart from the compiler that it judges:
// it looks at a finished document, knows nothing of automata, and takes any spelling and any order.
#pragma once
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static inline bool valid_match(const char *regex, const char *s, size_t len)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!re) return false;
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    const int n = pcre2_match(re, (PCRE2_SPTR)s, len, 0, 0, m, NULL);
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return n >= 0;
}

static inline bool valid_type(const json_t *v, const char *t)
{
    if (!strcmp(t, "null")) return json_is_null(v);
    if (!strcmp(t, "boolean")) return json_is_boolean(v);
    if (!strcmp(t, "integer"))
        return json_is_integer(v) ||
               (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)));
    if (!strcmp(t, "number")) return json_is_number(v);
    if (!strcmp(t, "string")) return json_is_string(v);
    if (!strcmp(t, "array")) return json_is_array(v);
    return !strcmp(t, "object") && json_is_object(v);
}

static inline const json_t *valid_ref(const json_t *root, const char *ref)
{
    char step[100];
    const json_t *at = root;
    for (const char *p = ref + 1; *p && at;) {
        const size_t n = strcspn(++p, "/");
        snprintf(step, sizeof step, "%.*s", (int)n, p);
        at = json_object_get(at, step);
        p += n;
    }
    return at;
}

static inline bool valid(const json_t *root, const json_t *s, const json_t *v);

static inline bool valid_types(const json_t *s, const json_t *v)
{
    const json_t *t = json_object_get(s, "type");
    if (json_is_true(json_object_get(s, "nullable")) && json_is_null(v)) return true;
    if (json_is_string(t)) return valid_type(v, json_string_value(t));
    bool any = !t;
    for (size_t i = 0; i < json_array_size(t); i++)
        any |= valid_type(v, json_string_value(json_array_get(t, i)));
    return any;
}

static inline bool valid_number(const json_t *s, const json_t *v)
{
    const json_t *k;
    if (!json_is_number(v)) return true;
    const double d = json_number_value(v);
    if ((k = json_object_get(s, "minimum")) && d < json_number_value(k)) return false;
    if ((k = json_object_get(s, "maximum")) && d > json_number_value(k)) return false;
    k = json_object_get(s, "exclusiveMinimum");
    if (k && json_is_number(k) && d <= json_number_value(k)) return false;
    k = json_object_get(s, "exclusiveMaximum");
    if (k && json_is_number(k) && d >= json_number_value(k)) return false;
    k = json_object_get(s, "multipleOf");
    if (k && fabs(d / json_number_value(k) - round(d / json_number_value(k))) > 1e-6) return false;
    return true;
}

static inline size_t valid_chars(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += (s[i] & 0xc0) != 0x80;
    return n;
}

static inline bool valid_text(const json_t *s, const char *text, size_t len)
{
    const json_t *k;
    const size_t n = valid_chars(text, len);
    if ((k = json_object_get(s, "minLength")) && n < (size_t)json_integer_value(k)) return false;
    if ((k = json_object_get(s, "maxLength")) && n > (size_t)json_integer_value(k)) return false;
    k = json_object_get(s, "pattern");
    return !k || valid_match(json_string_value(k), text, len);
}

static inline bool valid_array(const json_t *root, const json_t *s, const json_t *v)
{
    const json_t *k, *items = json_object_get(s, "items"),
                     *list = json_object_get(s, "prefixItems");
    if (!json_is_array(v)) return true;
    const size_t n = json_array_size(v);
    if ((k = json_object_get(s, "minItems")) && n < (size_t)json_integer_value(k)) return false;
    if ((k = json_object_get(s, "maxItems")) && n > (size_t)json_integer_value(k)) return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *of = i < json_array_size(list) ? json_array_get(list, i) : items;
        if (of && !valid(root, of, json_array_get(v, i))) return false;
    }
    return true;
}

static inline bool valid_object(const json_t *root, const json_t *s, json_t *v)
{
    const json_t *k, *list = json_object_get(s, "properties"), *one;
    const json_t *more = json_object_get(s, "additionalProperties"),
                 *patterns = json_object_get(s, "patternProperties"),
                 *names = json_object_get(s, "propertyNames");
    const char *name, *pattern;
    json_t *value;
    if (!json_is_object(v)) return true;
    const size_t n = json_object_size(v), n_req = json_array_size(json_object_get(s, "required"));
    for (size_t i = 0; i < n_req; i++) {
        k = json_array_get(json_object_get(s, "required"), i);
        if (!json_object_get(v, json_string_value(k))) return false;
    }
    if ((k = json_object_get(s, "minProperties")) && n < (size_t)json_integer_value(k))
        return false;
    if ((k = json_object_get(s, "maxProperties")) && n > (size_t)json_integer_value(k))
        return false;
    json_object_foreach(v, name, value)
    {
        bool listed = false;
        if (names && !valid_text(names, name, strlen(name))) return false;
        if ((one = json_object_get(list, name))) {
            listed = true;
            if (!valid(root, one, value)) return false;
        }
        json_object_foreach((json_t *)patterns, pattern, k)
        {
            if (!valid_match(pattern, name, strlen(name))) continue;
            listed = true;
            if (!valid(root, k, value)) return false;
        }
        if (!listed && more && !valid(root, more, value)) return false;
    }
    return true;
}

static inline bool valid_ways(const json_t *root, const json_t *s, const json_t *v)
{
    static const char *const keys[] = {"anyOf", "oneOf", "allOf"};
    for (int i = 0; i < 3; i++) {
        const json_t *list = json_object_get(s, keys[i]);
        size_t n = 0;
        for (size_t k = 0; k < json_array_size(list); k++)
            n += valid(root, json_array_get(list, k), v);
        if (list && (i == 2 ? n < json_array_size(list) : n == 0)) return false;
    }
    return true;
}

// oneOf is taken as anyOf, as the compiler says it does.
static inline bool valid(const json_t *root, const json_t *s, const json_t *v)
{
    const json_t *k;
    if (json_is_boolean(s)) return json_is_true(s);
    if ((k = json_object_get(s, "$ref")) && !valid(root, valid_ref(root, json_string_value(k)), v))
        return false;
    if ((k = json_object_get(s, "const")) && !json_equal(k, v)) return false;
    if ((k = json_object_get(s, "enum"))) {
        bool any = false;
        for (size_t i = 0; i < json_array_size(k); i++)
            any |= json_equal(json_array_get(k, i), v);
        if (!any) return false;
    }
    if (json_is_string(v) && !valid_text(s, json_string_value(v), json_string_length(v)))
        return false;
    return valid_types(s, v) && valid_number(s, v) && valid_array(root, s, v) &&
           valid_object(root, s, (json_t *)v) && valid_ways(root, s, v);
}
