// place: which workers take which layers of one lane, alone or as groups, and how many KV pages,
// local pages and snapshots there are: local pages and snapshots for twice as many sequences as
// there are slots (as many that ended as that run), for fewer where that leaves room for the pages
// wanted. Pure: figures in, placement out. The cuts and the order come from topology/plan; what is
// added here is that workers keep what they already hold whenever that gives a whole placement.
#pragma once
#include "proto/wire/wire.h"
#include "topology/share.h"

struct place_stage {
    uint32_t layer_from, layer_to;
    bool embed, head;
    enum share_split split;
    uint32_t first, n_member; // place.members[first .. first + n_member); the first one leads
    double decode_us;         // predicted, one row
};

struct place_member {
    uint32_t worker; // the fleet's number
    uint32_t stage;
    uint32_t part;                               // of SHARE_TOTAL
    uint64_t weight_bytes, kv_bytes, work_bytes; // planned
    double decode_us;                            // its own work, predicted, one row
    double expert_us;                            // of it, in experts that are dealt out to a group
    double expert_part; // of the group's experts; what expert_us supposes it has of the products
};

// Predicted, with the road between the stages: a step that draws a token for each of n requests
// takes step_us + n * row_us, a token of a prompt prompt_us.
struct place_speed {
    double step_us, row_us, prompt_us;
};

struct place {
    uint32_t n_stage, n_member;
    struct place_stage stages[WIRE_STAGES_MAX];
    struct place_member members[WIRE_STAGES_MAX]; // stage after stage
    // Of every stage alike: which member computes which expert; NULL: by parts. Not owned.
    const struct share_experts *experts;
    struct plan_settings settings;
    uint32_t window, chunk; // of the model's local layers, 0: none
    bool recurrent;         // the model has recurrent state
    uint32_t piece_tok;     // prompts are cut for the stages into no smaller pieces
    uint32_t road;          // enum road
    struct place_speed speed;
    uint8_t hash[32];
};

struct survey;
struct place_worker;

// What the user asked for; all numbers are final (place_shape).
struct place_want {
    const struct model *model;
    uint32_t n_stage;
    enum share_split split;              // SPLIT_NONE: stages of one worker each
    uint32_t n_member;                   // of each stage; 1: alone
    uint32_t part[WIRE_MEMBERS_MAX];     // all 0: by speed
    const struct share_experts *experts; // goes into the placement; NULL: by parts
    uint32_t ctx, n_slot, max_tok;
    uint64_t kv_tokens;
    uint32_t precision, kv_dtype;
    uint32_t road;               // 0: local if all stages share a process, else UCX
    double hop_us_max;           // slowest link between stages; 0: the planner's
    const struct survey *survey; // measured links, by the workers' numbers; NULL: all are guessed
    // Workers of other lanes: those on the hosts of this one have their part of the host's cores
    // and bandwidth.
    const struct place_worker *beside;
    uint32_t n_beside;
};

// A worker that may take part.
struct place_worker {
    uint32_t number;
    const char *name, *host;
    uint64_t process;
    uint32_t roads;
    uint32_t threads;
    bool has_cpu;            // shares its host's memory with the other workers there
    uint64_t mem_bytes;      // of the device
    uint64_t mem_free_bytes; // what a plan may count on, what is loaded now included
    double read_bytes_per_s, int8_ops_per_s, f32_flops_per_s;
    uint32_t n_core;              // of its host, with has_cpu; 0: unknown
    double host_read_bytes_per_s; // of all of them together; 0: unknown
    const struct rates *rates;    // NULL or without types: not measured
    double trip_us;               // round trip to the coordinator, 0: unknown
    uint32_t held_from, held_to;  // layers; equal: nothing
    bool held_embed, held_head;
};

enum { PLACE_PAGE_TOK = 32, PLACE_ROWS_MAX = 64 };

// Fills n_stage and n_member where they are 0, for n workers: without a split a stage each, with
// one a single stage of all.
void place_shape(struct place_want *want, uint32_t n);

// As many stages and members as wanted, or as there are workers for. ERR_CAPACITY: nothing fits;
// the sentence shows the sum. Settings may come out smaller than wanted (n_page): the caller
// compares and tells.
err_t place_make(const struct place_want *want, const struct place_worker *workers, uint32_t n,
                 struct place *out, struct err_text *why);
