// tensors: the table of all tensors of a model, whatever container they come in, and the few facts
// that stand beside them. Read from headers only; weight bytes are sampled for the hash.
//
//   FILE.gguf                      one file
//   STEM-00002-of-00005.gguf       any piece of a split file opens all (gguf-split); the first
//                                  piece's metadata counts
//   FOLDER/                        Hugging Face: config.json and model.safetensors, or
//                                  model.safetensors.index.json and what it names, or the only
//                                  *.safetensors
//
// 100k tensors open in under 0.5 s and are found by name in O(1). Everything is checked before
// memory is taken for it; tensors lie inside their files. Symbolic links are followed (caches of
// the hub are made of them) to regular files only. Immutable after open: any thread may read.
#pragma once
#include "proto/base/json.h"
#include "topology/model.h"
#include "topology/names.h"

enum { TENSORS_MAX = 1 << 20, TENSORS_FILES_MAX = 4096 };

struct tensors {
    const char *path; // its folder real, its last part as given: split files go by their names
    uint8_t hash[32]; // of headers, sizes, samples of the weights and, of a folder, its configs
    const struct model_file *files;
    int32_t n_file;
    uint64_t file_bytes;              // of all files
    const struct model_tensor *items; // dtype DT_NONE: known to the container, never a weight
    int32_t n;
    struct gguf *gguf;               // first piece; or NULL
    const char *dir;                 // Hugging Face folder; or NULL, and with it:
    const struct json *config;       // config.json, an object
    const struct json *quant_config; // hf_quant_config.json (modelopt), or NULL
    struct names by_name;
};

// Tables, names and JSON live in `a`, which must outlive *out. ERR_MODEL with one sentence;
// ERR_SYSTEM if a file cannot be read.
err_t tensors_open(const char *path, struct arena *a, struct tensors **out, struct err_text *why);
void tensors_close(struct tensors *t);
const struct model_tensor *tensors_find(const struct tensors *t, const char *name); // NULL
