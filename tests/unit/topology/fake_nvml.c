// A library with NVML's entry points and made-up machines behind them; gpus_test builds it and says
// which machine. The layouts are NVML's own, written out here a second time on purpose.
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define SHOWN __attribute__((visibility("default")))

enum { PAIR_3090, SPARK, EIGHT_H100, TWO_4090, NO_DRIVER, LOST, LIAR, TOO_MANY, NONE };
SHOWN int fake_machine = PAIR_3090;
SHOWN int fake_is_open = 0;

struct device {
    int index;
};
struct memory {
    unsigned long long total, free, used;
};
struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, sub;
    char bus_id[32];
};
struct field {
    unsigned id, scope;
    long long timestamp, latency;
    int type, code;
    unsigned long long value;
};

static struct device devices[32];

static int count(void)
{
    static const int n[] = {2, 1, 8, 2, 0, 1, 1, 17, 0};
    return n[fake_machine];
}

SHOWN int nvmlInit_v2(void)
{
    if (fake_machine == NO_DRIVER) return 9;
    fake_is_open++;
    return 0;
}
SHOWN int nvmlShutdown(void)
{
    fake_is_open--;
    return 0;
}
SHOWN const char *nvmlErrorString(int code)
{
    return code == 15 ? "GPU is lost" : code == 3 ? "Not Supported" : "something else";
}
SHOWN int nvmlSystemGetDriverVersion(char *out, unsigned size)
{
    snprintf(out, size, "580.95.05");
    return 0;
}
SHOWN int nvmlDeviceGetCount_v2(unsigned *out)
{
    *out = (unsigned)count();
    return 0;
}
SHOWN int nvmlDeviceGetHandleByIndex_v2(unsigned i, struct device **out)
{
    devices[i].index = (int)i;
    *out = &devices[i];
    return 0;
}
SHOWN int nvmlDeviceGetName(struct device *d, char *out, unsigned size)
{
    static const char *const names[] = {"NVIDIA GeForce RTX 3090",
                                        "NVIDIA GB10",
                                        "NVIDIA H100 80GB HBM3",
                                        "NVIDIA GeForce RTX 4090",
                                        "",
                                        "NVIDIA GeForce RTX 3090",
                                        "NVIDIA GeForce RTX 3090"};
    if (fake_machine == LOST) return 15;
    snprintf(out, size, "%s", names[fake_machine]);
    (void)d;
    return 0;
}
SHOWN int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out)
{
    (void)d;
    if (fake_machine == SPARK) return 3;
    out->total = fake_machine == EIGHT_H100 ? 85520809984ull : 25769803776ull;
    out->free = out->total - (512ull << 20);
    if (fake_machine == LIAR) out->free = 2 * out->total;
    out->used = out->total - out->free;
    return 0;
}
SHOWN int nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor)
{
    static const int cc[] = {86, 121, 90, 89, 0, 86, 86};
    (void)d;
    *major = cc[fake_machine] / 10;
    *minor = cc[fake_machine] % 10;
    return 0;
}
static void name_bus(int index, struct pci *out)
{
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", index + 10);
}
SHOWN int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out)
{
    name_bus(d->index, out);
    return 0;
}
SHOWN int nvmlDeviceGetMaxPcieLinkGeneration(struct device *d, unsigned *out)
{
    (void)d;
    *out = fake_machine == EIGHT_H100 ? 5 : 4;
    return fake_machine == SPARK ? 3 : 0;
}
SHOWN int nvmlDeviceGetMaxPcieLinkWidth(struct device *d, unsigned *out)
{
    (void)d;
    *out = 16;
    return fake_machine == SPARK ? 3 : 0;
}
SHOWN int nvmlDeviceGetNumGpuCores(struct device *d, unsigned *out)
{
    static const unsigned n[] = {10496, 6144, 16896, 16384};
    (void)d;
    *out = n[fake_machine];
    return 0;
}
SHOWN int nvmlDeviceGetMemoryBusWidth(struct device *d, unsigned *out)
{
    static const unsigned n[] = {384, 0, 5120, 384};
    (void)d;
    *out = n[fake_machine];
    return fake_machine == SPARK ? 3 : 0;
}
SHOWN int nvmlDeviceGetMaxClockInfo(struct device *d, int which, unsigned *mhz)
{
    static const unsigned core[] = {1695, 2520, 1980, 2520}, mem[] = {9751, 0, 2619, 10501};
    (void)d;
    *mhz = which == 1 ? core[fake_machine] : mem[fake_machine];
    return which == 2 && fake_machine == SPARK ? 3 : 0;
}
SHOWN int nvmlDeviceGetTopologyCommonAncestor(struct device *a, struct device *b, int *level)
{
    *level = fake_machine == EIGHT_H100 && a->index / 4 != b->index / 4 ? 50 : 30;
    return 0;
}
SHOWN int nvmlDeviceGetNvLinkState(struct device *d, unsigned link, int *is_active)
{
    const unsigned n = fake_machine == PAIR_3090 ? 4 : fake_machine == EIGHT_H100 ? 18 : 0;
    (void)d;
    *is_active = link < n;
    return n == 0 ? 3 : link < 18 ? 0 : 2;
}
SHOWN int nvmlDeviceGetNvLinkRemoteDeviceType(struct device *d, unsigned link, int *kind)
{
    (void)d, (void)link;
    *kind = fake_machine == EIGHT_H100 ? 2 : 0;
    return 0;
}
SHOWN int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *d, unsigned link, struct pci *out)
{
    (void)link;
    name_bus(1 - d->index, out);
    return 0;
}
SHOWN int nvmlDeviceGetFieldValues(struct device *d, int n, struct field *fields)
{
    (void)d;
    for (int i = 0; i < n; i++) {
        fields[i].code = fields[i].id == 90 ? 0 : 3;
        fields[i].type = 1;
        fields[i].value = fake_machine == EIGHT_H100 ? 26562 : 14062;
    }
    return 0;
}
