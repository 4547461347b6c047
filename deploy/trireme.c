// The program: finds the command and runs it.
#include "deploy/cmd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"serve", cmd_serve, "start a coordinator (and its local workers) and serve MODEL over HTTP"},
    {"worker", cmd_worker, "join a coordinator and compute part of its model"},
    {"store", cmd_store, "list the copies of models that workers have fetched, or remove some"},
    {"token", cmd_token, "make a join token for a worker"},
    {"trust", cmd_trust, "list the workers that have certificates, revoke them, take it back"},
    {"drain", cmd_drain, "let a worker or lane finish what it does, and leave"},
    {"status", cmd_status, "show lanes, stages, workers, links and requests of a running cluster"},
    {"probe", cmd_probe, "show what this machine is and can do"},
    {"doctor", cmd_doctor, "look for what may keep a machine, MODEL or a server from working"},
    {"plan", cmd_plan, "show how MODEL would be split over a cluster, and why"},
    {"simulate", cmd_simulate, "replay a trace of requests on a cluster that need not exist"},
    {"bench", cmd_bench, "measure prompt and decode speed, or perplexity, on this machine"},
    {"chat", cmd_chat, "talk to a running server"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(FILE *to)
{
    fprintf(to, "usage: trireme COMMAND ... (trireme COMMAND --help tells more)\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].about);
}

int cmd_fail(err_t err, const struct err_text *why)
{
    fprintf(stderr, "error: %s\n", why->s[0] ? why->s : err_name(err));
    return err_exit_code(err);
}

err_t cmd_fraction(const char *option, const char *text, double *out, struct err_text *why)
{
    char *end = NULL;
    const double v = text ? strtod(text, &end) : 0;
    if (!text) return OK;
    if (end == text || *end || !(v > 0 && v <= 1))
        return err_say(why, ERR_CONFIG, "%s %.40s: over 0, and 1 at most", option, text);
    *out = v;
    return OK;
}

const char *cmd_state_dir(const char *given)
{
    static char dir[4096];
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (given) return given;
    if (xdg && *xdg)
        snprintf(dir, sizeof dir, "%s/trireme", xdg);
    else
        snprintf(dir, sizeof dir, "%s/.local/state/trireme", home && *home ? home : "/root");
    return dir;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); // a gone peer is an error code, not a death
    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("trireme %s\n", TRIREME_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "error: unknown command %s\n", argv[1]);
    print_usage(stderr);
    return 2;
}
