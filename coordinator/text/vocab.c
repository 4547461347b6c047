#include "coordinator/text/vocab.h"
#include "proto/base/hex.h"
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

uint32_t vocab_letter(uint8_t byte)
{
    if (byte < 33) return 256u + byte;
    if (byte >= 127 && byte <= 160) return 289u + (byte - 127u);
    return byte == 173 ? 323 : byte;
}

bool vocab_letters(const char *s, size_t len, char *out, size_t *n)
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

size_t vocab_marks(const char *s, size_t len, char *out)
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

int vocab_byte_name(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    uint8_t byte;
    return hex_read(s + 3, 1, &byte) ? byte : -1;
}

// --- building ---------------------------------------------------------------------------------

static err_t no_memory(struct err_text *why)
{
    return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
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

static bool same(const struct vocab_piece *p)
{
    return p->len == p->n_shown && (p->s == p->shown || memcmp(p->s, p->shown, p->len) == 0);
}

static err_t check_piece(const struct vocab_piece *p, int32_t id, const char *where,
                         struct err_text *why)
{
    if (p->type == 0) return OK;
    if (p->n_shown == 0 || p->len > VOCAB_PIECE_MAX || p->n_shown > VOCAB_PIECE_MAX)
        return err_say(why, ERR_MODEL, "%s: token %d has %u bytes", where, id, p->n_shown);
    return OK;
}

static bool is_special(uint8_t type)
{
    return type == VOCAB_CONTROL || type == VOCAB_UNKNOWN || type == VOCAB_USER;
}

// --- tries ---

int32_t vocab_child(const struct vocab_trie *t, int32_t node, uint8_t byte)
{
    if (node == 0) return t->first[byte];
    int32_t kid = t->nodes[node].child;
    while (kid && t->nodes[kid].byte != byte)
        kid = t->nodes[kid].sibling;
    return kid;
}

static bool trie_room(struct tokenizer *t, struct vocab_trie *trie, uint64_t n_byte)
{
    if (n_byte > INT32_MAX / 2) return false;
    trie->nodes = arena_take_n(&t->mem, n_byte + 1, sizeof *trie->nodes);
    if (!trie->nodes) return false;
    trie->nodes[0].id = -1;
    trie->n_node = 1;
    return true;
}

static void trie_add(struct tokenizer *t, struct vocab_trie *trie, int32_t id)
{
    const struct vocab_token *tok = &t->tokens[id];
    int32_t node = 0;
    for (uint32_t i = 0; i < tok->len; i++) {
        uint8_t byte = (uint8_t)t->blob[tok->at + i];
        int32_t kid = vocab_child(trie, node, byte);
        if (!kid) {
            kid = trie->n_node++;
            trie->nodes[kid] = (struct vocab_node){.id = -1, .byte = byte};
            if (node == 0) {
                trie->first[byte] = kid;
            } else {
                trie->nodes[kid].sibling = trie->nodes[node].child;
                trie->nodes[node].child = kid;
            }
        }
        node = kid;
    }
    trie->nodes[node].id = id;
}

static err_t build_tries(struct tokenizer *t, const char *where, struct err_text *why)
{
    uint64_t n_byte[2] = {0, 0};
    for (int32_t i = 0; i < t->n_token; i++) {
        const struct vocab_token *tok = &t->tokens[i];
        if (!is_special(tok->type)) continue;
        if (tok->len > VOCAB_SPECIAL_MAX)
            return err_say(why, ERR_MODEL, "%s: special token %d is longer than %d bytes", where, i,
                           VOCAB_SPECIAL_MAX);
        n_byte[(tok->flags & VOCAB_NORMALIZED) != 0] += tok->len;
    }
    if (!trie_room(t, &t->special, n_byte[0]) || !trie_room(t, &t->normalized, n_byte[1]))
        return err_say(why, ERR_MODEL, "%s: too many special tokens", where);
    for (int32_t i = 0; i < t->n_token; i++) {
        const struct vocab_token *tok = &t->tokens[i];
        if (is_special(tok->type) && tok->len > 0)
            trie_add(t, tok->flags & VOCAB_NORMALIZED ? &t->normalized : &t->special, i);
    }
    return OK;
}

static void copy_piece(struct tokenizer *t, int32_t id, const struct vocab_piece *p, uint32_t *at)
{
    struct vocab_token *tok = &t->tokens[id];
    *tok = (struct vocab_token){.at = *at,
                                .len = p->len,
                                .shown = *at,
                                .n_shown = p->n_shown,
                                .type = p->type ? p->type : VOCAB_UNUSED,
                                .flags = p->flags};
    if (p->len) memcpy(t->blob + *at, p->s, p->len);
    *at += p->len;
    if (same(p)) return;
    tok->shown = *at;
    if (p->n_shown) memcpy(t->blob + *at, p->shown, p->n_shown);
    *at += p->n_shown;
}

// A model may have fewer ids than its tokenizer: placeholders of pictures, which it never sees.
static err_t cut_to_model(const struct tokenizer *t, const struct vocab_piece *pieces, int32_t *n,
                          const char *where, struct err_text *why)
{
    if (t->n_max == 0 || *n <= t->n_max) return OK;
    for (int32_t i = t->n_max; i < *n; i++)
        if (pieces[i].type != 0 && !is_special(pieces[i].type))
            return err_say(why, ERR_MODEL, "%s: token %d, but the model has %d", where, i,
                           t->n_max);
    *n = t->n_max;
    return OK;
}

err_t vocab_build(struct tokenizer *t, const struct vocab_piece *pieces, int32_t n,
                  const char *where, struct err_text *why)
{
    uint64_t bytes = 0;
    uint32_t at = 0;
    err_t err = cut_to_model(t, pieces, &n, where, why);
    if (err) return err;
    if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != sizeof t->seed)
        t->seed = (uint64_t)(uintptr_t)t * 0x9e3779b97f4a7c15u;
    for (int32_t i = 0; i < n; i++) {
        err = check_piece(&pieces[i], i, where, why);
        if (err) return err;
        bytes += pieces[i].len + (same(&pieces[i]) ? 0 : pieces[i].n_shown);
    }
    if (bytes > UINT32_MAX) return err_say(why, ERR_MODEL, "%s: more than 4 GiB of tokens", where);
    t->n_token = n;
    t->n_slot = table_size((uint64_t)n);
    t->blob = arena_take(&t->mem, bytes + 1);
    t->tokens = arena_take_n(&t->mem, (size_t)n, sizeof *t->tokens);
    t->slots = arena_take_n(&t->mem, t->n_slot, sizeof *t->slots);
    if (!t->blob || !t->tokens || !t->slots) return no_memory(why);
    memset(t->slots, 0xff, t->n_slot * sizeof *t->slots);
    for (int32_t i = 0; i < n; i++) {
        copy_piece(t, i, &pieces[i], &at);
        if (pieces[i].flags & VOCAB_FIND && pieces[i].len) insert(t, i);
    }
    return build_tries(t, where, why);
}

// --- merges and scores ------------------------------------------------------------------------

bool vocab_merges_room(struct tokenizer *t, uint64_t n)
{
    if (n > INT32_MAX / 4) return false;
    t->n_merge_slot = table_size(n);
    t->n_rank = (uint32_t)n;
    t->merges = arena_take_n(&t->mem, t->n_merge_slot, sizeof *t->merges);
    if (t->merges) memset(t->merges, 0xff, t->n_merge_slot * sizeof *t->merges);
    return t->merges != NULL;
}

void vocab_merge_add(struct tokenizer *t, int32_t left, int32_t right, int32_t both, int32_t rank)
{
    struct vocab_merge *m = merge_slot(t, left, right);
    if (m->pair != UINT64_MAX) return; // again: the first rank counts
    *m = (struct vocab_merge){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, both};
}

static uint64_t each_cut(struct tokenizer *t, int32_t id, int32_t rank, bool add)
{
    const struct vocab_token *tok = &t->tokens[id];
    const char *s = t->blob + tok->at;
    uint64_t n = 0;
    for (uint32_t cut = 1; cut < tok->len; cut++) {
        int32_t left = vocab_find(t, s, cut);
        int32_t right = left < 0 ? -1 : vocab_find(t, s + cut, tok->len - cut);
        if (right < 0) continue;
        n++;
        if (add) vocab_merge_add(t, left, right, id, rank);
    }
    return n;
}

err_t vocab_merges_by_rank(struct tokenizer *t, const int32_t *rank_of, struct err_text *why)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < t->n_token; i++)
        if (rank_of[i] >= 0) n += each_cut(t, i, 0, false);
    if (!vocab_merges_room(t, n)) return no_memory(why);
    t->n_rank = (uint32_t)t->n_token;
    for (int32_t i = 0; i < t->n_token; i++)
        if (rank_of[i] >= 0) each_cut(t, i, rank_of[i], true);
    return OK;
}

static int by_score(const void *a, const void *b, void *pieces)
{
    double x = ((const struct vocab_piece *)pieces)[*(const int32_t *)a].score;
    double y = ((const struct vocab_piece *)pieces)[*(const int32_t *)b].score;
    return (x < y) - (x > y); // best first
}

// Ranks are dense: tokens of one score share theirs, and then the leftmost pair wins.
static err_t rank_scores(struct tokenizer *t, const struct vocab_piece *pieces,
                         struct err_text *why)
{
    int32_t *order = malloc((size_t)t->n_token * sizeof *order);
    if (!order) return no_memory(why);
    for (int32_t i = 0; i < t->n_token; i++)
        order[i] = i;
    qsort_r(order, (size_t)t->n_token, sizeof *order, by_score, (void *)(uintptr_t)pieces);
    for (int32_t i = 0; i < t->n_token; i++) {
        t->n_rank += i > 0 && pieces[order[i]].score != pieces[order[i - 1]].score;
        t->tokens[order[i]].rank = t->n_rank;
    }
    t->n_rank++;
    free(order);
    return OK;
}

// SentencePiece's unigram_model: unknown characters cost 10 more than the worst piece; a user's own
// symbol is better than anything of its length that is made of pieces.
static err_t keep_scores(struct tokenizer *t, const struct vocab_piece *pieces,
                         struct err_text *why)
{
    uint64_t n_byte = 0;
    double least = INFINITY, most = -INFINITY;
    t->scores = arena_take_n(&t->mem, (size_t)t->n_token, sizeof *t->scores);
    for (int32_t i = 0; i < t->n_token; i++) {
        if (!(pieces[i].flags & VOCAB_FIND)) continue;
        n_byte += pieces[i].len;
        if (pieces[i].type != VOCAB_NORMAL) continue;
        least = fmin(least, pieces[i].score);
        most = fmax(most, pieces[i].score);
    }
    if (!t->scores || !trie_room(t, &t->pieces, n_byte)) return no_memory(why);
    for (int32_t i = 0; i < t->n_token; i++) {
        t->scores[i] = pieces[i].score;
        if (pieces[i].type == VOCAB_USER) t->scores[i] = pieces[i].len * most - 0.1;
        if (pieces[i].flags & VOCAB_FIND && pieces[i].len) trie_add(t, &t->pieces, i);
    }
    t->unk_score = (isfinite(least) ? least : 0) - 10;
    return OK;
}

err_t vocab_scores(struct tokenizer *t, const struct vocab_piece *pieces, const char *where,
                   struct err_text *why)
{
    for (int32_t i = 0; i < t->n_token; i++)
        if (isnan(pieces[i].score) || (t->kind == VOCAB_UNIGRAM && isinf(pieces[i].score)))
            return err_say(why, ERR_MODEL, "%s: token %d is not a number", where, i);
    return t->kind == VOCAB_UNIGRAM ? keep_scores(t, pieces, why) : rank_scores(t, pieces, why);
}

// --- spellings --------------------------------------------------------------------------------

static bool spelled(const struct tokenizer *t, int32_t id, const char *s, size_t len)
{
    const struct vocab_token *tok = &t->tokens[id];
    return tok->n_shown == len && memcmp(t->blob + tok->shown, s, len) == 0;
}

int32_t vocab_spelled(const struct tokenizer *t, const char *s, size_t len)
{
    int32_t found = -1;
    for (int32_t i = 0; i < t->n_token; i++)
        if (spelled(t, i, s, len) && (found < 0 || is_special(t->tokens[i].type))) found = i;
    return found;
}

// Control tokens (some files call them user-defined) that end a turn whatever the metadata says.
void vocab_find_ends(struct tokenizer *t)
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
        if (!is_special(tok->type)) continue;
        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++)
            tok->ends |= spelled(t, i, ends[k], strlen(ends[k]));
        harmony |= spelled(t, i, "<|return|>", 10);
    }
    // With gpt-oss, <|end|> ends a message of a turn, not the turn.
    for (int32_t i = 0; harmony && i < t->n_token; i++)
        if (t->tokens[i].ends && spelled(t, i, "<|end|>", 7)) t->tokens[i].ends = false;
}
