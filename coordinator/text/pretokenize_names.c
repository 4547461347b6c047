// The steps that tokenizer.ggml.pre names stand for: one or more patterns; what lies between
// matches is a word too. The patterns are those of the models' own tokenizer.json files (and of
// llama.cpp's src/llama-vocab.cpp for names that only exist there).
#include "coordinator/text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

enum { PATTERNS_MAX = 6 };

// White space of Unicode. PCRE2's own \s has U+180E besides, the models' tokenizers have not.
#define S "\\t-\\r\\x{85}\\p{Z}"
#define TAILS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "[" S "]*[\\r\\n]+|[" S "]+(?![^" S "])|[" S "]+"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define OTHER " ?[^" S "\\p{L}\\p{N}]+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" OTHER "|[" S "]+(?![^" S "])"
#define LLAMA3(digits) TAILS "|" LEAD "\\p{L}+|\\p{N}" digits "|" OTHER "[\\r\\n]*|" SPACES
#define QWEN35                                                                                     \
    TAILS "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" S "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES
// Words that begin with capitals, then words of capitals.
#define CASED(tails, digits)                                                                       \
    LEAD UPPER "*" LOWER "+" tails "|" LEAD UPPER "+" LOWER "*" tails "|\\p{N}" digits "|" OTHER   \
               "[\\r\\n/]*|" SPACES
#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                       \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
#define CJK_WORDS "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
// The cased letters of the Unicode version that deepseek-llm was made with.
#define CASED_LETTERS                                                                              \
    "\\x{41}-\\x{5a}\\x{61}-\\x{7a}\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}"          \
    "\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}-\\x{377}"        \
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"                  \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"      \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                 \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                 \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"        \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"         \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                 \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                  \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"        \
    "\\x{214e}\\x{2183}-\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"        \
    "\\x{2cf2}-\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                 \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"         \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define BLOOM " ?[^(" S "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

enum {
    DEFAULT,
    GPT_2,
    DIGITS,
    LLAMA_3,
    QWEN_2,
    QWEN_35,
    CODER,
    DEEPSEEK_3,
    FALCON,
    BLOOM_1,
    VIKING,
    TEKKEN,
    GPT_4O,
    SEED,
    DEEPSEEK_LLM,
    BAILING
};

static const char *const patterns[][PATTERNS_MAX + 1] = {
    [DEFAULT] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"},
    [GPT_2] = {GPT2},
    [DIGITS] = {"\\p{N}", GPT2},
    [LLAMA_3] = {LLAMA3("{1,3}")},
    [QWEN_2] = {LLAMA3("")},
    [QWEN_35] = {QWEN35},
    [CODER] = {"[\\r\\n]", "[" S "]?\\p{L}+", "[" S "]?\\p{P}+", CJK_WORDS, "\\p{N}"},
    [DEEPSEEK_3] = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
                    DEEPSEEK3},
    [FALCON] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"},
    [BLOOM_1] = {BLOOM},
    [VIKING] = {BLOOM, "\\p{N}"},
    [TEKKEN] = {CASED("", "")},
    [GPT_4O] = {CASED(TAILS "?", "{1,3}")},
    [DEEPSEEK_LLM] =
        {"[\\r\\n]", "[" S "]?[" CASED_LETTERS "]+",
         "[" S
         "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
         // From the beginning of a run only: else a long run would be tried from each of its ends.
         "(?:\\G|(?<![" S "]))[" S "]+$", CJK_WORDS, "\\p{N}+"},
    [BAILING] = {"'(?i:[sdmt]|ll|ve|re)|" LEAD "+\\p{L}+|\\p{N}|" OTHER "+[\\r\\n]*|[" S
                 "]*[\\r\\n]|[" S "]+(?![^" S "])|[" S "]+"},
    [SEED] = {TAILS "|" LEAD "\\p{L}+|\\p{N}| ?[^" S "\\p{L}\\p{N}\\r\\n]+|" SPACES},
};

// ignore_merges: a word that is a token needs no merges. add_bos: unless the file says otherwise.
static const struct {
    const char *name;
    int patterns;
    bool ignore_merges, add_bos;
} names[] = {
    {"default", DEFAULT, false, false},
    {"gpt-2", GPT_2, false, false},
    {"phi-2", GPT_2, false, false},
    {"mpt", GPT_2, false, false},
    {"olmo", GPT_2, false, false},
    {"jais", GPT_2, false, false},
    {"trillion", GPT_2, false, false},
    {"granite-docling", GPT_2, false, false},
    {"exaone4", GPT_2, false, false},
    {"gigachat", GPT_2, false, false},
    {"mellum", GPT_2, false, false},
    {"a.x-4.0", GPT_2, false, false},
    {"jina-es", GPT_2, false, false},
    {"jina-de", GPT_2, false, false},
    {"jina-v2-es", GPT_2, false, false},
    {"jina-v2-de", GPT_2, false, false},
    {"starcoder", DIGITS, false, false},
    {"refact", DIGITS, false, false},
    {"command-r", DIGITS, false, false},
    {"smollm", DIGITS, false, false},
    {"codeshell", DIGITS, false, false},
    {"exaone", DIGITS, false, false},
    {"minerva-7b", DIGITS, false, false},
    {"mellum2", DIGITS, false, false},
    {"llama3", LLAMA_3, true, true},
    {"llama-v3", LLAMA_3, true, true},
    {"llama-bpe", LLAMA_3, true, true},
    {"falcon3", LLAMA_3, true, true},
    {"falcon-h1", LLAMA_3, true, true},
    {"pixtral", LLAMA_3, true, true},
    {"midm-2.0", LLAMA_3, true, true},
    {"lfm2", LLAMA_3, true, true},
    {"dbrx", LLAMA_3, false, false},
    {"smaug-bpe", LLAMA_3, false, false},
    {"glm4", LLAMA_3, false, false},
    {"chatglm-bpe", LLAMA_3, false, false},
    {"qwen2", QWEN_2, false, false},
    {"deepseek-r1-qwen", QWEN_2, false, false},
    {"kormo", QWEN_2, false, false},
    {"megrez", QWEN_2, false, false},
    {"stablelm2", QWEN_2, false, false},
    {"hunyuan", QWEN_2, false, false},
    {"solar-open", QWEN_2, false, false},
    {"grok-2", QWEN_2, false, false},
    {"qwen35", QWEN_35, false, false},
    {"deepseek-coder", CODER, false, false},
    {"deepseek-llm", DEEPSEEK_LLM, false, false},
    {"bailingmoe", BAILING, false, false},
    {"bailingmoe2", BAILING, false, false},
    {"llada-moe", BAILING, false, false},
    {"deepseek-v3", DEEPSEEK_3, false, false},
    {"hunyuan-dense", DEEPSEEK_3, false, false},
    {"joyai-llm", DEEPSEEK_3, false, false},
    {"falcon", FALCON, false, false},
    {"bloom", BLOOM_1, false, false},
    {"poro-chat", BLOOM_1, false, false},
    {"gpt3-finnish", BLOOM_1, false, false},
    {"viking", VIKING, false, false},
    {"tekken", TEKKEN, true, true},
    {"gpt-4o", GPT_4O, false, false},
    {"llama4", GPT_4O, false, false},
    {"minimax-m2", GPT_4O, false, false},
    {"seed-coder", SEED, false, false},
};

err_t pretokenize_open(const char *name, size_t len, struct pretokenize **out, bool *ignore_merges,
                       bool *add_bos, struct err_text *why)
{
    size_t i = 0, n = sizeof names / sizeof *names;
    while (i < n && (strlen(names[i].name) != len || memcmp(names[i].name, name, len) != 0))
        i++;
    if (i == n)
        return err_say(why, ERR_MODEL, "tokenizer.ggml.pre: unknown pre-tokenizer '%.*s'",
                       len > 60 ? 60 : (int)len, name);
    struct pretokenize *p = calloc(1, sizeof *p);
    if (!p) return err_say(why, ERR_MEMORY, "tokenizer: out of memory");
    const char *const *list = patterns[names[i].patterns];
    for (int k = 0; k < PATTERNS_MAX && list[k]; k++) {
        struct pretokenize_step s = {.kind = PRETOKENIZE_SPLIT};
        err_t err = regex_open(list[k], strlen(list[k]), REGEX_PCRE, &s.pattern, why);
        if (err) {
            pretokenize_close(p);
            return err;
        }
        pretokenize_add(p, &s);
    }
    *ignore_merges = names[i].ignore_merges;
    *add_bos = names[i].add_bos;
    *out = p;
    return OK;
}

err_t pretokenize_gpt2(struct regex **out, struct err_text *why)
{
    return regex_open(GPT2, strlen(GPT2), REGEX_PCRE, out, why);
}
