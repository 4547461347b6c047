#include "topology/pattern.h"

#include <ctype.h>
#include <string.h>

enum { PROGRAM_MAX = 1024, GROUPS_DEEP_MAX = 16, LOOKS_DEEP_MAX = 3, SETS_MAX = 64 };

enum op {
    OP_CHAR,
    OP_ANY,
    OP_SET,
    OP_SPLIT, // to a and to b
    OP_JUMP,  // to a
    OP_BEGIN,
    OP_END,
    OP_WORD_EDGE,
    OP_LOOK,     // what begins at the next instruction matches here; then on at a
    OP_LOOK_NOT, // ... does not match
    OP_MATCH
};

// Jumps are relative, so that pieces of program can be moved and copied.
struct inst {
    uint8_t op, c; // c: the character, or the number of the set
    int16_t a, b;
};

struct set {
    uint32_t bits[8];
};

struct pattern {
    struct inst *code;
    struct set *sets;
    const char *literal; // is in every text that matches: most texts are told by it
    bool anywhere;
};

// ---- compiling

struct compiler {
    const char *text, *at;
    struct inst code[PROGRAM_MAX];
    int n, n_set, deep, looks_deep;
    struct set sets[SETS_MAX];
    struct err_text *why;
};

static err_t refuse(const struct compiler *c, const char *what)
{
    return err_say(c->why, ERR_INVALID, "pattern '%.60s': %s at character %d", c->text, what,
                   (int)(c->at - c->text) + 1);
}

static err_t insert(struct compiler *c, int at, int n)
{
    if (c->n + n > PROGRAM_MAX) return refuse(c, "it is too long");
    memmove(c->code + at + n, c->code + at, (size_t)(c->n - at) * sizeof *c->code);
    c->n += n;
    return OK;
}

static err_t emit(struct compiler *c, struct inst i)
{
    err_t e = insert(c, c->n, 1);
    if (!e) c->code[c->n - 1] = i;
    return e;
}

static err_t insert_inst(struct compiler *c, int at, struct inst i)
{
    err_t e = insert(c, at, 1);
    if (!e) c->code[at] = i;
    return e;
}

static void set_add(struct set *s, int from, int to)
{
    for (int i = from; i <= to; i++)
        s->bits[i / 32] |= 1u << i % 32;
}

static bool set_has(const struct set *s, uint8_t c)
{
    return s->bits[c / 32] >> c % 32 & 1;
}

// \d \w \s and their opposites; false if c is none of them.
static bool set_class(struct set *s, char c)
{
    struct set class = {{0}};
    switch (c | 0x20) {
    case 'd':
        set_add(&class, '0', '9');
        break;
    case 'w':
        set_add(&class, '0', '9');
        set_add(&class, 'a', 'z');
        set_add(&class, 'A', 'Z');
        set_add(&class, '_', '_');
        break;
    case 's':
        set_add(&class, '\t', '\r');
        set_add(&class, ' ', ' ');
        break;
    default:
        return false;
    }
    for (int i = 0; i < 8; i++)
        s->bits[i] |= c & 0x20 ? class.bits[i] : ~class.bits[i];
    return true;
}

static err_t emit_set(struct compiler *c, const struct set *s)
{
    if (c->n_set == SETS_MAX) return refuse(c, "too many classes");
    c->sets[c->n_set] = *s;
    return emit(c, (struct inst){.op = OP_SET, .c = (uint8_t)c->n_set++});
}

// The character after a backslash that stands for itself or for a control character.
static err_t escaped(struct compiler *c, uint8_t *out)
{
    const char *const which = *c->at ? strchr("ntrfv", *c->at) : NULL;
    if (!*c->at) return refuse(c, "nothing follows the backslash");
    if (which)
        *out = (uint8_t) "\n\t\r\f\v"[which - "ntrfv"];
    else if (isalnum((unsigned char)*c->at))
        return refuse(c, "an escape that is not supported");
    else
        *out = (uint8_t)*c->at;
    c->at++;
    return OK;
}

static err_t class_char(struct compiler *c, uint8_t *out)
{
    if (!*c->at) return refuse(c, "the class does not end");
    if (*c->at != '\\') {
        *out = (uint8_t)*c->at++;
        return OK;
    }
    c->at++;
    return escaped(c, out);
}

static err_t parse_class(struct compiler *c)
{
    struct set s = {{0}};
    const bool negative = *c->at == '^';
    c->at += negative;
    for (bool first = true; first || *c->at != ']'; first = false) {
        uint8_t from, to;
        if (c->at[0] == '\\' && set_class(&s, c->at[1])) {
            c->at += 2;
            continue;
        }
        err_t e = class_char(c, &from);
        if (e) return e;
        to = from;
        if (c->at[0] == '-' && c->at[1] && c->at[1] != ']') {
            c->at++;
            if ((e = class_char(c, &to))) return e;
        }
        if (to < from) return refuse(c, "a range that runs backwards");
        set_add(&s, from, to);
    }
    c->at++;
    for (int i = 0; negative && i < 8; i++)
        s.bits[i] = ~s.bits[i];
    return emit_set(c, &s);
}

static err_t parse_alternatives(struct compiler *c);

// After "(".
static err_t parse_group(struct compiler *c)
{
    const int start = c->n;
    bool look = false;
    err_t e = OK;
    if (c->deep == GROUPS_DEEP_MAX) return refuse(c, "groups are nested too deep");
    if (*c->at == '?') {
        look = c->at[1] == '=' || c->at[1] == '!';
        if (!look && c->at[1] != ':') return refuse(c, "a kind of group that is not supported");
        if (look && c->looks_deep == LOOKS_DEEP_MAX) return refuse(c, "looks are nested too deep");
        if (look) e = emit(c, (struct inst){.op = c->at[1] == '=' ? OP_LOOK : OP_LOOK_NOT});
        c->at += 2;
    }
    c->deep++;
    c->looks_deep += look;
    if (!e) e = parse_alternatives(c);
    c->deep--;
    c->looks_deep -= look;
    if (!e && *c->at != ')') e = refuse(c, "a group does not end");
    if (e) return e;
    c->at++;
    if (!look) return OK;
    e = emit(c, (struct inst){.op = OP_MATCH});
    c->code[start].a = (int16_t)(c->n - start);
    return e;
}

static err_t parse_escape(struct compiler *c)
{
    struct set s = {{0}};
    struct inst i = {.op = OP_CHAR};
    if (set_class(&s, *c->at)) {
        c->at++;
        return emit_set(c, &s);
    }
    if (*c->at == 'b' || *c->at == 'A' || *c->at == 'Z') {
        i.op = *c->at == 'b' ? OP_WORD_EDGE : *c->at == 'A' ? OP_BEGIN : OP_END;
        c->at++;
        return emit(c, i);
    }
    err_t e = escaped(c, &i.c);
    return e ? e : emit(c, i);
}

static err_t parse_atom(struct compiler *c)
{
    const char at = *c->at++;
    switch (at) {
    case '(':
        return parse_group(c);
    case '[':
        return parse_class(c);
    case '\\':
        return parse_escape(c);
    case '.':
        return emit(c, (struct inst){.op = OP_ANY});
    case '^':
        return emit(c, (struct inst){.op = OP_BEGIN});
    case '$':
        return emit(c, (struct inst){.op = OP_END});
    case '*':
    case '+':
    case '?':
        c->at--;
        return refuse(c, "nothing to repeat");
    default:
        return emit(c, (struct inst){.op = OP_CHAR, .c = (uint8_t)at});
    }
}

// "{2}", "{2,}", "{,3}", "{2,3}"; anything else is text, as in Python. *max -1: no end.
static bool parse_counts(struct compiler *c, int *min, int *max)
{
    const char *p = c->at + 1;
    int v[2] = {0, -1}, n = 0;
    for (; n < 2; n++) {
        if (isdigit((unsigned char)*p)) v[n] = 0;
        for (; isdigit((unsigned char)*p) && v[n] <= PROGRAM_MAX; p++)
            v[n] = v[n] * 10 + (*p - '0');
        if (n == 0 && *p == '}') {
            v[1] = v[0];
            break;
        }
        if (n == 0 && *p++ != ',') return false;
    }
    if (*p != '}' || p == c->at + 1) return false;
    *min = v[0];
    *max = v[1];
    c->at = p + 1;
    return true;
}

static err_t copy_piece(struct compiler *c, const struct inst *piece, int len)
{
    err_t e = insert(c, c->n, len);
    if (!e) memcpy(c->code + c->n - len, piece, (size_t)len * sizeof *piece);
    return e;
}

// The atom that begins at `start`, min to max times.
static err_t repeat(struct compiler *c, int start, int min, int max)
{
    struct inst piece[PROGRAM_MAX];
    const int len = c->n - start;
    err_t e = OK;
    if (max >= 0 && max < min) return refuse(c, "a count that runs backwards");
    if (len == 0) return OK;
    memcpy(piece, c->code + start, (size_t)len * sizeof *piece);
    c->n = start;
    for (int i = 0; !e && i < min; i++)
        e = copy_piece(c, piece, len);
    if (!e && max < 0) {
        const int from = c->n;
        e = copy_piece(c, piece, len);
        if (!e)
            e = insert_inst(c, from,
                            (struct inst){.op = OP_SPLIT, .a = 1, .b = (int16_t)(len + 2)});
        if (!e) e = emit(c, (struct inst){.op = OP_JUMP, .a = (int16_t) - (len + 1)});
    }
    for (int i = min; !e && i < max; i++) { // each may be left out, and with it those after it
        const int b = (max - i) * (len + 1);
        if (b > PROGRAM_MAX) return refuse(c, "it is too long");
        e = emit(c, (struct inst){.op = OP_SPLIT, .a = 1, .b = (int16_t)b});
        if (!e) e = copy_piece(c, piece, len);
    }
    return e;
}

static err_t parse_sequence(struct compiler *c)
{
    while (*c->at && *c->at != '|' && *c->at != ')') {
        const int start = c->n;
        int min = 0, max = -1;
        err_t e = parse_atom(c);
        if (e) return e;
        if (*c->at == '*' || *c->at == '+' || *c->at == '?') {
            min = *c->at == '+';
            max = *c->at == '?' ? 1 : -1;
            c->at++;
        } else if (*c->at != '{' || !parse_counts(c, &min, &max)) {
            continue;
        }
        if (*c->at == '?') c->at++; // the shortest match is a match too
        if (*c->at == '*' || *c->at == '+') return refuse(c, "repeated repetition");
        if ((e = repeat(c, start, min, max))) return e;
    }
    return OK;
}

static err_t parse_alternatives(struct compiler *c)
{
    int start = c->n, jumps[GROUPS_DEEP_MAX * 16], n_jump = 0;
    for (;;) {
        err_t e = parse_sequence(c);
        if (e) return e;
        if (*c->at != '|') break;
        c->at++;
        if (n_jump == GROUPS_DEEP_MAX * 16) return refuse(c, "too many alternatives");
        const int len = c->n - start;
        e = insert_inst(c, start, (struct inst){.op = OP_SPLIT, .a = 1, .b = (int16_t)(len + 2)});
        if (!e) e = emit(c, (struct inst){.op = OP_JUMP});
        if (e) return e;
        jumps[n_jump++] = c->n - 1;
        start = c->n;
    }
    for (int i = 0; i < n_jump; i++)
        c->code[jumps[i]].a = (int16_t)(c->n - jumps[i]);
    return OK;
}

// The longest run of characters that no jump leads around.
static const char *literal_of(const struct compiler *c, struct arena *a)
{
    bool around[PROGRAM_MAX] = {false};
    int from = 0, len = 0, best = 0, best_len = 0;
    for (int i = 0; i < c->n; i++) {
        const struct inst *at = &c->code[i];
        const int to = at->op == OP_SPLIT                                                ? at->b
                       : at->op == OP_JUMP || at->op == OP_LOOK || at->op == OP_LOOK_NOT ? at->a
                                                                                         : 0;
        for (int k = i + 1; k < i + to; k++)
            around[k] = true;
    }
    for (int i = 0; i < c->n; i++) {
        const bool fixed = c->code[i].op == OP_CHAR && !around[i];
        if (!fixed) len = 0;
        if (fixed && len++ == 0) from = i;
        if (len <= best_len) continue;
        best = from;
        best_len = len;
    }
    char *text = arena_take(a, (size_t)best_len + 1);
    for (int i = 0; text && i < best_len; i++)
        text[i] = (char)c->code[best + i].c;
    return text;
}

err_t pattern_compile(const char *text, bool anywhere, struct arena *a, struct pattern **out,
                      struct err_text *why)
{
    struct compiler c = {.text = text, .at = text, .why = why};
    err_t e = parse_alternatives(&c);
    if (!e && *c.at) e = refuse(&c, "a group ends that never began");
    if (!e) e = emit(&c, (struct inst){.op = OP_MATCH});
    if (e) return e;
    struct pattern *p = arena_take(a, sizeof *p);
    struct inst *code = arena_copy(a, c.code, (size_t)c.n * sizeof *c.code);
    struct set *sets = arena_copy(a, c.sets, (size_t)c.n_set * sizeof *c.sets);
    const char *literal = literal_of(&c, a);
    if (!p || !code || !sets || !literal)
        return err_say(why, ERR_MEMORY, "no memory for a pattern");
    *p = (struct pattern){.code = code, .sets = sets, .literal = literal, .anywhere = anywhere};
    *out = p;
    return OK;
}

// ---- matching

struct run {
    const struct pattern *p;
    const char *text;
    size_t len;
    uint64_t *budget;
};

static bool is_word(const struct run *r, size_t at)
{
    return at < r->len && (isalnum((unsigned char)r->text[at]) || r->text[at] == '_');
}

static bool matches(const struct run *r, int from, size_t at, bool anywhere);

// Whether an instruction that takes no character lets us pass; *next is where to.
static bool passes(const struct run *r, int pc, size_t at, int *next)
{
    const struct inst *i = &r->p->code[pc];
    *next = pc + 1;
    switch (i->op) {
    case OP_BEGIN:
        return at == 0;
    case OP_END:
        return at == r->len;
    case OP_WORD_EDGE:
        return (at > 0 && is_word(r, at - 1)) != is_word(r, at);
    default: // the two looks
        *next = pc + i->a;
        return matches(r, pc + 1, at, false) == (i->op == OP_LOOK);
    }
}

static bool takes(const struct run *r, const struct inst *i, uint8_t c)
{
    return i->op == OP_CHAR  ? i->c == c
           : i->op == OP_ANY ? c != '\n'
                             : set_has(&r->p->sets[i->c], c);
}

struct threads {
    int16_t pc[PROGRAM_MAX];
    int n;
};

// Adds `pc` and all that can be reached from it without taking a character; true at the end of the
// pattern. seen[] holds at + 1 where an instruction was reached already.
static bool reach(const struct run *r, int pc, size_t at, struct threads *t, uint32_t *seen)
{
    int16_t stack[PROGRAM_MAX + 2]; // every instruction pushes its successors once
    int n = 0, next;
    stack[n++] = (int16_t)pc;
    while (n) {
        pc = stack[--n];
        if (seen[pc] == at + 1 || *r->budget == 0) continue;
        seen[pc] = (uint32_t)at + 1;
        --*r->budget;
        const struct inst *i = &r->p->code[pc];
        switch (i->op) {
        case OP_MATCH:
            return true;
        case OP_CHAR:
        case OP_ANY:
        case OP_SET:
            t->pc[t->n++] = (int16_t)pc;
            break;
        case OP_SPLIT:
            stack[n++] = (int16_t)(pc + i->b);
            stack[n++] = (int16_t)(pc + i->a);
            break;
        case OP_JUMP:
            stack[n++] = (int16_t)(pc + i->a);
            break;
        default:
            if (passes(r, pc, at, &next)) stack[n++] = (int16_t)next;
        }
    }
    return false;
}

static bool matches(const struct run *r, int from, size_t at, bool anywhere)
{
    struct threads lists[2], *now = &lists[0], *next = &lists[1];
    uint32_t seen[PROGRAM_MAX] = {0};
    now->n = 0;
    if (reach(r, from, at, now, seen)) return true;
    for (; at < r->len && (now->n || anywhere) && *r->budget; at++) {
        next->n = 0;
        for (int i = 0; i < now->n; i++) {
            const int pc = now->pc[i];
            if (takes(r, &r->p->code[pc], (uint8_t)r->text[at]) &&
                reach(r, pc + 1, at + 1, next, seen))
                return true;
        }
        if (anywhere && reach(r, from, at + 1, next, seen)) return true;
        struct threads *swap = now;
        now = next;
        next = swap;
    }
    return false;
}

bool pattern_match(const struct pattern *p, const char *text, uint64_t *budget)
{
    const struct run r = {.p = p, .text = text, .len = strlen(text), .budget = budget};
    if (!strstr(text, p->literal)) return false;
    return matches(&r, 0, 0, p->anywhere) && *budget;
}
