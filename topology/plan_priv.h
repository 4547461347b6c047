// plan_priv: the parts of the planner. plan_unit.c lists what a stage may be run by, plan_search.c
// finds the best way to cut the layers among them, plan.c and plan_lanes.c ask it.
//
// Devices that can be exchanged without changing anything are one class. A unit is one or more
// devices by class, the way they share a stage, and the part of each: its costs are sums over
// layers, known before the search.
#pragma once
#include "topology/plan.h"

enum { PLAN_UNITS_MAX = 4096 };

#define PLAN_NONE INT64_MAX // no placement

struct plan_classes {
    int32_t n;
    int32_t of[CLUSTER_DEVICES_MAX];                          // class of a device
    int32_t member[CLUSTER_DEVICES_MAX][CLUSTER_DEVICES_MAX]; // devices of a class, as listed
    int32_t n_member[CLUSTER_DEVICES_MAX];
};

struct plan_unit {
    enum share_split split;
    int32_t n_member;
    // Class of each member, the lead's first; with plan_units.is_listed classes are devices.
    uint8_t class[SHARE_MEMBERS_MAX];
    uint32_t part[SHARE_MEMBERS_MAX];
    int32_t n_dense;           // members that take part in all of a step
    int32_t first, last;       // least and greatest class
    int64_t embed_ns, head_ns; // of a decode step
    const int64_t *layers_ns;  // [layer + 1], sums from layer 0
    const int16_t *to_max;     // [layer]: a stage from there can go so far, the head left out
    const bool *fits_last;     // [layer]: a stage from there to the end fits
};

// Of the whole model in a group, on a device of a class.
struct plan_burden {
    double seconds; // of all that a group divides, in a decode step
    double divided; // bytes of it
    double whole;   // bytes of what each member has besides
};

struct plan_units {
    const struct cost_model *m;
    const struct cluster *c;
    const struct plan_ask *ask;
    struct plan_classes classes;
    bool is_listed; // classes are devices, members of a unit follow each other in the list
    int32_t n;
    struct plan_unit *at;                 // ascending by lead's class, then n_dense
    double alone_us[CLUSTER_DEVICES_MAX]; // a decode step of the whole model, by class
    struct plan_burden burden[CLUSTER_DEVICES_MAX][SPLIT_COUNT][2]; // of owners, of leads
    int32_t n_kind;
    int32_t kind[MODEL_LAYERS_MAX];       // which layers are alike
    int32_t kind_layer[MODEL_LAYERS_MAX]; // one of each kind
    struct arena arena;
};

// Lists the units; `largest`: members of one at most. ERR_MEMORY; ERR_TOO_LARGE: more than
// PLAN_UNITS_MAX.
err_t plan_units_open(const struct cost_model *m, const struct cluster *c,
                      const struct plan_ask *ask, bool is_listed, int32_t largest,
                      struct plan_units **out);
// Their costs. ERR_MEMORY.
err_t plan_units_fill(struct plan_units *u);
void plan_units_close(struct plan_units *u);
// Exchanging the two leaves the cluster as it is.
bool plan_unit_alike(const struct cluster *c, int32_t a, int32_t b);
// The group of these devices, the lead first.
struct cost_group plan_unit_group(const struct cluster *c, enum share_split split,
                                  const int32_t *devices, const uint32_t *part, int32_t n);
// Whether devices of these classes may form a group: links between those that talk, and near
// enough.
bool plan_unit_may(const struct plan_units *u, enum share_split split, const uint8_t *class,
                   int32_t n);
// The ways to give parts to these members, each (n): by speed, and limited by what each has room
// for when the group has all, a half, a third or a quarter of the layers. Returns how many there
// are; they differ from each other.
enum { PLAN_PARTS_MAX = 5 };
int32_t plan_unit_parts(const struct plan_units *u, enum share_split split, const uint8_t *class,
                        int32_t n, uint32_t parts[PLAN_PARTS_MAX][SHARE_MEMBERS_MAX]);

struct plan_search;

// ERR_MEMORY.
err_t plan_search_open(const struct cost_model *m, const struct cluster *c,
                       const struct plan_ask *ask, struct plan_search **out);
void plan_search_close(struct plan_search *s);
// The best placement for the goal; its stages without figures. False: none.
bool plan_search_best(struct plan_search *s, struct plan *out);
// Deals the devices out so that the sum of what each set gives at best (tokens per second) is
// largest: lane[i] is the set of device i, -1: none of use. Returns the number of sets.
int32_t plan_search_lanes(struct plan_search *s, int32_t *lane);
// ERR_INVALID if the ask or the cluster is not sensible.
err_t plan_check(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                 struct err_text *why);
// ERR_CAPACITY, and what is short.
err_t plan_say_none(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
                    struct err_text *why);
// Times, memory and rates of a plan whose stages are placed.
void plan_fill(const struct cost_model *m, const struct cluster *c, const struct plan_ask *ask,
               struct plan *p);
// Free bytes less the reserve.
uint64_t plan_room(const struct cluster_device *d);
