// stage_priv: what a stage holds; for stage*.c only.
#pragma once
#include "worker/head.h"
#include "worker/layer.h"

struct stage {
    struct stage_config config; // config.settings is what kv, state and head point to
    struct kernels *kernels;
    struct weights weights;
    struct kv kv;
    struct state state;
    struct head head;
    struct pass pass;
    void *tables;     // of config.share.experts
    bool comes, goes; // x stays on the device (stage_stay)
    struct stage_half {
        struct attn_run *runs[PASS_SIGHTS]; // (max_rows)
        uint32_t *slots;                    // (max_rows)
        int32_t n_run;
    } halves[2]; // of a step that is run in halves
    struct stage_watch watch;
    // Everything below, and the buffers of kv, head and pass: the backend's and the host's.
    struct mem work, host;
    void *seen;                   // what the watch is shown; NULL: nothing, or the backend's own
    float *x;                     // (max_tok, dim) the backend's; NULL: the caller's is used
    int32_t *ids;                 // (max_tok)
    int32_t *pos;                 // (max_tok)
    int32_t *wanted;              // (max_tok) of pass.wanted
    float *q_scale;               // (max_tok) the host's, of pass.q_scale
    double *freqs;                // (n_rot / 2) SLOT_ROPE_FREQS of the model
    uint16_t *fresh;              // (n_slot) the bind of the step under check, from 1; else 0
    float *mtp_x, *mtp_h, *mtp_e; // (max_tok, dim), of the prediction head
    float *mtp_in;                // (max_tok, 2 dim)
    struct stage_sizes sizes;
};

static inline bool stage_is_dense(const struct stage_config *c)
{
    return share_is_dense(&c->share, c->share.member);
}
// Whether this member draws what the last stage draws.
static inline bool stage_samples(const struct stage_config *c)
{
    return c->head && c->share.member == 0;
}

// stage_halves.c: the lead of a group of experts runs large steps in two halves, by rows: while the
// owners compute one half's products, it is at the other half's attention. The bits are the same,
// as with any two chunks.
bool stage_has_halves(const struct stage *s); // all members come to the same answer
void stage_cut_halves(struct stage *s);       // the runs of each, after those of the step
void stage_run_halves(struct stage *s);       // all layers, on pass.x

// stage_wanted.c: of the last layer, what the head will ask about.
void stage_find_wanted(struct stage *s, const struct step *st);
void stage_run_last(struct stage *s, const struct part *w, int32_t index,
                    const struct model_layer *kind);

// stage_size.c
struct kernels_limits stage_limits(const struct stage_config *c);
struct kv_config stage_kv_config(const struct stage *s);
struct state_config stage_state_config(const struct stage *s);
uint64_t stage_n_usage(const struct stage *s); // counters of pass.usage
// Sizes (base NULL) or lays out all work space.
void stage_carve(struct stage *s, struct mem_plan *c);
struct pass_limits stage_pass_limits(const struct stage *s);
// Of a stage of which config and kernels are set.
err_t stage_count(struct stage *s, struct stage_sizes *out, struct err_text *why);
err_t stage_check_config(const struct stage_config *c, struct err_text *why);
// The same, a share of zeros made one alone.
struct stage_config stage_config_of(const struct stage_config *c);
