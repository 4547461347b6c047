// turn: what a model writes in its turn -> typed events: text, reasoning, tool calls. The way calls
// and thoughts are written is a row of data per family (turn_formats); the parser takes text as it
// comes and gives each event as soon as it is certain, so arguments stream. The same text cut
// anywhere gives the same events, joined.
//
// What does not parse is text again, as it was written, and counted; nothing here fails. A call
// whose name is known by then stays a call with the arguments the model wrote, so that the caller
// can tell the model. Work is linear in the text; what is held back is bounded.
#pragma once
#include "proto/base/buf.h"
#include "proto/base/json.h"

// How a call's name is written.
enum turn_name {
    TURN_NAME_IN_JSON, // {"name": .., "arguments": ..}, also a list of these
    TURN_NAME_UNTIL,   // after name_open, until name_close
    TURN_NAME_PYTHON,  // [name(key=value, ..), ..]
    TURN_NAME_HEADER,  // in a message's header (harmony)
};
// How its arguments are.
enum turn_arguments {
    TURN_ARGS_JSON,
    TURN_ARGS_TAGS,   // one tag per argument, its value as text
    TURN_ARGS_BRACES, // {key:value, ..} with strings between marks of their own (Gemma)
};

struct turn_format {
    const char *name;
    const char *think_open, *think_close; // NULL: has no thoughts of this kind
    const char *open, *close;             // around all calls; NULL: nothing is
    const char *call_open, *call_close;   // around each call; NULL: nothing is
    enum turn_name name_kind;
    const char *name_open;  // between call_open and the name, or NULL
    const char *name_close; // ends the name
    const char *args_open;  // between name and arguments, or NULL: what stands before is skipped
    enum turn_arguments args;
    const char *key_open, *key_close, *value_open, *value_close; // TURN_ARGS_TAGS
    bool value_lines;         // values stand on lines of their own
    bool bare;                // the whole answer may be a call, without any mark
    bool short_ids;           // its templates take call ids of nine letters and digits only
    const char *const *signs; // a template that spells all of these uses this format
};

extern const struct turn_format turn_formats[];
extern const size_t turn_n_format;
// By name, or NULL.
const struct turn_format *turn_format_named(const char *name);
// The format that a chat template asks of the model; one without calls (but perhaps with thoughts)
// if it spells none that we know.
const struct turn_format *turn_format_of(const char *source, size_t len);
bool turn_format_has_calls(const struct turn_format *f);
// True if the format writes this control token as one of its marks: its spelling matters.
bool turn_format_marks(const struct turn_format *f, const char *spelling, size_t len);

// True if the end of a prompt opens the thoughts and does not close them.
bool turn_is_thinking(const struct turn_format *f, const char *prompt, size_t len);

enum turn_kind {
    TURN_TEXT,
    TURN_REASONING,
    TURN_CALL,      // a call begins: s is the function's name
    TURN_ARGUMENTS, // more of its arguments, which joined are JSON
    TURN_CALL_END,
};
struct turn_event {
    enum turn_kind kind;
    uint32_t call; // of the call's events: 0, 1, ..
    const char *s; // borrowed during the call
    size_t len;
};
typedef void turn_sink(void *arg, const struct turn_event *e);

struct turn_config {
    const struct turn_format *format;
    // Functions that may be called, as OpenAI lists them; NULL: what looks like a call is text.
    const struct json *tools;
    // What the template wrote after the last message: it may have opened the thoughts already.
    const char *prompt;
    size_t prompt_len;
    turn_sink *sink;
    void *arg;
};

enum turn_state {
    TURN_IN_TEXT,
    TURN_IN_THINK,
    TURN_IN_HEADER,   // harmony: between <|start|> and <|message|>
    TURN_BEFORE_CALL, // inside the mark around all calls
    TURN_IN_OBJECT,   // {"name": .., "arguments": ..}
    TURN_IN_NAME,
    TURN_BEFORE_ARGS,
    TURN_IN_ARGS,
    TURN_IN_VALUE, // of one argument between tags
    TURN_AFTER_ARGS,
};

// One JSON value on its way, byte by byte: where does it end?
struct turn_value {
    int32_t depth;
    char quote;      // of the string we are in, or 0
    bool has_quotes; // strings may stand in single quotes too
    bool is_escaped, is_word, is_begun, is_over;
};

struct turn {
    struct turn_config config;
    enum turn_state state;
    struct buf held; // [at, len) is not understood yet
    size_t at;
    struct buf raw;   // the call as written, until its name is known
    struct buf space; // white space that may turn out to stand before a call
    struct buf given; // arguments of the call so far
    struct buf word;  // a key, a name, or a value that is needed whole
    struct buf early; // arguments that came before the name
    struct turn_value value;
    int member;                    // of an object: which one is being read
    int expect;                    // and what comes next
    const struct json *properties; // of the function that is being called
    const struct json *schema;     // of the value that is being read, or NULL
    bool is_string;                // that one is a string by its schema
    bool is_named, in_list, in_section;
    bool is_fresh; // nothing but white space yet: the whole answer may be a call
    bool had_text, had_reasoning, after_think, is_ending;
    uint32_t n_call;
    uint32_t n_garbled; // what began like a call and was none, or has arguments that are not JSON
};

// `format`, `tools` outlive the turn; `prompt` is read here only.
void turn_init(struct turn *t, const struct turn_config *c);
void turn_fini(struct turn *t);
// Valid UTF-8, cut at characters. ERR_MEMORY.
err_t turn_push(struct turn *t, const char *s, size_t len);
// The model has ended its turn, or was cut off: gives what is held.
err_t turn_end(struct turn *t);
