#include "deploy/experts_view.h"

#include "deploy/said.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HOTTEST = 5 };

// -- who --

static double layers_of(const struct json *experts, double stage)
{
    const struct json *layers;
    const size_t n = said_items(experts, "layers", &layers);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += said_num(&layers[i], "stage") == stage;
    return sum;
}

static void draw_workers(const struct json *experts)
{
    const struct json *workers;
    const size_t n = said_items(experts, "workers", &workers);
    printf("  %-14s %5s %8s %7s %6s %6s   %s\n", "worker", "stage", "experts", "copies", "part",
           "load", "slowest in");
    for (size_t i = 0; i < n; i++) {
        const struct json *w = &workers[i];
        printf("  %-14s %5.0f %8.0f %7.0f %5.0f%% %5.0f%%   %.0f of %.0f layers\n",
               said_str(w, "worker"), said_num(w, "stage"), said_num(w, "experts"),
               said_num(w, "copies"), 100 * said_num(w, "part"), 100 * said_num(w, "load"),
               said_num(w, "slowest"), layers_of(experts, said_num(w, "stage")));
    }
}

static const char *name_of(const struct json *experts, double stage, double member)
{
    const struct json *workers;
    const size_t n = said_items(experts, "workers", &workers);
    if (member < 0) return "all, by rows";
    for (size_t i = 0; i < n; i++)
        if (said_num(&workers[i], "stage") == stage && said_num(&workers[i], "member") == member)
            return said_str(&workers[i], "worker");
    return "?";
}

// -- what is hot --

struct hot {
    const struct json *layer;
    size_t expert;
    double use;
};

static void note(struct hot *list, int *n, const struct hot *h)
{
    int at = *n < HOTTEST ? (*n)++ : HOTTEST - 1;
    if (at == HOTTEST - 1 && list[at].layer && list[at].use >= h->use) return;
    for (; at > 0 && list[at - 1].use < h->use; at--)
        list[at] = list[at - 1];
    list[at] = *h;
}

static void draw_copies(const struct json *experts, const struct hot *h)
{
    const struct json *copies, *pair;
    const size_t n = said_items(h->layer, "copies", &copies);
    for (size_t i = 0; i < n; i++) {
        pair = copies[i].kind == J_ARR && copies[i].arr.n == 2 ? copies[i].arr.items : NULL;
        if (pair && json_number(&pair[0], -1) == (double)h->expert)
            printf(", copy at %s",
                   name_of(experts, said_num(h->layer, "stage"), json_number(&pair[1], -1)));
    }
}

static void draw_hottest(const struct json *experts)
{
    const struct json *layers, *use, *owner;
    struct hot list[HOTTEST] = {{0}};
    int n_hot = 0;
    const size_t n = said_items(experts, "layers", &layers);
    for (size_t i = 0; i < n; i++) {
        const size_t n_expert = said_items(&layers[i], "use", &use);
        for (size_t e = 0; e < n_expert; e++) {
            const struct hot h = {&layers[i], e, json_number(&use[e], 0)};
            if (h.use > 0) note(list, &n_hot, &h);
        }
    }
    if (n_hot) printf("  hottest, of their layer's products\n");
    for (int i = 0; i < n_hot; i++) {
        const struct hot *h = &list[i];
        const double member = h->expert < said_items(h->layer, "owner", &owner)
                                  ? json_number(&owner[h->expert], INFINITY)
                                  : INFINITY;
        printf("    layer %3.0f expert %4zu  %5.1f%%  at %s", said_num(h->layer, "layer"),
               h->expert, 100 * h->use, name_of(experts, said_num(h->layer, "stage"), member));
        draw_copies(experts, h);
        printf("\n");
    }
}

void experts_view_draw(const struct json *cluster)
{
    const struct json *lanes;
    const size_t n = said_items(cluster, "lanes", &lanes);
    bool is_any = false;
    for (size_t i = 0; i < n; i++) {
        const struct json *e = json_get(&lanes[i], "experts");
        if (!e || e->kind != J_OBJ) continue;
        is_any = true;
        printf("\nexperts of %s: %.0f in each layer, %.0f products lately\n",
               said_str(&lanes[i], "name"), said_num(e, "n_expert"), said_num(e, "products"));
        draw_workers(e);
        draw_hottest(e);
    }
    if (!is_any) printf("\nno experts: the model has none, or no lane serves\n");
}
