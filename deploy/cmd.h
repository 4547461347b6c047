// cmd: the commands of the program; each returns the process's exit code (0 ok, 2 usage, 64+ as in
// sysexits).
#pragma once
#include "proto/base/err.h"

int cmd_serve(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_store(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_trust(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_drain(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_simulate(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_chat(int argc, char **argv);

// Prints "error: sentence" and returns the exit code of err.
int cmd_fail(err_t err, const struct err_text *why);
// A share of something: a number over 0, 1 at most. text NULL: not given, out is left alone.
// ERR_CONFIG.
err_t cmd_fraction(const char *option, const char *text, double *out, struct err_text *why);
// $XDG_STATE_HOME/trireme or ~/.local/state/trireme; `given` wins. Static buffer; never NULL.
const char *cmd_state_dir(const char *given);
