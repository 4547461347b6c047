// trireme drain: a worker or lane of a running cluster takes no new requests, finishes those that
// it has, and leaves.
#include "deploy/client.h"
#include "deploy/cmd.h"
#include "deploy/opts.h"

#include <stdio.h>
#include <string.h>

static bool ignore_piece(void *arg, const char *data, size_t len)
{
    (void)arg, (void)data, (void)len;
    return true;
}

int cmd_drain(int argc, char **argv)
{
    struct client_config client = {.url = "http://127.0.0.1:30000"};
    uint32_t grace_s = 0;
    const char *args[1];
    const struct opt opts[] = {
        {"url", OPT_STR, &client.url, "URL", "server (http://127.0.0.1:30000)", 0, 0},
        {"api-key-file", OPT_STR, &client.key_file, "FILE", "file with the API key", 0, 0},
        {"ca", OPT_STR, &client.ca_file, "FILE", "CA certificate for https", 0, 0},
        {"grace", OPT_U32, &grace_s, "S",
         "how long its requests may run on there (30); then they go on elsewhere", 1, 86400},
        {0},
    };
    const struct opt_spec spec = {
        "drain NAME [options]",
        "The worker or lane NAME takes no new requests, finishes those it has, and leaves.", opts,
        1, 1};
    int code = opts_parse(&spec, argc, argv, args);
    if (code >= 0) return code;
    struct err_text why = {0};
    struct buf body = {0};
    buf_str(&body, "{\"name\":");
    buf_json_str(&body, args[0], strlen(args[0]));
    if (grace_s) buf_printf(&body, ",\"grace_s\":%u", grace_s);
    buf_char(&body, '}');
    err_t err = buf_ok(&body) ? client_request(&client, "/v1/cluster/drain", body.data,
                                               ignore_piece, NULL, &why)
                              : ERR_MEMORY;
    buf_fini(&body);
    if (err) return cmd_fail(err, &why);
    printf("%s is being drained; trireme status shows when it is gone\n", args[0]);
    return 0;
}
