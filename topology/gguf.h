// gguf: reads the header of a GGUF v2/v3 file (https://github.com/ggml-org/ggml/blob/master/docs/
// gguf.md): key/value metadata and the tensor table. Weight bytes are only sampled, for the hash.
//
// Everything is validated before anything is allocated for it; the header is read (not mapped), so
// a file that shrinks under us is an error and not a SIGBUS. Keys are found in O(1), a header of
// 100k tensors opens in well under 0.5 s. Refused are headers over 256 MiB, strings over 16 MiB,
// arrays of arrays or of over 2^24 elements, names that are empty, twice there, with control bytes,
// or (of tensors) over 64 bytes, and, as GGML does, tensors that do not lie directly one after
// another in the order of the table.
#pragma once
#include "proto/base/arena.h"
#include "proto/base/dtype.h"

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_str {
    const char *s; // valid UTF-8; no NUL after it in general
    uint64_t len;
};

struct gguf_kv {
    struct gguf_str key;
    enum gguf_type type;
    enum gguf_type elem; // of arrays
    uint64_t n;          // elements of an array, else 1
    const uint8_t *data; // little-endian payload (of strings: u64 length, bytes, ...)
};

struct gguf_tensor {
    struct gguf_str name;
    enum dtype dtype; // DT_NONE: a GGML type this build does not compute; ggml_type says which
    uint32_t ggml_type;
    int32_t n_dim;    // 1..4
    int64_t shape[4]; // outermost first: (rows, cols) of a matrix; GGUF stores it reversed
    uint64_t offset;  // from the beginning of the file
    uint64_t bytes;   // 0 when dtype is DT_NONE
};

struct gguf;

enum { GGUF_SAMPLES = 64 }; // of the weights, for the hash

// ERR_MODEL with "path: ..." in why; ERR_SYSTEM if the file cannot be read.
err_t gguf_open(const char *path, struct gguf **out, struct err_text *why);
void gguf_close(struct gguf *g);

const char *gguf_path(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g);
uint64_t gguf_header_bytes(const struct gguf *g); // all but the weights and the room before them
// SHA-256 of the header, the file size and samples of the weights: names a model's content cheaply.
const uint8_t *gguf_hash(const struct gguf *g); // 32 bytes
uint64_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); // NULL
uint64_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint64_t i);
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); // NULL if absent

// Typed reads. ERR_NOT_FOUND if absent (why untouched); ERR_MODEL naming file, key, found type if
// it is there with a type that cannot hold the value. Any integer type is taken where the value
// fits.
err_t gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out, struct err_text *why);
err_t gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err_text *why);
err_t gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err_text *why);
err_t gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *out,
                   struct err_text *why);
// Arrays, converted into the arena.
err_t gguf_get_strs(const struct gguf *g, const char *key, struct arena *a,
                    const struct gguf_str **out, uint64_t *n, struct err_text *why);
err_t gguf_get_f32s(const struct gguf *g, const char *key, struct arena *a, const float **out,
                    uint64_t *n, struct err_text *why);
err_t gguf_get_i32s(const struct gguf *g, const char *key, struct arena *a, const int32_t **out,
                    uint64_t *n, struct err_text *why);
