// cluster: the machines and links a plan is made for. Written by hand as a YAML file, or filled by
// the coordinator from what its workers measured. All figures are sustained ones: plans are only as
// good as these numbers.
#pragma once
#include "proto/base/rates.h"
#include "topology/pace.h"

struct buf;

enum { CLUSTER_DEVICES_MAX = 64 };
enum cluster_kind { CLUSTER_CPU, CLUSTER_CUDA, CLUSTER_KINDS };

struct cluster_device {
    char name[32]; // unique
    char host[64]; // devices of one host are neighbours
    enum cluster_kind kind;
    int32_t threads;    // of a CPU device; 0 of others
    uint64_t mem_bytes; // all of it
    // What this device's worker may count on now, 1 to mem_bytes. Devices that share a memory each
    // have their own part of it.
    uint64_t mem_free_bytes;
    bool unified;            // CPU and GPU share the memory: running out freezes the machine
    double read_bytes_per_s; // weights streaming through the device
    double int8_ops_per_s;   // multiply and add counted as two; 0: quantised weights run at f32
    double f32_flops_per_s;
    // Of a CPU device's host, all of it, which the host's CPU devices share (crowd.h); 0: unknown.
    double host_cores, host_read_bytes_per_s;
    struct rates rates; // measured speed of its operations; n_type 0: none, the peaks count
    struct pace pace;   // of the model that is planned; not in files
};

// One direction of a pair. bytes_per_s 0: the two cannot be neighbours.
struct cluster_link {
    double latency_us; // one way, small message
    double bytes_per_s;
};

struct cluster {
    int32_t n_device;
    struct cluster_device devices[CLUSTER_DEVICES_MAX];
    struct cluster_link links[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX]; // [from][to]
};

// What two devices of one host get when no link between them is named: shared memory.
extern const struct cluster_link cluster_same_host;

// ERR_CONFIG with "path:line: what, found, allowed" in one sentence; ERR_SYSTEM if the file cannot
// be read. The caller frees *out with free().
err_t cluster_load(const char *path, struct cluster **out, struct err_text *why);
// The same from memory; `path` is for the sentence.
err_t cluster_read(const char *path, const char *text, size_t len, struct cluster **out,
                   struct err_text *why);
// The YAML of a cluster: cluster_read gives back the same figures, bit for bit.
void cluster_write(const struct cluster *c, struct buf *out);
// Replaces the file at once or not at all. `about`: lines for its head, made comments; NULL: none.
err_t cluster_save(const struct cluster *c, const char *about, const char *path,
                   struct err_text *why);
// The rules a file must keep, for clusters and devices that come from elsewhere.
err_t cluster_check_device(const struct cluster_device *d, struct err_text *why);
err_t cluster_check(const struct cluster *c, struct err_text *why);
// Index of a device, or -1.
int32_t cluster_find(const struct cluster *c, const char *name);
