// group_device: a group whose data lies on devices (kernels/group.h) as a struct group. It is here
// because neither of the two may know the other: kernels/ knows no links, proto/link no kernels.
#pragma once
#include "kernels/group.h"
#include "proto/link/group.h"

// Takes `inner` over, also when it fails; `side`, over a port between the same members, stays the
// caller's and must outlive it. ERR_MEMORY.
err_t group_device_open(struct kernels_group *inner, struct group *side, struct group **out,
                        struct err_text *why);
