// recall: token histories of late, to say why a conversation had to be computed again: where a new
// prompt parts from the history that it should go on with, and by which token. Only for who asks
// for it: the line shows pieces of prompts.
//
// Any thread may call.
#pragma once
#include "coordinator/schedule/request.h"
#include "coordinator/text/tokenizer.h"
#include "proto/base/buf.h"

struct recall;

enum { RECALL_HISTORIES = 64, RECALL_TOKENS_MAX = 1 << 20 };

struct recall_miss {
    char id[48];      // of the request whose history it was
    uint32_t at;      // tokens that are the same
    uint32_t n_known; // of that history
    int32_t was, is;  // the first that differ
};

// NULL: no memory.
struct recall *recall_new(void);
void recall_free(struct recall *r); // NULL is fine
// The history of the request's first choice, as it is now.
void recall_keep(struct recall *r, const struct request *req);
// The history that the prompt goes on with for the longest: of the same conversation, or where none
// is named, of which most of the prompt is there. True: it parts from it before its end.
bool recall_look(struct recall *r, const struct request *req, struct recall_miss *out);
// In words: "parts from .. at token 12 of 345: \"a\" then, \"b\" now".
void recall_say(const struct recall_miss *m, const struct tokenizer *t, struct buf *out);
