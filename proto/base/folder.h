// folder: makes folders that are for us alone.
#pragma once

// PATH and what is missing on the way to it, each 0700. -1: errno tells why.
int folder_make(const char *path);
