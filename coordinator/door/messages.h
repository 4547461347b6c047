// messages: the conversation as callers send it -> the tree that chat templates expect.
//   developer -> system, function -> tool
//   content: text parts are joined without a separator (they are pieces of one text); null and
//   absent become ""
//   reasoning_content and reasoning (callers differ) -> both names, equal text
//   tool_calls[].function.arguments: an object if the text is one, else the text as it is
#pragma once
#include "coordinator/door/refusal.h"
#include "proto/base/json.h"

enum { MESSAGES_MAX = 10000 };

// Everything new lies in `arena`; the result may point into `messages`. ERR_INVALID naming
// messages[i]....
err_t messages_read(const struct json *messages, struct arena *arena, const struct json **out,
                    struct refusal *no);
// Index of the first user or assistant message whose role equals its predecessor's; -1: none.
int messages_repeat(const struct json *messages);
