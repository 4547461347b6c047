#include "proto/link/port_priv.h"

err_t link_ucx_open(const struct port_config *c, struct port **out, struct err_text *why)
{
    (void)c, (void)out;
    return err_say(why, ERR_UNSUPPORTED, "port: ucx is not built in");
}
