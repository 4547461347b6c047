// source: weight values on their way from a model's files into rows that weight_pack takes. A model
// says which tensors make a weight (topology/model.h, struct model_weight); here they are read and
// their values brought into the memory type's layout. One file per family of formats:
//
//     source_float   plain floats and GGML blocks: rows as they are; conversion to F32
//     source_int     GPTQ, AWQ, compressed-tensors: integers with scales and zeros per group
//     source_byte    INT8 and FP8 with one scale, one per row, or one per block
//     source_fp4     NVFP4 and MXFP4
//     source_made    no file: pseudo-random values
//
// Several threads read at once, each with a struct source_reader of its own.
#pragma once
#include "topology/model.h"
#include "worker/mem.h"

// The open files of a model, shared by all readers.
struct source_files {
    const struct model *model;
    // Large reads go past the page cache, where the file system can do that: what is read once
    // should not push out what others read again. Those that can not are told in the log, once.
    bool is_direct;
    // What is in the page cache of these files goes at source_close: it lives where the weights do.
    bool drops;
    int *fds;        // model->n_file; -1: not needed
    int *direct_fds; // model->n_file, if is_direct; -1: not needed, or the file system refuses
};

// Opens the files that hold the weight's tensors, once each. A file that has another size than when
// its header was read is refused. ERR_MEMORY, ERR_SYSTEM, ERR_MODEL.
err_t source_open(struct source_files *f, const struct model_weight *w, struct err_text *why);
void source_close(struct source_files *f);

enum source_buffer {
    SOURCE_BUFFER_DIRECT, // whole blocks of the disk
    SOURCE_BUFFER_RAW,    // bytes as in the file
    SOURCE_BUFFER_ROWS,   // what source_rows returns
    SOURCE_BUFFER_TURN,   // rows before they are transposed
    SOURCE_BUFFER_AT,     // numbers of rows in the source
    SOURCE_BUFFER_SCALE,  // floats
    SOURCE_BUFFER_ZERO,
    SOURCE_BUFFER_WORD,
    SOURCE_BUFFER_CODE,
    SOURCE_BUFFER_GROUP,
    SOURCE_BUFFER_COUNT
};

// One thread's buffers; they grow to what the largest piece needs. A struct of zeros and the files.
struct source_reader {
    const struct source_files *files;
    struct mem buffers[SOURCE_BUFFER_COUNT];
};
void source_reader_fini(struct source_reader *r);

// Rows [row_from, row_from + n_row) of matrix i of a weight. (A vector with rows 1 counts as a
// matrix of as many rows as it has elements.)
struct source_piece {
    const struct model_weight *w;
    int64_t i, row_from, n_row;
    // (cols) or NULL: where columns that are sorted by group (act-order) are listed. Column c of
    // the rows is column order[c] of the model's.
    int32_t *order;
};

// Rows and columns as pieces count them.
int64_t source_n_row(const struct model_weight *w);
int64_t source_n_col(const struct model_weight *w);
// Rows of about `bytes` bytes in memory: a multiple of 64, or all.
int64_t source_step(const struct model_weight *w, uint64_t bytes);

// The rows, each of dtype_row_bytes(w->dtype, cols), in the reader's memory until the next call.
// *is_ordered: the columns are sorted, and p->order is written. ERR_MODEL: NaN, infinity, or what
// the tensors hold contradicts the weight's type; the sentence names the tensor. ERR_MEMORY,
// ERR_SYSTEM.
err_t source_rows(struct source_reader *r, const struct source_piece *p, const void **rows,
                  bool *is_ordered, struct err_text *why);

// The columns may be sorted by group; which they are only reading tells.
bool source_may_order(const struct model_weight *w);
// Weights may have a factor of all their values, one for each matrix of a stack.
bool source_has_factor(const struct model_weight *w);
err_t source_factor(struct source_reader *r, const struct model_weight *w, int64_t i, float *out,
                    struct err_text *why);
