#include "coordinator/text/vocab.h"
#include "proto/base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

// --- hashing ----------------------------------------------------------------------------------

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

// Whole words, then the last bytes once more as (part of) a word: no loop over single bytes.
static uint64_t hash_bytes(uint64_t seed, const char *s, size_t len)
{
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t h = seed ^ len * odd, word = 0;
    for (size_t i = 0; i + 8 < len; i += 8) {
        memcpy(&word, s + i, 8);
        h = fold(h ^ word, odd ^ seed);
    }
    if (len >= 8) {
        memcpy(&word, s + len - 8, 8);
    } else if (len >= 4) {
        uint32_t first, last;
        memcpy(&first, s, 4);
        memcpy(&last, s + len - 4, 4);
        word = (uint64_t)last << 32 | first;
    } else if (len > 0) {
        word = (uint32_t)(unsigned char)s[0] | (uint32_t)(unsigned char)s[len / 2] << 8 |
               (uint32_t)(unsigned char)s[len - 1] << 16;
    }
    return fold(h ^ word, 0xd6e8feb86659fd93u ^ seed);
}

int32_t vocab_find(const struct tokenizer *t, const char *s, size_t len)
{
    uint64_t h = hash_bytes(t->seed, s, len);
    uint32_t mask = t->n_slot - 1, tag = (uint32_t)(h >> 32);
    for (uint32_t i = (uint32_t)h & mask;; i = (i + 1) & mask) {
        const struct vocab_slot *slot = &t->slots[i];
        if (slot->id < 0) return -1;
        const struct vocab_token *tok = &t->tokens[slot->id];
        if (slot->tag == tag && tok->len == len && memcmp(t->blob + tok->at, s, len) == 0)
            return slot->id;
    }
}

static struct vocab_merge *merge_slot(const struct tokenizer *t, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t mask = t->n_merge_slot - 1;
    uint32_t i = (uint32_t)fold(pair ^ t->seed, 0x9e3779b97f4a7c15u) & mask;
    while (t->merges[i].pair != UINT64_MAX && t->merges[i].pair != pair)
        i = (i + 1) & mask;
    return &t->merges[i];
}

const struct vocab_merge *vocab_merge_find(const struct tokenizer *t, int32_t left, int32_t right)
{
    const struct vocab_merge *m = merge_slot(t, left, right);
    return m->pair == UINT64_MAX ? NULL : m;
}

static uint32_t table_size(uint64_t n)
{
    uint32_t size = 16;
    while (size < n * 2)
        size *= 2;
    return size;
}

// --- bytes ------------------------------------------------------------------------------------

// GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes are U+0100 to U+0143.
static int byte_of_letter(uint32_t c)
{
    static const unsigned char rest[] = {127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138,
                                         139, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149, 150,
                                         151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 173};
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 255 && c != 173)) return (int)c;
    if (c >= 256 && c < 256 + 33) return (int)c - 256;
    return c >= 289 && c < 289 + sizeof rest ? rest[c - 289] : -1;
}

// Decodes the text of a token in place of `out`; false if it uses other letters.
static bool decode_letters(const char *s, size_t len, char *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < len;) {
        const unsigned char *u = (const unsigned char *)s + i;
        size_t seq = utf8_len(s + i, len - i);
        if (seq == 0 || seq > 2) return false;
        int byte = byte_of_letter(seq == 1 ? u[0] : (u[0] & 31u) << 6 | (u[1] & 63u));
        if (byte < 0) return false;
        out[(*n)++] = (char)byte;
        i += seq;
    }
    return true;
}

// SPM: the mark U+2581 is a space, in pieces as in texts (spm.c).
static size_t decode_marks(const char *s, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        if (len - i >= 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = s[i++];
        }
    }
    return n;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

// "<0x0A>"
static int byte_of_name(const struct gguf_str *s)
{
    if (s->len != 6 || memcmp(s->s, "<0x", 3) != 0 || s->s[5] != '>') return -1;
    int hi = hex_digit(s->s[3]), lo = hex_digit(s->s[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

// --- loading ----------------------------------------------------------------------------------

struct load {
    const struct gguf *g;
    struct tokenizer *t;
    struct arena scratch;
    struct err_text *why;
    const struct gguf_str *tokens, *merges;
    uint64_t n_token, n_merge;
    const int32_t *types;
    const float *scores;
};

static err_t no_memory(struct load *l)
{
    return err_say(l->why, ERR_MEMORY, "tokenizer: out of memory");
}

// An array that may be absent, but must have an entry for each token.
static err_t check_count(struct load *l, const char *key, err_t err, uint64_t n)
{
    if (err == ERR_NOT_FOUND) return OK;
    if (err) return err;
    if (n == l->n_token) return OK;
    return err_say(l->why, ERR_MODEL, "%s: %llu entries for %llu tokens", key,
                   (unsigned long long)n, (unsigned long long)l->n_token);
}

static err_t read_arrays(struct load *l)
{
    static const char tokens[] = "tokenizer.ggml.tokens";
    static const char types[] = "tokenizer.ggml.token_type", scores[] = "tokenizer.ggml.scores";
    const struct gguf_kv *kv = gguf_find(l->g, tokens);
    uint64_t n = 0;
    if (!kv) return err_say(l->why, ERR_MODEL, "%s: missing", tokens);
    if (kv->n == 0 || kv->n > VOCAB_TOKENS_MAX)
        return err_say(l->why, ERR_MODEL, "%s: %llu tokens, 1 to %d are possible", tokens,
                       (unsigned long long)kv->n, VOCAB_TOKENS_MAX);
    err_t err = gguf_get_strs(l->g, tokens, &l->scratch, &l->tokens, &l->n_token, l->why);
    if (err) return err;
    l->t->n_token = (int32_t)l->n_token;
    err = gguf_get_i32s(l->g, types, &l->scratch, &l->types, &n, l->why);
    err = check_count(l, types, err, n);
    if (err) return err;
    err = gguf_get_f32s(l->g, scores, &l->scratch, &l->scores, &n, l->why);
    if (l->t->kind == VOCAB_SPM && err == ERR_NOT_FOUND)
        return err_say(l->why, ERR_MODEL, "%s: missing", scores);
    return check_count(l, scores, err, n);
}

// Bytes of token i into the blob. `plain`: made of the alphabet, so text can become it.
static err_t read_token(struct load *l, uint64_t i, size_t *at, bool *plain)
{
    const struct gguf_str *s = &l->tokens[i];
    struct vocab_token *tok = &l->t->tokens[i];
    int type = l->types ? l->types[i] : VOCAB_NORMAL, byte = byte_of_name(s);
    size_t n = s->len;
    if (s->len == 0 || s->len > VOCAB_PIECE_MAX)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.tokens: token %llu has %llu bytes",
                       (unsigned long long)i, (unsigned long long)s->len);
    if (type < 0 || type > VOCAB_BYTE)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.token_type: token %llu has type %d",
                       (unsigned long long)i, type);
    char *out = l->t->blob + *at;
    *tok = (struct vocab_token){.at = (uint32_t)*at, .type = (uint8_t)(type ? type : VOCAB_NORMAL)};
    *plain = tok->type == VOCAB_NORMAL;
    if (tok->type == VOCAB_BYTE && l->t->kind == VOCAB_SPM) {
        if (byte < 0)
            return err_say(l->why, ERR_MODEL,
                           "tokenizer.ggml.tokens: byte token %llu is not <0xNN>",
                           (unsigned long long)i);
        out[0] = (char)byte;
        n = 1;
        l->t->bytes[byte] = (int32_t)i;
    } else if (*plain && l->t->kind == VOCAB_SPM) {
        n = decode_marks(s->s, s->len, out);
    } else if (*plain && decode_letters(s->s, s->len, out, &n)) {
        if (n == 1) l->t->bytes[(unsigned char)out[0]] = (int32_t)i;
    } else {
        memcpy(out, s->s, n = s->len);
        *plain = false;
    }
    tok->len = (uint32_t)n;
    *at += n;
    return OK;
}

// Later tokens win over earlier ones with the same bytes.
static void insert(struct tokenizer *t, int32_t id)
{
    const struct vocab_token *tok = &t->tokens[id];
    uint64_t h = hash_bytes(t->seed, t->blob + tok->at, tok->len);
    uint32_t mask = t->n_slot - 1, tag = (uint32_t)(h >> 32), i = (uint32_t)h & mask;
    for (; t->slots[i].id >= 0; i = (i + 1) & mask) {
        const struct vocab_token *have = &t->tokens[t->slots[i].id];
        if (t->slots[i].tag == tag && have->len == tok->len &&
            memcmp(t->blob + have->at, t->blob + tok->at, tok->len) == 0)
            break;
    }
    t->slots[i] = (struct vocab_slot){tag, id};
    if (tok->len > t->piece_max) t->piece_max = tok->len;
}

static err_t read_tokens(struct load *l)
{
    struct tokenizer *t = l->t;
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < l->n_token; i++)
        bytes += l->tokens[i].len; // the file was no larger, so this cannot wrap
    if (bytes > UINT32_MAX)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.tokens: more than 4 GiB of text");
    t->n_slot = table_size(l->n_token);
    t->blob = arena_take(&t->mem, bytes + 1);
    t->tokens = arena_take_n(&t->mem, l->n_token, sizeof *t->tokens);
    t->slots = arena_take_n(&t->mem, t->n_slot, sizeof *t->slots);
    if (!t->blob || !t->tokens || !t->slots) return no_memory(l);
    memset(t->slots, 0xff, t->n_slot * sizeof *t->slots);
    memset(t->bytes, 0xff, sizeof t->bytes);
    size_t at = 0;
    for (uint64_t i = 0; i < l->n_token; i++) {
        bool plain = false;
        err_t err = read_token(l, i, &at, &plain);
        if (err) return err;
        if (plain) insert(t, (int32_t)i);
    }
    return OK;
}

static err_t read_merge(struct load *l, uint64_t i, char *text)
{
    struct tokenizer *t = l->t;
    const struct gguf_str *s = &l->merges[i];
    const char *gap = s->len > 2 ? memchr(s->s + 1, ' ', s->len - 1) : NULL;
    size_t n_left = 0, n_right = 0;
    if (!gap || s->len > 2 * VOCAB_PIECE_MAX)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.merges: merge %llu is not two pieces",
                       (unsigned long long)i);
    size_t split = (size_t)(gap - s->s);
    int32_t left = -1, right = -1, both = -1;
    if (decode_letters(s->s, split, text, &n_left) &&
        decode_letters(gap + 1, s->len - split - 1, text + n_left, &n_right)) {
        left = vocab_find(t, text, n_left);
        right = vocab_find(t, text + n_left, n_right);
        both = vocab_find(t, text, n_left + n_right);
    }
    if (left < 0 || right < 0 || both < 0)
        return err_say(l->why, ERR_MODEL,
                       "tokenizer.ggml.merges: merge %llu, '%.*s', has an unknown piece",
                       (unsigned long long)i, s->len > 60 ? 60 : (int)s->len, s->s);
    struct vocab_merge *m = merge_slot(t, left, right);
    if (m->pair != UINT64_MAX) return OK; // again: the first rank counts
    *m = (struct vocab_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, (int32_t)i, both};
    return OK;
}

static err_t read_merges(struct load *l)
{
    static const char key[] = "tokenizer.ggml.merges";
    struct tokenizer *t = l->t;
    const struct gguf_kv *kv = gguf_find(l->g, key);
    if (!kv) return err_say(l->why, ERR_MODEL, "%s: missing", key);
    if (kv->n > 4 * (uint64_t)VOCAB_TOKENS_MAX)
        return err_say(l->why, ERR_MODEL, "%s: too many", key);
    err_t err = gguf_get_strs(l->g, key, &l->scratch, &l->merges, &l->n_merge, l->why);
    if (err) return err;
    t->n_merge_slot = table_size(l->n_merge);
    t->n_rank = (uint32_t)l->n_merge;
    t->merges = arena_take_n(&t->mem, t->n_merge_slot, sizeof *t->merges);
    char *text = arena_take(&l->scratch, 2 * VOCAB_PIECE_MAX);
    if (!t->merges || !text) return no_memory(l);
    memset(t->merges, 0xff, t->n_merge_slot * sizeof *t->merges);
    for (uint64_t i = 0; !err && i < l->n_merge; i++)
        err = read_merge(l, i, text);
    return err;
}

// --- SPM: scores and the hash -----------------------------------------------------------------

static int by_score(const void *a, const void *b, void *scores)
{
    float x = ((const float *)scores)[*(const int32_t *)a];
    float y = ((const float *)scores)[*(const int32_t *)b];
    return (x < y) - (x > y); // best first
}

// Ranks are dense: tokens of one score share theirs, and then the leftmost pair wins.
static err_t rank_scores(struct load *l)
{
    struct tokenizer *t = l->t;
    int32_t *order = arena_take_n(&l->scratch, l->n_token, sizeof *order);
    if (!order) return no_memory(l);
    for (int32_t i = 0; i < t->n_token; i++) {
        order[i] = i;
        if (isnan(l->scores[i]))
            return err_say(l->why, ERR_MODEL, "tokenizer.ggml.scores: token %d is not a number", i);
    }
    qsort_r(order, l->n_token, sizeof *order, by_score, (void *)(uintptr_t)l->scores);
    for (int32_t i = 0; i < t->n_token; i++) {
        bool next = i > 0 && l->scores[order[i]] != l->scores[order[i - 1]];
        t->n_rank += next;
        t->tokens[order[i]].rank = t->n_rank;
    }
    t->n_rank++;
    return OK;
}

// Bytes without a token of their own become the unknown token. In BPE that may be missing too: some
// vocabularies lack the bytes that no UTF-8 contains, and encoding those is an error.
static err_t check_bytes(struct load *l)
{
    for (int i = 0; i < 256; i++) {
        if (l->t->bytes[i] < 0) l->t->bytes[i] = l->t->unk;
        if (l->t->bytes[i] < 0 && l->t->kind == VOCAB_SPM)
            return err_say(
                l->why, ERR_MODEL,
                "tokenizer.ggml.tokens: no token for byte 0x%02X and no unknown_token_id",
                (unsigned)i);
    }
    return OK;
}

// --- special tokens ---------------------------------------------------------------------------

static int32_t child_of(const struct tokenizer *t, int32_t node, uint8_t byte)
{
    if (node == 0) return t->first[byte];
    int32_t kid = t->nodes[node].child;
    while (kid && t->nodes[kid].byte != byte)
        kid = t->nodes[kid].sibling;
    return kid;
}

static void trie_add(struct tokenizer *t, int32_t id)
{
    const struct vocab_token *tok = &t->tokens[id];
    int32_t node = 0;
    for (uint32_t i = 0; i < tok->len; i++) {
        uint8_t byte = (uint8_t)t->blob[tok->at + i];
        int32_t kid = child_of(t, node, byte);
        if (!kid) {
            kid = t->n_node++;
            t->nodes[kid] = (struct vocab_node){.id = -1, .byte = byte};
            if (node == 0) {
                t->first[byte] = kid;
            } else {
                t->nodes[kid].sibling = t->nodes[node].child;
                t->nodes[node].child = kid;
            }
        }
        node = kid;
    }
    t->nodes[node].id = id;
}

static bool is_special(const struct vocab_token *tok)
{
    return tok->type == VOCAB_CONTROL || tok->type == VOCAB_UNKNOWN || tok->type == VOCAB_USER;
}

static err_t build_trie(struct load *l)
{
    struct tokenizer *t = l->t;
    uint64_t nodes = 1;
    for (int32_t i = 0; i < t->n_token; i++) {
        if (!is_special(&t->tokens[i])) continue;
        nodes += t->tokens[i].len;
        if (t->tokens[i].len > VOCAB_SPECIAL_MAX)
            return err_say(l->why, ERR_MODEL,
                           "tokenizer.ggml.tokens: special token %d is longer than %d bytes", i,
                           VOCAB_SPECIAL_MAX);
    }
    if (nodes > INT32_MAX / 2)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.tokens: too many special tokens");
    t->nodes = arena_take_n(&t->mem, nodes, sizeof *t->nodes);
    if (!t->nodes) return no_memory(l);
    t->nodes[0].id = -1;
    t->n_node = 1;
    for (int32_t i = 0; i < t->n_token; i++)
        if (is_special(&t->tokens[i])) trie_add(t, i);
    return OK;
}

int32_t vocab_special(const struct tokenizer *t, const char *s, size_t len, bool control,
                      size_t control_len, size_t *used)
{
    int32_t best = -1, node = 0;
    for (size_t i = 0; i < len; i++) {
        node = child_of(t, node, (uint8_t)s[i]);
        if (!node) break;
        int32_t id = t->nodes[node].id;
        if (id < 0) continue;
        if (t->tokens[id].type != VOCAB_USER && (!control || i + 1 > control_len)) continue;
        best = id;
        *used = i + 1;
    }
    return best;
}

// --- the rest of the metadata -----------------------------------------------------------------

static err_t read_id(struct load *l, const char *key, int32_t *out)
{
    uint32_t id;
    *out = -1;
    err_t err = gguf_get_u32(l->g, key, &id, l->why);
    if (err == ERR_NOT_FOUND) return OK;
    if (err) return err;
    if (id >= l->n_token)
        return err_say(l->why, ERR_MODEL, "%s: %u, but there are %llu tokens", key, id,
                       (unsigned long long)l->n_token);
    *out = (int32_t)id;
    return OK;
}

static err_t read_bool(struct load *l, const char *key, bool *out)
{
    err_t err = gguf_get_bool(l->g, key, out, l->why);
    return err == ERR_NOT_FOUND ? OK : err;
}

static bool spelled(const struct tokenizer *t, int32_t id, const char *s)
{
    const struct vocab_token *tok = &t->tokens[id];
    return tok->len == strlen(s) && memcmp(t->blob + tok->at, s, tok->len) == 0;
}

// Control tokens (some files call them user-defined) that end a turn whatever the metadata says.
static void find_ends(struct tokenizer *t)
{
    static const char *const ends[] = {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<turn|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|EOT|>",
        "<EOT>",
        "_<EOT>",
        "<eos>",
        "</s>",
        "[EOS]",
        "[EOT]",
        "<|eos|>",
        "<end_of_utterance>",
        "<|end_of_turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
    };
    bool harmony = false;
    for (int32_t i = 0; i < t->n_token; i++) {
        struct vocab_token *tok = &t->tokens[i];
        if (!is_special(tok)) continue;
        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++)
            tok->ends |= spelled(t, i, ends[k]);
        harmony |= spelled(t, i, "<|return|>");
    }
    // With gpt-oss, <|end|> ends a message of a turn, not the turn.
    for (int32_t i = 0; harmony && i < t->n_token; i++)
        if (t->tokens[i].ends && spelled(t, i, "<|end|>")) t->tokens[i].ends = false;
}

static err_t read_metadata(struct load *l)
{
    struct tokenizer *t = l->t;
    int32_t eot, eom;
    err_t err = read_id(l, "tokenizer.ggml.bos_token_id", &t->bos);
    if (!err) err = read_id(l, "tokenizer.ggml.eos_token_id", &t->eos);
    if (!err) err = read_id(l, "tokenizer.ggml.unknown_token_id", &t->unk);
    if (!err) err = read_id(l, "tokenizer.ggml.eot_token_id", &eot);
    if (!err) err = read_id(l, "tokenizer.ggml.eom_token_id", &eom);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_bos_token", &t->add_bos);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_eos_token", &t->add_eos);
    if (!err) err = read_bool(l, "tokenizer.ggml.add_space_prefix", &t->add_space);
    if (err) return err;
    if (t->add_bos && t->bos < 0 && gguf_find(l->g, "tokenizer.ggml.add_bos_token"))
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.bos_token_id: missing, but wanted");
    if (t->add_eos && t->eos < 0)
        return err_say(l->why, ERR_MODEL, "tokenizer.ggml.eos_token_id: missing, but wanted");
    find_ends(t);
    if (t->eos >= 0) t->tokens[t->eos].ends = true;
    if (eot >= 0) t->tokens[eot].ends = true;
    if (eom >= 0) t->tokens[eom].ends = true;
    return OK;
}

err_t vocab_load(const struct gguf *g, struct tokenizer *t, struct err_text *why)
{
    struct load l = {.g = g, .t = t, .why = why};
    arena_init(&l.scratch, 0);
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != sizeof t->seed)
        t->seed = (uint64_t)(uintptr_t)t * 0x9e3779b97f4a7c15u;
    err_t err = read_arrays(&l);
    if (!err) err = read_tokens(&l);
    if (!err) err = t->kind == VOCAB_BPE ? read_merges(&l) : rank_scores(&l);
    if (!err) err = read_metadata(&l);
    if (!err) err = check_bytes(&l);
    if (!err) err = build_trie(&l);
    arena_fini(&l.scratch);
    return err;
}
