// from_json: what the two halves of the tokenizer.json loader share.
#pragma once
#include "coordinator/text/scan.h"
#include "coordinator/text/vocab.h"

struct json_load {
    struct tokenizer *t;
    const struct sidecar *config; // may be NULL
    struct err_text *why;
    struct scan scan;
    struct arena mem; // gone when the tokenizer is open
    // Texts of the file's parts; s NULL: not there.
    struct scan_str model, added, norm, pre, post, decoder;
    struct scan_str type, vocab, merges, unk_token, unk_id, byte_fallback, fuse_unk, ignore_merges;
    struct scan_str subword_prefix, word_suffix;
    bool by_letters;               // bytes are spelled in letters (ByteLevel)
    bool shows_marks, shows_bytes; // decoder: U+2581 is a space, <0xNN> a byte
    struct vocab_piece *pieces;
    int32_t n; // ids
    size_t n_entry, n_added;
    struct sidecar_token *tokens; // added ones
};

// normalizer, pre_tokenizer, decoder -> t->norm, t->pre and the flags above. ERR_MODEL names a kind
// of step that there is no equal for.
err_t json_steps(struct json_load *l);
// post_processor -> what stands before and after a text. After the vocabulary is there.
err_t json_frame(struct json_load *l);
// The bytes of base64 text, into len bytes at most; false if it is none. Padding may lack.
bool json_base64(const char *s, size_t len, char *out, size_t *n);
