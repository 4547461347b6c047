// The input is a template; it is rendered with a fixed conversation. With a zero byte in it, what
// follows the zero is JSON for the variables.
#include "coordinator/text/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\"be "
    "<|short|>\"},{\"role\":\"user\",\"content\":\"h\xc3\xa9llo\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":[1.5,true,null,\"x\"]}}}]},"
    "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"ok\"}]}]";

static void check_spans(const struct template_output *o)
{
    size_t at = 0;
    for (size_t i = 0; i < o->n_plain; i++) {
        if (o->plain[i].from < at || o->plain[i].to <= o->plain[i].from) abort();
        at = o->plain[i].to;
    }
    if (at > o->text.len) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct template *t = NULL;
    struct template_output out = {0};
    struct err_text why;
    struct arena a;
    const struct json *messages, *vars = NULL;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - data) : size;
    if (template_open((const char *)data, len, &t, &why) != OK) return 0;
    arena_init(&a, 1 << 22);
    if (json_read(conversation, sizeof conversation - 1, &a, &messages, NULL, &why) != OK) abort();
    if (zero && json_read((const char *)zero + 1, size - len - 1, &a, &vars, NULL, &why) != OK)
        vars = NULL;
    if (vars && vars->kind != J_OBJ) vars = NULL;
    struct template_input in = {.messages = messages,
                                .tools = messages,
                                .kwargs = vars,
                                .bos_token = "<s>",
                                .eos_token = "</s>",
                                .now_s = 1753533296,
                                .add_generation_prompt = true};
    if (template_render(t, &in, &out, &why) == OK) check_spans(&out);
    template_output_fini(&out);
    template_close(t);
    arena_fini(&a);
    return 0;
}
