#include "coordinator/pairs_json.h"

#include "coordinator/fleet/survey.h"
#include <string.h>

static void str(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json_str(b, value, strlen(value));
    buf_char(b, ',');
}

static void write_pair(const struct fleet_worker *from, const struct fleet_worker *to,
                       const struct survey_link *l, struct buf *b)
{
    buf_char(b, '{');
    str(b, "from", from->hello.name);
    str(b, "to", to->hello.name);
    str(b, "state", survey_state_name(l->state));
    str(b, "transport", l->transport);
    str(b, "why", l->why);
    buf_str(b, "\"latency_us\":");
    buf_json_num(b, l->latency_us);
    buf_str(b, ",\"bytes_per_s\":");
    buf_json_num(b, l->bytes_per_s);
    buf_char(b, '}');
}

void pairs_json_write(const struct fleet *f, struct buf *b)
{
    const struct survey *s = fleet_survey(f);
    bool is_first = true;
    buf_str(b, "\"pairs\":[");
    for (uint32_t i = 0; i < LANE_WORKERS_MAX; i++) {
        for (uint32_t k = 0; k < LANE_WORKERS_MAX; k++) {
            const struct fleet_worker *from = fleet_worker(f, i), *to = fleet_worker(f, k);
            if (i == k || !from || !to) continue;
            if (!is_first) buf_char(b, ',');
            is_first = false;
            write_pair(from, to, &s->links[i][k], b);
        }
    }
    buf_char(b, ']');
}
