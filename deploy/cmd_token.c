// trireme token new: a single-use join token, good for 15 minutes.
#include "deploy/cmd.h"
#include "deploy/opts.h"
#include "proto/link/identity.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

int cmd_token(int argc, char **argv)
{
    const char *state = NULL, *out = NULL, *args[1];
    const struct opt opts[] = {
        {"state", OPT_STR, &state, "DIR", "the coordinator's state folder", 0, 0},
        {"out", OPT_STR, &out, "FILE", "write the token to FILE (mode 0600), not to the terminal",
         0, 0},
        {0},
    };
    const struct opt_spec spec = {"token new [options]",
                                  "Makes a join token: one worker may use it, once, within 15 min.",
                                  opts, 1, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    if (strcmp(args[0], "new") != 0) {
        fprintf(stderr, "error: trireme token knows only: new\n");
        return 2;
    }
    struct err_text why = {0};
    struct buf token = {0};
    struct identity *id = NULL;
    err_t err = identity_open_coordinator(cmd_state_dir(state), "trireme", &id, &why);
    if (!err) err = identity_token_new(cmd_state_dir(state), (int64_t)time(NULL), &token, &why);
    if (!err && out) err = identity_write_file(out, token.data, token.len, &why);
    if (!err && !out) printf("%s\n", token.data);
    identity_close(id);
    buf_fini(&token);
    return err ? cmd_fail(err, &why) : 0;
}
