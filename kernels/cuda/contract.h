// contract: the C headers this folder needs, for C++.
#pragma once
#ifdef __cplusplus
#define _Noreturn [[noreturn]]
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" // a function may have a struct's name in C
#endif
extern "C" {
#include "kernels/group.h"
#include "kernels/kernels.h"
#include "proto/base/log.h"
}
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
#undef _Noreturn
#else
#include "kernels/group.h"
#include "kernels/kernels.h"
#endif
