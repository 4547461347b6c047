// What the doctor says of a model: whether it opens, whether it fits, and what computes it.
#include "deploy/doctor.h"

#include "kernels/kernels.h"
#include "topology/cost.h"
#include "topology/file.h"
#include "topology/model.h"
#include "worker/budget.h"
#include "worker/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CTX_USUAL = 8192, SEQUENCES = 4 }; // what `trireme serve` takes room for

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

static void look_at_memory(const struct doctor_ask *ask, const struct model *m, uint64_t available,
                           struct doctor *d)
{
    struct cost_model *cost = malloc(sizeof *cost);
    if (!cost) return;
    cost_of_model(m, cost);
    const int64_t own = m->shape.ctx_train < CTX_USUAL ? m->shape.ctx_train : CTX_USUAL;
    const struct cost_ask a = cost_ask_of(ask->ctx ? ask->ctx : own, SEQUENCES);
    const struct cluster_device here = {
        .kind = CLUSTER_CPU, .mem_bytes = available, .mem_free_bytes = available};
    const struct cost_memory c = cost_memory_of(cost, &a, &here, 0, cost->n_layer);
    const uint64_t need = cost_memory_sum(&c) - c.reserve;
    const bool fits = need + c.reserve <= available;
    const char *remedy = "trireme plan tells how it is divided over workers; a smaller --ctx or "
                         "--kv-tokens needs less";
    doctor_add(d, "model",
               fits                    ? DOCTOR_OK
               : c.weights > available ? DOCTOR_BAD
                                       : DOCTOR_WARN,
               fits ? NULL : remedy,
               "needs %.2f GiB (weights %.2f, keys and values of %lld tokens %.2f, work %.2f); "
               "%.2f available, of which %.2f stay free",
               gib(need), gib(c.weights), (long long)a.kv_tokens, gib(c.kv),
               gib(c.state + c.workspace + c.comms), gib(available), gib(c.reserve));
    free(cost);
}

static void look_at_kernels(const struct model *m, struct doctor *d)
{
    static const struct {
        const char *said, *remedy;
        enum doctor_level level;
    } paths[] = {
        [KERNELS_PATH_NONE] = {"is not computed with here", "take another file of this model",
                               DOCTOR_BAD},
        [KERNELS_PATH_BLOCKS] = {"packed, multiplied as it is", NULL, DOCTOR_OK},
        [KERNELS_PATH_FLOAT] = {"packed, multiplied in float", NULL, DOCTOR_OK},
        [KERNELS_PATH_DECODED] = {"decoded run by run at each product: slower",
                                  "a file of Q4_K, IQ4_XS or Q3_K type computes faster",
                                  DOCTOR_WARN},
    };
    for (enum dtype t = 0; t < DT_COUNT; t++) {
        uint64_t bytes = 0;
        int n = 0;
        for (int32_t i = 0; i < m->n_weight; i++) {
            if (!m->weights[i].is_matrix || m->weights[i].dtype != t) continue;
            bytes += m->weights[i].bytes;
            n++;
        }
        if (!n) continue;
        const enum kernels_path p = kernels_path_of(t);
        doctor_add(d, "weights", paths[p].level, paths[p].remedy, "%s: %d matrices, %.3f GiB: %s",
                   dtype_info(t)->name, n, gib(bytes), paths[p].said);
    }
}

// Whether a device has a kernel for everything of the model, by asking it for the sizes of all.
static void look_at_device(const char *name, const struct doctor_ask *ask, const struct model *m,
                           struct doctor *d)
{
    enum { PAGE_TOK = 64 };
    const uint32_t own = m->shape.ctx_train < CTX_USUAL ? (uint32_t)m->shape.ctx_train : CTX_USUAL;
    const uint32_t ctx = ask->ctx ? ask->ctx : own;
    const struct stage_config c = {
        .model = m,
        .layer_to = (uint32_t)m->shape.n_layer,
        .embed = true,
        .head = true,
        .settings = {.ctx = ctx,
                     .page_tok = PAGE_TOK,
                     .n_page = SEQUENCES * ((ctx + PAGE_TOK - 1) / PAGE_TOK),
                     .n_slot = SEQUENCES,
                     .max_tok = 256,
                     .max_rows = SEQUENCES,
                     .in_flight = 1,
                     .kv_dtype = DT_F16,
                     .precision = PRECISION_FAST},
        .n_threads = 1,
        .device = name,
    };
    struct err_text why = {0};
    struct stage_sizes sizes;
    struct budget budget;
    err_t e = stage_sizes(&c, &sizes, &why);
    if (!e) e = budget_read(name, 0, &budget, &why);
    if (e) {
        doctor_add(d, "weights", DOCTOR_BAD, "let the CPU compute this model", "%s: %.200s", name,
                   why.s);
        return;
    }
    const uint64_t need = sizes.weight_bytes + sizes.kv_bytes + sizes.work_bytes;
    const bool fits = need <= budget.free_bytes;
    doctor_add(d, "weights", fits ? DOCTOR_OK : DOCTOR_WARN,
               fits ? NULL : "trireme plan tells how it is divided over workers",
               "%s (%.60s): a kernel for everything; needs %.2f of %.2f GiB", name, budget.name,
               gib(need), gib(budget.free_bytes));
}

static void look_at_devices(const struct doctor_ask *ask, const struct model *m, struct doctor *d)
{
    enum { DEVICES_MAX = 8 };
    int32_t n = 0;
    if (kernels_count_cuda(&n, NULL) != OK) return; // said of the machine
    for (int32_t i = 0; i < n && i < DEVICES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "cuda:%d", i);
        look_at_device(name, ask, m, d);
    }
}

void doctor_model(const struct doctor_ask *ask, uint64_t available, struct doctor *d)
{
    struct err_text why = {0};
    struct model *m;
    if (model_open(ask->model, &m, &why) != OK) {
        doctor_add(d, "model", DOCTOR_BAD, "is the file whole, and of an architecture in README?",
                   "%.250s", why.s);
        return;
    }
    doctor_add(d, "model", DOCTOR_OK, NULL, "%.80s (%s), %s, %d layers, %.2f GiB of files",
               m->shape.name, m->shape.arch, m->quant, m->shape.n_layer, gib(m->file_bytes));
    look_at_memory(ask, m, available, d);
    if (ask->kernels) look_at_kernels(m, d);
    if (ask->kernels) look_at_devices(ask, m, d);
    model_close(m);
}
