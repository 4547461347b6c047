// rules: what the choices of a request may draw next, by their histories alone (request_rules):
// tokens that the answer's grammar lets through, and the end of the thoughts where they have used
// their budget.
//
// Beside both: ids that are allowed at all, and none that ends the answer before it has its least
// number of tokens; where the grammar wants nothing else, it ends all the same.
//
// Thoughts are counted as usage counts them. When `budget` tokens of them are there, what closes
// them is forced, token by token; harmony's analysis is closed with its message, and the next
// channel is another one. Between the parts of the answer rows are chained, so thoughts that begin
// anew there get one token more.
#pragma once
#include "coordinator/schedule/request.h"
#include "coordinator/text/grammar.h"
#include "coordinator/text/turn.h"

struct rules_want {
    const struct tokenizer *tokenizer;
    struct grammar *grammar; // NULL: any text
    bool tight_start;        // struct grammar
    int64_t budget;          // tokens of thoughts; -1: any number
    uint32_t min_tokens;
    const struct json *allowed; // ids; NULL: all. Only looked at here
    // With a budget: of the turn (struct turn_config).
    const struct turn_format *format;
    const struct json *tools;
    const char *tail;
    size_t tail_len;
};

// Makes the choices of r follow the rules; without any, nothing. What `w` points to must live until
// the last answer of r has come. False: no memory.
bool rules_request(struct request *r, const struct rules_want *w);
