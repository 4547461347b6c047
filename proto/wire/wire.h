// wire: the control messages between coordinator and worker. The only place that knows protobuf-c:
// both sides see plain structs, whose pointers lie in the arena they were unpacked into.
//
// One conversation per worker connection (C: coordinator, W: worker):
//
//   W HELLO       who I am, what I have, which models I can read, what I still hold
//   C WELCOME     you are worker N            or REFUSE and close
//   C PLAN        epoch, your stage, settings
//   W PREPARED    effective settings, memory, data address   or FAILED (code, sentence)
//   C CONNECT     every stage's data address
//   W LINKED      measured link to the next stage            or FAILED
//   C STEP ...    W RESULT ... (from the last stage only)
//   both HEARTBEAT every 250 ms
//   W USAGE every few seconds, from leads of stages with experts
//   W FETCH, C CHUNK ...   a worker that lacks the model's file copies ranges of it
//   C SURVEY, W SURVEYED   while no plan runs: links between workers are measured
//   W RENEW, C RENEWED     another certificate before the worker's own expires
//   C REFUSE / DRAIN, W FAILED at any time
//
// A PLAN with a higher epoch replaces the old one at any point; everything that carries a lower
// epoch is dropped by whoever receives it. Messages are at most WIRE_MESSAGE_MAX bytes, of no
// recursive type; unpacking is bounded by the arena's budget (protobuf-c has no limits of its own).
#pragma once
#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/rates.h"
#include "proto/wire/step.h"

enum {
    WIRE_VERSION = 7,
    WIRE_MESSAGE_MAX = 1 << 20,
    WIRE_ARENA_MAX = 4 << 20, // budget for unpacking one message
    WIRE_STAGES_MAX = 64,
    WIRE_LABEL_BYTES_MAX = 63,
    WIRE_IN_FLIGHT_MAX = 64, // steps of one lane
    WIRE_MODELS_MAX = 64,
    WIRE_DEVICES_MAX = 16,
    WIRE_ADDRESS_MAX = 4096,
    WIRE_HEARTBEAT_MS = 250,
    WIRE_MEMBERS_MAX = 16,      // of one stage
    WIRE_LANE_MAX = 64,         // of all stages of one lane
    WIRE_PART_MAX = 1 << 16,    // of one member
    WIRE_SURVEY_MAX = 64,       // targets of one round
    WIRE_EXPERTS_MAX = 1 << 16, // of all layers of a stage
    WIRE_REPLICAS_MAX = 1 << 14,
    WIRE_FILES_MAX = 1024,      // of a model
    WIRE_CHUNK_MAX = 256 << 10, // bytes of a file in one message
};

enum msg_kind {
    MSG_HELLO = 1,
    MSG_WELCOME,
    MSG_REFUSE,
    MSG_PLAN,
    MSG_PREPARED,
    MSG_CONNECT,
    MSG_LINKED,
    MSG_STEP,
    MSG_RESULT,
    MSG_HEARTBEAT,
    MSG_FAILED,
    MSG_DRAIN,
    MSG_ENROLL,
    MSG_ENROLLED,
    MSG_SURVEY,
    MSG_SURVEYED,
    MSG_FETCH,
    MSG_CHUNK,
    MSG_USAGE,
    MSG_RENEW,
    MSG_RENEWED
};

struct msg_device {
    const char *name; // "AMD EPYC"
    const char *kind; // "cpu", "cuda"
    const char *isa;  // kernels' name: "cpu avx2"
    uint32_t threads;
    uint64_t mem_bytes, mem_free_bytes;
    double read_bytes_per_s, int8_ops_per_s, f32_flops_per_s; // measured
    bool unified;                                             // CPU and GPU share the memory
    uint32_t n_core, n_numa;                                  // 0: unknown
    double host_read_bytes_per_s; // of all the host's cores together; 0: not measured
    uint64_t l2_bytes, l3_bytes;  // of one core, of one L3 domain; 0: unknown
    struct rates rates;           // of its operations; no types: not measured
};

struct msg_model {
    const char *name;
    uint8_t hash[32];
};

struct msg_hello {
    uint32_t version;  // WIRE_VERSION
    const char *build; // program version
    const char *name;  // worker's name, [a-z0-9-]{1,63}
    uint64_t instance; // random per process start
    const char *host;
    uint32_t pid;
    const struct msg_device *devices;
    uint32_t n_device;
    const struct msg_model *models; // files this worker can read
    uint32_t n_model;
    // What is still loaded from before the connection was lost: no reload needed.
    uint8_t held_hash[32];
    uint32_t held_from, held_to; // layers; equal: nothing
    bool held_embed, held_head;
    uint32_t roads;          // bit mask of enum road this worker can open
    uint64_t process;        // same number: same process, ROAD_LOCAL is possible
    uint64_t store_bytes;    // it can copy a model of so many bytes from us; 0: it does not
    double disk_bytes_per_s; // reading the volume its models lie on; 0: not measured
    bool own_lane;           // it wants no part of others' lanes, if it can hold the model alone
};

enum road { ROAD_LOCAL = 1, ROAD_UCX = 2 };

struct msg_file {
    const char *name; // the last part of its path
    uint64_t bytes;
    uint64_t header_bytes; // what lies before the weights; all of a file that holds none
};

struct msg_welcome {
    uint32_t worker; // number in status
    const char *cluster;
    // The model that is served and its files, for workers that have a store; n_file 0: not offered.
    uint8_t model_hash[32];
    const struct msg_file *files;
    uint32_t n_file;
};

struct msg_refuse {
    int32_t code; // err_t
    const char *why;
    bool is_final; // do not come back
};

enum { PLAN_DETERMINISTIC = 2 };

// Settings every stage must agree on. A worker returns its effective ones; a difference is refused.
struct plan_settings {
    uint32_t ctx; // tokens of one sequence, at most
    uint32_t page_tok;
    uint32_t n_page;
    uint32_t n_page_local; // of layers that see a window or chunk only; 0: they use the others
    uint32_t n_snapshot;   // copies of one sequence's recurrent state
    uint32_t n_slot;
    uint32_t max_tok; // tokens of one step
    uint32_t max_rows;
    uint32_t in_flight; // steps on their way at once, at most
    uint32_t kv_dtype;  // enum dtype
    uint32_t precision; // enum precision of kernels.h; PLAN_DETERMINISTIC: fast, and so limited
};

struct msg_plan {
    uint64_t epoch;
    uint8_t plan_hash[32];
    uint8_t model_hash[32];
    const char *model; // name, for logs; workers find the file by hash among their own
    uint32_t stage, n_stage;
    uint32_t layer_from, layer_to; // half open
    bool embed, head;              // embedding lookup / final norm, output matrix and sampling
    struct plan_settings settings;
    uint32_t road;   // enum road
    uint8_t key[16]; // frames of this epoch are authenticated with it
    uint32_t lane;   // number, for logs
    // Who else has this stage (topology/share.h). n_member[i] of each stage i; parts of this one's.
    uint32_t split;  // enum share_split
    uint32_t member; // 0: the lead, which sends activations on and, on the last stage, results
    uint32_t n_member[WIRE_STAGES_MAX];
    uint32_t part[WIRE_MEMBERS_MAX];
    uint32_t n_expert;        // of a layer; 0: experts are cut by `part`
    const uint8_t *owner;     // (layer_to - layer_from, n_expert) member that computes it
    const uint32_t *replicas; // (n_replica, 3) layer of the model, expert, member
    uint32_t n_replica;
};

struct msg_prepared {
    uint64_t epoch;
    struct plan_settings settings; // effective
    uint64_t weight_bytes, kv_bytes, work_bytes;
    uint32_t load_ms;
    const uint8_t *address; // of the data port
    uint32_t n_address;
    const uint8_t *group_address; // of the group's port; empty: alone
    uint32_t n_group_address;
};

// The address was made by the peer's own UCX and is parsed by ours, which trusts it: a worker that
// holds a certificate of this cluster and lies here can crash its neighbours (they come back).
struct msg_peer {
    uint32_t stage, member;
    const uint8_t *address;
    uint32_t n_address;
    const uint8_t *group_address;
    uint32_t n_group_address;
};
struct msg_connect {
    uint64_t epoch;
    const struct msg_peer *peers;
    uint32_t n_peer;
};

struct msg_linked {
    uint64_t epoch;
    double next_latency_us; // one way, to the next stage (0 if there is none)
    double next_bytes_per_s;
    const char *transport; // "local", "ucx shm", "ucx tcp"
};

struct msg_heartbeat {
    uint64_t epoch;
    uint64_t step_done; // last step finished
    uint64_t step_now;  // step being computed, 0: idle
    uint64_t progress;  // moves while the compute loop does
    uint64_t mem_used_bytes, mem_free_bytes;
    uint64_t frame_bytes_out, frame_bytes_in;
    uint64_t busy_us, wait_us; // compute loop, since the plan was accepted
    uint64_t exchange_us;      // of busy_us, waiting for other members of the group
    uint32_t steps_queued;
    // For the round trip: the sender's clock; the last sent_us that came from the other side (0:
    // none), and how long ago it came.
    uint64_t sent_us, echo_us, echo_age_us;
    // Of the bytes that the plan needs from the coordinator: here by now, and all; 0: not fetching.
    uint64_t fetched_bytes, fetch_bytes;
};

struct msg_failed {
    uint64_t epoch;
    int32_t code;
    const char *why;
};

// First contact of a worker that holds a join token and no certificate yet.
struct msg_enroll {
    const char *secret; // the token's secret part
    const char *name;
    const char *public_key_pem;
};
struct msg_enrolled {
    const char *certificate_pem;
    const char *ca_pem;
};

// A certificate request, over a connection that a certificate has proven already: the answer is for
// the same name.
struct msg_renew {
    const char *request_pem;
};
struct msg_renewed {
    const char *certificate_pem;
    int32_t code; // err_t; not OK: there is none
    const char *why;
};

struct msg_target {
    uint32_t worker;
    const uint8_t *address;
    uint32_t n_address;
};
struct msg_survey {
    uint64_t round; // the epoch of its frames; counted apart from the plans' epochs
    uint32_t road;  // 0, without targets: close the port
    uint8_t key[16];
    const struct msg_target *targets; // none: open a port and answer with its address
    uint32_t n_target;
};
struct msg_path {
    uint32_t worker;
    double latency_us, bytes_per_s;
    const char *transport;
    int32_t code; // err_t; not OK: what is wrong with this link
    const char *why;
};
struct msg_surveyed {
    uint64_t round;
    const uint8_t *address;
    uint32_t n_address;
    const struct msg_path *paths;
    uint32_t n_path;
};

struct msg_fetch {
    uint64_t id;
    uint8_t model_hash[32];
    uint32_t file;
    uint64_t offset;
    uint32_t bytes; // 1 to WIRE_CHUNK_MAX
};
struct msg_chunk {
    uint64_t id;
    int32_t code; // err_t; not OK: no data
    const char *why;
    uint32_t checksum; // CRC-32C of data
    const uint8_t *data;
    uint32_t n_data;
};

struct msg_usage {
    uint64_t epoch;
    uint32_t layer_from, n_layer, n_expert;
    const uint32_t *count; // (n_layer, n_expert)
};

struct msg {
    enum msg_kind kind;
    union {
        struct msg_hello hello;
        struct msg_welcome welcome;
        struct msg_refuse refuse;
        struct msg_plan plan;
        struct msg_prepared prepared;
        struct msg_connect connect;
        struct msg_linked linked;
        struct step step;
        struct step_result result;
        struct msg_heartbeat heartbeat;
        struct msg_failed failed;
        struct msg_enroll enroll;
        struct msg_enrolled enrolled;
        struct msg_survey survey;
        struct msg_surveyed surveyed;
        struct msg_fetch fetch;
        struct msg_chunk chunk;
        struct msg_usage usage;
        struct msg_renew renew;
        struct msg_renewed renewed;
    };
};

// Appends the packed message to out. ERR_TOO_LARGE over WIRE_MESSAGE_MAX, ERR_MEMORY.
err_t wire_pack(const struct msg *m, struct buf *out);

// Unpacks and validates everything a receiver may rely on: kinds and enums are known, strings are
// valid UTF-8 without control bytes and bounded, counts are within the limits above, rows have
// 1 <= n_tok, ids present unless ROW_CHAIN, no slot twice, sums within STEP_TOKENS_MAX, floats are
// finite. What depends on the plan (slots, pages, ids below the vocabulary) is the receiver's.
// ERR_LINK_PROTOCOL with a sentence. Pointers in out lie in arena.
err_t wire_unpack(const void *data, size_t len, struct arena *arena, struct msg *out,
                  struct err_text *why);
const char *wire_kind_name(enum msg_kind k);
