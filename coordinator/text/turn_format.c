#include "coordinator/text/turn.h"

#include <string.h>

// The first row whose signs a template spells is its format: the more particular come first.
// Sources: the models' own chat templates and, for harmony, OpenAI's description of that format.
#define SIGNS(...)                                                                                 \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }
const struct turn_format turn_formats[] = {
    {
        .name = "harmony",
        .call_close = "<|call|>",
        .name_kind = TURN_NAME_HEADER,
        .signs = SIGNS("<|channel|>", "<|message|>"),
    },
    {
        .name = "gemma",
        .think_open = "<|channel>thought\n",
        .think_close = "<channel|>",
        .call_open = "<|tool_call>",
        .call_close = "<tool_call|>",
        .name_kind = TURN_NAME_UNTIL,
        .name_open = "call:",
        .name_close = "{",
        .args = TURN_ARGS_BRACES,
        .signs = SIGNS("<|tool_call>", "<tool_call|>"),
    },
    {
        .name = "deepseek-v3",
        .think_open = "<think>",
        .think_close = "</think>",
        .open = "<｜tool▁calls▁begin｜>",
        .close = "<｜tool▁calls▁end｜>",
        .call_open = "<｜tool▁call▁begin｜>",
        .call_close = "<｜tool▁call▁end｜>",
        .name_kind = TURN_NAME_UNTIL,
        .name_open = "function<｜tool▁sep｜>",
        .name_close = "\n",
        .args_open = "```json\n",
        .signs = SIGNS("<｜tool▁calls▁begin｜>", "```json"),
    },
    {
        .name = "deepseek-v3.1",
        .think_open = "<think>",
        .think_close = "</think>",
        .open = "<｜tool▁calls▁begin｜>",
        .close = "<｜tool▁calls▁end｜>",
        .call_open = "<｜tool▁call▁begin｜>",
        .call_close = "<｜tool▁call▁end｜>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = "<｜tool▁sep｜>",
        .signs = SIGNS("<｜tool▁calls▁begin｜>"),
    },
    {
        .name = "minimax",
        .think_open = "<think>",
        .think_close = "</think>",
        .open = "<minimax:tool_call>",
        .close = "</minimax:tool_call>",
        .call_open = "<invoke name=\"",
        .call_close = "</invoke>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = "\">",
        .args = TURN_ARGS_TAGS,
        .key_open = "<parameter name=\"",
        .key_close = "\">",
        .value_close = "</parameter>",
        .signs = SIGNS("<minimax:tool_call>"),
    },
    {
        .name = "kimi",
        .think_open = "<think>",
        .think_close = "</think>",
        .open = "<|tool_calls_section_begin|>",
        .close = "<|tool_calls_section_end|>",
        .call_open = "<|tool_call_begin|>",
        .call_close = "<|tool_call_end|>",
        .name_kind = TURN_NAME_UNTIL,
        .name_open = "functions.",
        .name_close = ":", // and the call's number
        .args_open = "0<|tool_call_argument_begin|>",
        .signs = SIGNS("<|tool_call_argument_begin|>"),
    },
    {
        .name = "seed",
        .think_open = "<seed:think>",
        .think_close = "</seed:think>",
        .open = "<seed:tool_call>",
        .close = "</seed:tool_call>",
        .call_open = "<function=",
        .call_close = "</function>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = ">",
        .args = TURN_ARGS_TAGS,
        .key_open = "<parameter=",
        .key_close = ">",
        .value_close = "</parameter>",
        .signs = SIGNS("<seed:tool_call>"),
    },
    {
        .name = "glm",
        .think_open = "<think>",
        .think_close = "</think>",
        .call_open = "<tool_call>",
        .call_close = "</tool_call>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = "\n",
        .args = TURN_ARGS_TAGS,
        .key_open = "<arg_key>",
        .key_close = "</arg_key>",
        .value_open = "<arg_value>",
        .value_close = "</arg_value>",
        .signs = SIGNS("<arg_key>", "<arg_value>"),
    },
    {
        .name = "qwen-xml",
        .think_open = "<think>",
        .think_close = "</think>",
        .open = "<tool_call>",
        .close = "</tool_call>",
        .call_open = "<function=",
        .call_close = "</function>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = ">",
        .args = TURN_ARGS_TAGS,
        .key_open = "<parameter=",
        .key_close = ">",
        .value_close = "</parameter>",
        .value_lines = true,
        .signs = SIGNS("<function=", "<parameter="),
    },
    {
        .name = "functionary",
        .call_open = "<function=",
        .call_close = "</function>",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = ">",
        .signs = SIGNS("<{start_tag}={function_name}>"),
    },
    {
        .name = "tool-calls",
        .think_open = "<think>",
        .think_close = "</think>",
        .call_open = "<tool_calls>",
        .call_close = "</tool_calls>",
        .name_kind = TURN_NAME_IN_JSON,
        .signs = SIGNS("<tool_calls>["),
    },
    {
        .name = "nemotron",
        .think_open = "<think>",
        .think_close = "</think>",
        .call_open = "<TOOLCALL>",
        .call_close = "</TOOLCALL>",
        .name_kind = TURN_NAME_IN_JSON,
        .signs = SIGNS("<TOOLCALL>"),
    },
    {
        .name = "granite",
        .call_open = "<|tool_call|>",
        .name_kind = TURN_NAME_IN_JSON,
        .signs = SIGNS("<|tool_call|>"),
    },
    {
        .name = "firefunction",
        .call_open = "functools",
        .name_kind = TURN_NAME_IN_JSON,
        .signs = SIGNS("functools[{"),
    },
    {
        .name = "lfm2",
        .call_open = "<|tool_call_start|>",
        .call_close = "<|tool_call_end|>",
        .name_kind = TURN_NAME_PYTHON,
        .signs = SIGNS("<|tool_list_start|>"),
    },
    {
        .name = "lfm2.5",
        .think_open = "<think>",
        .think_close = "</think>",
        .call_open = "<|tool_call_start|>",
        .call_close = "<|tool_call_end|>",
        .name_kind = TURN_NAME_PYTHON,
        .signs = SIGNS("<|tool_call_start|>"),
    },
    {
        .name = "hermes",
        .think_open = "<think>",
        .think_close = "</think>",
        .call_open = "<tool_call>",
        .call_close = "</tool_call>",
        .name_kind = TURN_NAME_IN_JSON,
        .signs = SIGNS("<tool_call>"),
    },
    {
        .name = "mistral",
        .think_open = "[THINK]",
        .think_close = "[/THINK]",
        .call_open = "[TOOL_CALLS]",
        .name_kind = TURN_NAME_UNTIL,
        .name_close = "[ARGS]",
        .short_ids = true,
        .signs = SIGNS("[TOOL_CALLS]", "[ARGS]"),
    },
    {
        .name = "mistral-list",
        .think_open = "[THINK]",
        .think_close = "[/THINK]",
        .call_open = "[TOOL_CALLS]",
        .name_kind = TURN_NAME_IN_JSON,
        .short_ids = true,
        .signs = SIGNS("[TOOL_CALLS]"),
    },
    {
        .name = "pythonic",
        .call_open = "<|python_start|>",
        .call_close = "<|python_end|>",
        .name_kind = TURN_NAME_PYTHON,
        .bare = true,
        .signs = SIGNS("func_name1(params_name1"),
    },
    {
        .name = "llama3",
        .call_open = "<|python_tag|>",
        .name_kind = TURN_NAME_IN_JSON,
        .bare = true,
        .signs = SIGNS("{\"name\": function name, \"parameters\""),
    },
    {
        .name = "none",
        .think_open = "<think>",
        .think_close = "</think>",
        .signs = SIGNS(""),
    },
};
const size_t turn_n_format = sizeof turn_formats / sizeof *turn_formats;

const struct turn_format *turn_format_named(const char *name)
{
    for (size_t i = 0; i < turn_n_format; i++)
        if (!strcmp(turn_formats[i].name, name)) return &turn_formats[i];
    return NULL;
}

static bool spells_all(const char *source, size_t len, const char *const *signs)
{
    for (; *signs; signs++)
        if (!memmem(source, len, *signs, strlen(*signs))) return false;
    return true;
}

const struct turn_format *turn_format_of(const char *source, size_t len)
{
    const struct turn_format *f = turn_formats;
    while (!spells_all(source, len, f->signs))
        f++; // the last one has no signs that could be missing
    return f;
}

bool turn_format_has_calls(const struct turn_format *f)
{
    return f->call_open || f->call_close;
}

bool turn_format_marks(const struct turn_format *f, const char *spelling, size_t len)
{
    static const char *const harmony[] = {"<|start|>",     "<|channel|>", "<|message|>",
                                          "<|constrain|>", "<|end|>",     "<|return|>",
                                          "<|call|>"};
    if (f->name_kind == TURN_NAME_HEADER) {
        for (size_t i = 0; i < sizeof harmony / sizeof *harmony; i++)
            if (strlen(harmony[i]) == len && !memcmp(harmony[i], spelling, len)) return true;
        return false;
    }
    const char *const marks[] = {f->think_open, f->think_close, f->open,       f->close,
                                 f->call_open,  f->call_close,  f->name_open,  f->name_close,
                                 f->args_open,  f->key_open,    f->value_open, f->value_close,
                                 "[CALL_ID]",   "<|\"|>"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (marks[i] && memmem(marks[i], strlen(marks[i]), spelling, len)) return true;
    return false;
}
