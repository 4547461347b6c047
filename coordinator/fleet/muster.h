// muster: who may join. What a worker says of itself is compared with what can be, before anything
// is planned with it; each refusal is one sentence with the number in it.
#pragma once
#include "coordinator/fleet/fleet.h"

enum { MUSTER_ALIVE_US = 1000000 }; // heard of so lately, a worker is taken to live

// ERR_LINK_VERSION: another protocol or another build, which may compute other bits.
// ERR_LINK_AUTH: not the name that its link was made for. ERR_LINK_PROTOCOL: no device, or layers
// that cannot be. ERR_CONFIG: figures that no machine has.
err_t muster_check(const char *peer, const struct msg_hello *h, struct err_text *why);
// Whether the worker has this model's files, or room (HELLO's store_bytes) to copy as much as we
// can send (is_sent) of them. ERR_MODEL, naming the hashes: it can have no part in plans.
err_t muster_check_model(const struct msg_hello *h, const struct model *m, bool is_sent,
                         struct err_text *why);
// A second worker under a name whose owner lives. ERR_BUSY: it may try again, for after a crash the
// dead may look alive for a moment.
err_t muster_check_name(const struct fleet_worker *owner, const struct msg_hello *h, int64_t now_us,
                        struct err_text *why);
