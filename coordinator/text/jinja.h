// jinja: what the files of the template interpreter share; only template.c and jinja_*.c see it.
//   jinja_lex   source -> tokens, white space control      jinja_parse, jinja_expr  tokens -> nodes
//   jinja_run   statements, scopes, loops, macros          jinja_eval  expressions
//   jinja_str   strings that know which bytes are input    jinja_value truth, order, items, text
//   jinja_call  arguments, global functions                jinja_method, jinja_filter, jinja_seq,
//   jinja_test  `is` tests                                 jinja_json  tojson, from_json
// Language: Jinja 3.1 (https://jinja.palletsprojects.com/en/stable/templates/).
//
// Errors leave by longjmp to the place that began parsing or rendering: all memory is in an arena
// owned there, so nothing has to be undone on the way.
#pragma once
#include "coordinator/text/template.h"

#include <setjmp.h>

enum {
    JINJA_HEIGHT_MAX = 200,   // of one syntax tree
    JINJA_FRAMES_MAX = 1000,  // nested evaluations, so that the C stack stays below 1 MiB
    JINJA_ARGS_MAX = 64,      // of one call
    JINJA_STACK = 2048,       // argument values of all calls in progress
    JINJA_FUEL_PER_STEP = 8,  // one step of the budget is this many evaluated nodes
    JINJA_BYTES_PER_FUEL = 24 // string work
};

struct jinja; // one rendering

// Where an error goes: err and why are filled, then the jump.
struct jinja_stop {
    jmp_buf jump;
    err_t err;
    struct err_text *why;
};
// line 0: no "line N: " in front.
_Noreturn void jinja_stop(struct jinja_stop *s, err_t err, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

// --- values -----------------------------------------------------------------------------------

enum jinja_kind {
    JINJA_ABSENT, // no value at all: a variable not set, an argument not given
    JINJA_UNDEF,  // Jinja's undefined; s (may be NULL) is the name that was looked for
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_REAL,
    JINJA_STR,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_RANGE,
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_BUILTIN,
    JINJA_METHOD,
};

struct jinja_value {
    enum jinja_kind kind;
    union {
        bool b;
        int64_t i;
        double d;
        struct jinja_str *s;
        struct jinja_list *list;
        struct jinja_range *range;
        struct jinja_dict *dict;
        struct jinja_loop *loop;
        struct jinja_macro *macro;
        const struct jinja_builtin *builtin;
        struct jinja_method *method;
    };
};

// Input byte ranges of a flat string; jinja_str_marks_all says "every byte", NULL "none".
struct jinja_marks {
    const struct text_span *at; // sorted, disjoint
    size_t n;
};
extern const struct jinja_marks jinja_str_marks_all;

// Immutable text. Either flat (p) or a rope of parts; a rope becomes flat when its bytes are looked
// at. Concatenation and slicing copy nothing.
struct jinja_str {
    size_t len;    // bytes of UTF-8
    const char *p; // NULL: a rope
    union {
        struct {
            const struct jinja_marks *marks;
            size_t base; // where p lies in the coordinates of marks
        };
        struct {
            struct jinja_str *const *parts;
            size_t n_part;
        };
    };
};

struct jinja_list {
    size_t n;
    struct jinja_value *items;
};
struct jinja_range {
    int64_t from, step, n;
};
struct jinja_entry {
    struct jinja_value key, value;
};
struct jinja_dict {
    size_t n, cap;
    struct jinja_entry *entries; // in order of insertion
};
struct jinja_loop {
    struct jinja_value seq;
    int64_t at, n;
    struct jinja_value changed; // what loop.changed saw last
};
struct jinja_macro {
    const struct jinja_node *node; // JINJA_DO_MACRO or JINJA_DO_CALL
    struct jinja_scope *scope;     // where it was defined
};
struct jinja_method {
    struct jinja_value self;
    const struct jinja_builtin *fn;
};

// Arguments: positional first, then the n_kw named ones. After binding: at[i] is parameter i.
struct jinja_args {
    struct jinja_value *at;
    int n, n_kw;
    struct jinja_str *const *kw;
};
typedef struct jinja_value jinja_fn(struct jinja *J, struct jinja_value self,
                                    const struct jinja_args *args);
enum { JINJA_PARAMS_MAX = 5 };
// A filter, test, method or function. `on` (methods) is the set of kinds, as bits.
struct jinja_builtin {
    const char *name;
    jinja_fn *fn;
    int n_need; // parameters that must be given; -1: takes the arguments as they come
    unsigned on;
    const char *params[JINJA_PARAMS_MAX];
};

// --- syntax -----------------------------------------------------------------------------------

enum jinja_op {
    // expressions
    JINJA_CONST,
    JINJA_NAME,
    JINJA_ATTR,
    JINJA_ITEM,
    JINJA_SLICE,
    JINJA_CALL,
    JINJA_FILTER,
    JINJA_TEST,
    JINJA_NOT,
    JINJA_NEG,
    JINJA_POS,
    JINJA_ADD,
    JINJA_SUB,
    JINJA_MUL,
    JINJA_DIV,
    JINJA_FLOORDIV,
    JINJA_MOD,
    JINJA_POW,
    JINJA_CONCAT,
    JINJA_AND,
    JINJA_OR,
    JINJA_COMPARE,
    JINJA_COND,
    JINJA_MAKE_LIST,
    JINJA_MAKE_TUPLE,
    JINJA_MAKE_DICT,
    // comparisons, in `ids` of JINJA_COMPARE
    JINJA_EQ,
    JINJA_NE,
    JINJA_LT,
    JINJA_LE,
    JINJA_GT,
    JINJA_GE,
    JINJA_IN,
    JINJA_NOT_IN,
    // statements
    JINJA_DO_TEXT,
    JINJA_DO_PRINT,
    JINJA_DO_BODY,
    JINJA_DO_IF,
    JINJA_DO_FOR,
    JINJA_DO_SET,
    JINJA_DO_SET_BLOCK,
    JINJA_DO_MACRO,
    JINJA_DO_CALL,
    JINJA_DO_FILTER,
    JINJA_DO_WITH,
    JINJA_DO_BREAK,
    JINJA_DO_CONTINUE
};

// What a, b, c, kids and ids mean is said where each op is parsed (jinja_parse.c, jinja_expr.c).
struct jinja_node {
    enum jinja_op op;
    int line;
    int height;
    int name;                 // variable or macro: index into the program's names
    struct jinja_value value; // constant, attribute name, text
    struct jinja_node *a, *b, *c;
    struct jinja_node **kids;
    int *ids;
    struct jinja_str **kw; // names of the last n_kw kids
    int n_kids, n_ids, n_kw;
    const struct jinja_builtin *fn;
};

struct jinja_program {
    struct arena mem;
    const struct jinja_node *body;
    struct jinja_str **names; // jinja_call_functions come first, at their own index
    int n_names, cap_names;
    int *name_hash; // n_hash slots, -1: free
    int n_hash;
};

enum jinja_tok {
    JINJA_T_END,
    JINJA_T_TEXT,
    JINJA_T_PRINT,
    JINJA_T_PRINT_END,
    JINJA_T_TAG,
    JINJA_T_TAG_END,
    JINJA_T_NAME,
    JINJA_T_STR,
    JINJA_T_INT,
    JINJA_T_REAL,
    JINJA_T_OP
};
#define JINJA_OP2(a, b) ((a) | (b) << 8) // operators as numbers: '+', JINJA_OP2('*', '*')
struct jinja_token {
    enum jinja_tok type;
    int op;
    int line;
    const char *p; // in the program's copy of the source
    size_t len;
};

struct jinja_parser {
    struct jinja_stop stop;
    struct jinja_program *prog;
    struct arena *mem;    // the program's
    struct arena scratch; // tokens
    struct jinja_token *toks;
    size_t n_tok, cap_tok, at;
    int depth;
};

void jinja_lex(struct jinja_parser *P, const char *source, size_t len);
void jinja_parse(struct jinja_parser *P); // fills P->prog->body
// Parsing tools and expressions (jinja_expr.c).
_Noreturn void jinja_expr_fail(struct jinja_parser *P, const char *what);
void *jinja_expr_take(struct jinja_parser *P, size_t n, size_t size);
struct jinja_node *jinja_expr_node(struct jinja_parser *P, enum jinja_op op);
struct jinja_node *jinja_expr_done(struct jinja_parser *P, struct jinja_node *n);
void jinja_expr_add_kid(struct jinja_parser *P, struct jinja_node *n, struct jinja_node *kid);
const struct jinja_token *jinja_expr_peek(const struct jinja_parser *P);
const struct jinja_token *jinja_expr_next(struct jinja_parser *P);
bool jinja_expr_is_op(const struct jinja_parser *P, int op);
bool jinja_expr_is_name(const struct jinja_parser *P, const char *name);
bool jinja_expr_skip_op(struct jinja_parser *P, int op);
bool jinja_expr_skip_name(struct jinja_parser *P, const char *name);
void jinja_expr_want_op(struct jinja_parser *P, int op);
int jinja_expr_want_name(struct jinja_parser *P); // an identifier; returns its index
void jinja_expr_enter(struct jinja_parser *P);
struct jinja_node *jinja_expr(struct jinja_parser *P);                       // no bare tuple
struct jinja_node *jinja_expr_no_cond(struct jinja_parser *P);               // nor an inline if
struct jinja_node *jinja_expr_tuple(struct jinja_parser *P, bool with_cond); // a, b is a tuple
struct jinja_node *jinja_expr_primary(struct jinja_parser *P);
struct jinja_node *jinja_expr_postfix(struct jinja_parser *P, struct jinja_node *n);
struct jinja_node *jinja_expr_filters(struct jinja_parser *P, struct jinja_node *n, bool at_name);
int jinja_expr_intern(struct jinja_parser *P, const char *s, size_t len);
// Index of a name in the program, or -1.
int jinja_expr_name_find(const struct jinja_program *prog, const char *s, size_t len);

// --- rendering --------------------------------------------------------------------------------

struct jinja_var {
    int name;
    struct jinja_value value; // JINJA_ABSENT: not set (any more)
    struct jinja_var *next;
};
struct jinja_scope {
    struct jinja_scope *outer; // NULL: the globals
    struct jinja_var *vars;
};
// Where prints go: pieces of a captured text, or (J->capture NULL) the output.
struct jinja_capture {
    struct jinja_str **parts;
    size_t n, cap;
};

struct jinja {
    struct jinja_stop stop;
    const struct jinja_program *prog;
    struct arena *mem;
    int64_t fuel;
    int frames, calls, line;
    size_t str_max;              // bytes of one string and of the output
    struct jinja_value *globals; // by name index
    struct jinja_scope *scope;   // NULL: the globals
    struct jinja_capture *capture;
    struct jinja_value filtered; // text of the filter or set block under way
    struct jinja_value *stack;   // JINJA_STACK argument values
    int n_stack;
    struct template_output *out;
    int64_t now_s;
    struct jinja_walk { // the explicit stack of jinja_str_flat; malloced, the renderer frees it
        struct {
            const struct jinja_str *s;
            size_t at;
        } * frames;
        size_t cap;
    } walk;
};

_Noreturn void jinja_fail(struct jinja *J, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void jinja_fail_budget(struct jinja *J, const char *what);
void *jinja_take(struct jinja *J, size_t n, size_t size);
static inline void jinja_charge(struct jinja *J, size_t fuel)
{
    if (__builtin_expect((J->fuel -= (int64_t)fuel) < 0, 0)) jinja_fail_budget(J, "steps");
}
static inline void jinja_charge_bytes(struct jinja *J, size_t bytes)
{
    jinja_charge(J, bytes / JINJA_BYTES_PER_FUEL + 1);
}
static inline void jinja_enter(struct jinja *J)
{
    if (++J->frames > JINJA_FRAMES_MAX) jinja_fail_budget(J, "nesting");
}
static inline void jinja_leave(struct jinja *J)
{
    J->frames--;
}

// Strings.
struct jinja_str *jinja_str_new(struct jinja *J, const char *p, size_t len,
                                const struct jinja_marks *marks); // borrows p
struct jinja_str *jinja_str_cat(struct jinja *J, struct jinja_str *const *parts, size_t n);
const struct jinja_str *jinja_str_flat(struct jinja *J, struct jinja_str *s);
struct jinja_str *jinja_str_slice(struct jinja *J, struct jinja_str *s, size_t from, size_t to);
bool jinja_str_equal(struct jinja *J, struct jinja_str *a, struct jinja_str *b);
int jinja_str_order(struct jinja *J, struct jinja_str *a, struct jinja_str *b);
int64_t jinja_str_chars(struct jinja *J, struct jinja_str *s); // code points
// Byte offset of code point n (or the length); s is flat.
size_t jinja_str_offset(const struct jinja_str *s, int64_t n);
// First occurrence at or after `from`, or SIZE_MAX. Both become flat.
size_t jinja_str_find(struct jinja *J, struct jinja_str *s, struct jinja_str *what, size_t from);
// Bytes from `at` with the same mark: returns where they end. s is flat.
size_t jinja_str_run(const struct jinja_str *s, size_t at, bool *input);
// Writes s to the output.
void jinja_str_print(struct jinja *J, struct jinja_str *s);
bool jinja_str_is_space(int32_t c); // as Python's str.isspace
// The code point at p (valid UTF-8), and where the next begins.
const char *jinja_str_char(const char *p, int32_t *c);
bool jinja_str_is(struct jinja *J, struct jinja_str *s, const char *cstr);

// A string under construction, with its marks.
struct jinja_text {
    struct jinja *J;
    char *p;
    size_t len, cap;
    struct text_span *spans;
    size_t n_span, cap_span;
};
void jinja_str_add(struct jinja_text *t, const char *p, size_t len, bool input);
void jinja_str_add_c(struct jinja_text *t, const char *s); // a C string of ours
void jinja_str_add_str(struct jinja_text *t, struct jinja_str *s);
struct jinja_str *jinja_str_done(struct jinja_text *t);

// Values.
static inline struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.kind = JINJA_NONE};
}
static inline struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){.kind = JINJA_BOOL, .b = b};
}
static inline struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){.kind = JINJA_INT, .i = i};
}
static inline struct jinja_value jinja_real(double d)
{
    return (struct jinja_value){.kind = JINJA_REAL, .d = d};
}
static inline struct jinja_value jinja_of_str(struct jinja_str *s)
{
    return (struct jinja_value){.kind = JINJA_STR, .s = s};
}
static inline struct jinja_value jinja_undef(struct jinja_str *name)
{
    return (struct jinja_value){.kind = JINJA_UNDEF, .s = name};
}
static inline bool jinja_given(struct jinja_value v)
{
    return v.kind != JINJA_ABSENT;
}
const char *jinja_value_type(struct jinja_value v); // Python's name of the type
bool jinja_value_truth(struct jinja *J, struct jinja_value v);
bool jinja_value_equal(struct jinja *J, struct jinja_value a, struct jinja_value b);
// -1, 0, 1; fails on values without an order.
int jinja_value_order(struct jinja *J, struct jinja_value a, struct jinja_value b);
bool jinja_value_contains(struct jinja *J, struct jinja_value in, struct jinja_value what);
struct jinja_str *jinja_value_str(struct jinja *J, struct jinja_value v); // str(v)
void jinja_value_repr(struct jinja_text *t, struct jinja_value v);        // repr(v)
void jinja_value_real(char out[40], double d);                            // repr of a float
bool jinja_value_is_number(struct jinja_value v, double *d);              // bool, int, float
bool jinja_value_is_int(struct jinja_value v, int64_t *i);                // bool, int
struct jinja_value jinja_value_new_list(struct jinja *J, size_t n);
struct jinja_value jinja_value_new_tuple2(struct jinja *J, struct jinja_value a,
                                          struct jinja_value b);
struct jinja_value jinja_value_new_dict(struct jinja *J, size_t cap);
void jinja_value_put(struct jinja *J, struct jinja_dict *d, struct jinja_value key,
                     struct jinja_value value);
struct jinja_value *jinja_value_get(struct jinja *J, const struct jinja_dict *d,
                                    struct jinja_value key); // NULL
// What `for` may go over. Items of strings are characters, of mappings keys.
bool jinja_value_iterable(struct jinja_value v);
int64_t jinja_value_len(struct jinja *J, struct jinja_value v); // fails if it has none
struct jinja_value jinja_value_at(struct jinja *J, struct jinja_value v, int64_t i);
// v itself if its items are at hand, else a list of them (strings); fails if not iterable.
struct jinja_value jinja_value_seq(struct jinja *J, struct jinja_value v);
struct jinja_value jinja_value_item(struct jinja *J, struct jinja_value v, struct jinja_value key);
struct jinja_value jinja_value_attr(struct jinja *J, struct jinja_value v, struct jinja_str *name);
struct jinja_value jinja_value_of_json(struct jinja *J, const struct json *j);

// Expressions and statements.
struct jinja_value jinja_eval(struct jinja *J, const struct jinja_node *n);
struct jinja_value jinja_eval_add(struct jinja *J, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_eval_call(struct jinja *J, struct jinja_value fn,
                                   const struct jinja_args *args);
void jinja_run(struct jinja *J, const struct jinja_node *body);
struct jinja_value jinja_run_var(struct jinja *J, int name);
struct jinja_value jinja_run_macro(struct jinja *J, const struct jinja_macro *m,
                                   const struct jinja_args *args);

// Tables.
extern const struct jinja_builtin jinja_call_functions[];
extern const int jinja_call_n_functions;
struct jinja_value jinja_call(struct jinja *J, const struct jinja_builtin *fn,
                              struct jinja_value self, const struct jinja_args *args);
// By name in a table that ends with a NULL name; `on` 0: whatever the entry says.
const struct jinja_builtin *jinja_call_find(const struct jinja_builtin *table, const char *name,
                                            size_t len, unsigned on);
// An argument as an integer; `otherwise` if it was not given.
int64_t jinja_call_int(struct jinja *J, struct jinja_value v, int64_t otherwise);
// A value that must be a string.
struct jinja_str *jinja_call_str(struct jinja *J, struct jinja_value v);

// The method of a value of this kind, or NULL. `hidden`: Python has it, templates may not use it.
const struct jinja_builtin *jinja_method_find(enum jinja_kind kind, struct jinja_str *name,
                                              bool *hidden);
enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_WORDS, JINJA_CAPITAL };
struct jinja_str *jinja_method_case(struct jinja *J, struct jinja_str *s, enum jinja_case how);
jinja_fn jinja_method_strip, jinja_method_replace, jinja_method_items;
jinja_fn jinja_format, jinja_format_braces;

const struct jinja_builtin *jinja_filter_find(const char *name, size_t len);
extern const struct jinja_builtin jinja_seq_filters[]; // ends with a NULL name
const struct jinja_builtin *jinja_test_find(const char *name, size_t len);
jinja_fn jinja_json, jinja_json_read;
