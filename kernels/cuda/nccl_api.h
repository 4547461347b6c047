// nccl_api: the few functions of NCCL that nccl.cu calls, and who provides them: nccl_open.cu the
// library of the machine, opened when it is needed, nccl_host.cc sockets between processes of this
// one. Of the library's header only types are used; where it was not there when the module was
// built, the same types are declared here (user guide of NCCL, API).
#pragma once
#include "kernels/cuda/simt.h"
#include "kernels/cuda/contract.h"

#if defined(__CUDACC__) && __has_include(<nccl.h>)
#include <nccl.h>
#else
#include <limits.h>
typedef struct ncclComm *ncclComm_t;
enum { NCCL_UNIQUE_ID_BYTES = 128 };
typedef struct {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;
typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7
} ncclResult_t;
typedef enum { ncclFloat32 = 7 } ncclDataType_t;
typedef struct { // as of 2.18: the library knows by `size` and `version` what is not there
    size_t size;
    unsigned int magic, version;
    int blocking, cgaClusterSize, minCTAs, maxCTAs;
    const char *netName;
    int splitShare;
} ncclConfig_t;
#define NCCL_CONFIG_INITIALIZER                                                                    \
    {                                                                                              \
        sizeof(ncclConfig_t), 0xcafebeef, 21800, INT_MIN, INT_MIN, INT_MIN, INT_MIN, NULL, INT_MIN \
    }
#endif

struct nccl_api {
    ncclResult_t (*version)(int *version);
    ncclResult_t (*unique_id)(ncclUniqueId *id);
    ncclResult_t (*init)(ncclComm_t *comm, int n, ncclUniqueId id, int rank, ncclConfig_t *config);
    ncclResult_t (*async_error)(ncclComm_t comm, ncclResult_t *error);
    ncclResult_t (*abort)(ncclComm_t comm);
    ncclResult_t (*group_start)(void);
    ncclResult_t (*group_end)(void);
    ncclResult_t (*send)(const void *data, size_t count, ncclDataType_t type, int peer,
                         ncclComm_t comm, cudaStream_t stream);
    ncclResult_t (*recv)(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                         cudaStream_t stream);
    ncclResult_t (*all_gather)(const void *mine, void *all, size_t count, ncclDataType_t type,
                               ncclComm_t comm, cudaStream_t stream);
    const char *(*error_string)(ncclResult_t result);
    const char *(*last_error)(ncclComm_t comm);
};

// Opened once, and kept. ERR_UNSUPPORTED: there is none; the sentence says what was missing.
err_t nccl_api_open(const struct nccl_api **out, struct err_text *why);
