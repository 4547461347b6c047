// The probe: limits of control groups of both versions from made-up trees, instruction sets from
// texts, and this machine as it is.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "topology/probe.h"
#include "topology/probe_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

static char root[64];

static int new_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/trireme-probe-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int drop_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

// A file of the tree, with the folders above it.
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = strchr(full + strlen(root) + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void put_meminfo(void)
{
    put("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree:         1000 kB\n"
                         "MemAvailable:   12000000 kB\n");
}

static struct probe limits(void)
{
    struct probe p = {0};
    struct err_text why = {{0}};
    if (probe_limits(root, &p, &why)) fail_msg("%s", why.s);
    return p;
}

static void machine_without_groups(void **state)
{
    (void)state;
    put_meminfo();
    struct probe p = limits();
    assert_int_equal(p.mem_total_bytes, 16384000000);
    assert_int_equal(p.mem_available_bytes, 12288000000);
    assert_false(p.is_limited);
    assert_int_equal(p.n_usable, 0);
}

static void version_two(void **state)
{
    (void)state;
    put_meminfo();
    put("/proc/self/cgroup", "0::/user.slice/job\n");
    put("/sys/fs/cgroup/user.slice/job/memory.max", "8000000000\n");
    put("/sys/fs/cgroup/user.slice/job/memory.current", "3000000000\n");
    put("/sys/fs/cgroup/user.slice/job/memory.stat", "anon 1\ninactive_file 1000000000\n");
    put("/sys/fs/cgroup/user.slice/job/cpu.max", "250000 100000\n");
    struct probe p = limits();
    assert_int_equal(p.mem_total_bytes, 8000000000);
    assert_int_equal(p.mem_available_bytes, 6000000000);
    assert_true(p.is_limited);
    assert_int_equal(p.n_usable, 3);
    assert_true(p.quota == 2.5);
    assert_true(probe_part(&p, 5) == 0.5 && probe_part(&p, 2) == 1);
    // A lower limit further up binds, too.
    put("/sys/fs/cgroup/user.slice/memory.max", "4000000000\n");
    put("/sys/fs/cgroup/user.slice/memory.current", "3500000000\n");
    put("/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n");
    p = limits();
    assert_int_equal(p.mem_total_bytes, 4000000000);
    assert_int_equal(p.mem_available_bytes, 500000000);
    assert_int_equal(p.n_usable, 3);
}

static void version_one(void **state)
{
    (void)state;
    put_meminfo();
    put("/proc/self/cgroup", "5:cpuset:/\n4:memory:/a/b\n2:cpuacct,cpu:/c\n1:name=systemd:/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "1000000000\n");
    put("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1100000000\n");
    put("/sys/fs/cgroup/memory/a/b/memory.stat", "cache 5\ntotal_inactive_file 200000000\n");
    put("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    struct probe p = limits();
    assert_int_equal(p.mem_total_bytes, 1000000000);
    assert_int_equal(p.mem_available_bytes, 100000000);
    assert_int_equal(p.n_usable, 1);
    assert_true(p.quota == 1 && probe_part(&p, 1) == 1);
}

static void limit_above_the_machine(void **state)
{
    (void)state;
    put_meminfo();
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/memory.max", "64000000000\n");
    struct probe p = limits();
    assert_int_equal(p.mem_total_bytes, 16384000000);
    assert_int_equal(p.mem_available_bytes, 12288000000);
    assert_false(p.is_limited);
}

static void nonsense_is_survived(void **state)
{
    (void)state;
    put_meminfo();
    put("/proc/self/cgroup", "\n:::\nx\n0::relative\n0::/../..\n4:memory:\n4:memory\n");
    put("/sys/fs/cgroup/memory.max", "-5\n");
    put("/sys/fs/cgroup/cpu.max", "100000 0\n");
    struct probe p = limits();
    assert_int_equal(p.mem_total_bytes, 16384000000);
    put("/proc/meminfo", "nothing useful\n");
    struct err_text why;
    assert_int_equal(probe_limits(root, &p, &why), ERR_SYSTEM);
    assert_int_equal(p.mem_total_bytes, 16384000000);
}

static void knows_instruction_sets(void **state)
{
    (void)state;
    assert_int_equal(probe_isa_of("processor\t: 0\nflags\t\t: fpu avx avx2 fma f16c avx512f\n"
                                  "processor\t: 1\nflags\t\t: i8mm\n"),
                     PROBE_AVX2 | PROBE_FMA | PROBE_F16C | PROBE_AVX512F);
    assert_int_equal(probe_isa_of("Features\t: fp asimd asimddp i8mm sve"),
                     PROBE_NEON | PROBE_DOTPROD | PROBE_I8MM | PROBE_SVE);
    assert_int_equal(probe_isa_of("flags : avx2x xavx2\n"), 0);
    assert_int_equal(probe_isa_of(""), 0);
}

static void reads_this_machine(void **state)
{
    (void)state;
    struct probe p;
    struct utsname name;
    struct err_text why = {{0}};
    if (probe_read(&p, &why)) fail_msg("%s", why.s);
    uname(&name);
    assert_string_equal(p.arch, name.machine);
    assert_non_null(p.cpu[0] ? p.cpu : NULL);
    assert_true(p.n_package >= 1 && p.n_core >= p.n_package);
    assert_true(p.n_thread >= p.n_core && p.n_core >= 1 && p.n_numa >= 1);
    assert_true(p.n_usable >= 1 && p.n_usable <= p.n_thread);
    assert_true(p.mem_total_bytes >= p.mem_available_bytes && p.mem_available_bytes > 1 << 20);
    assert_true(p.page_bytes >= 4096);
    print_message("%s: %s, %s, %d cores, %d threads (%d usable), L1d %llu L2 %llu L3 %llu, "
                  "%llu of %llu MiB, %s\n",
                  p.host, p.cpu, p.arch, p.n_core, p.n_thread, p.n_usable,
                  (unsigned long long)p.l1d_bytes, (unsigned long long)p.l2_bytes,
                  (unsigned long long)p.l3_bytes, (unsigned long long)p.mem_available_bytes >> 20,
                  (unsigned long long)p.mem_total_bytes >> 20, p.isa);
}

static void reads_the_disk(void **state)
{
    (void)state;
    char small[128], large[128];
    struct probe_disk d;
    struct err_text why = {{0}};
    put("/small.gguf", "only this");
    put("/large.gguf", "more");
    snprintf(small, sizeof small, "%s/small.gguf", root);
    snprintf(large, sizeof large, "%s/large.gguf", root);
    assert_int_equal(truncate(large, 20 << 20), 0);
    if (probe_disk_read(small, 100, &d, &why)) fail_msg("%s", why.s);
    assert_int_equal(d.read_bytes, strlen("only this"));
    if (probe_disk_read(root, 1000, &d, &why)) fail_msg("%s", why.s); // the largest file
    assert_non_null(strstr(d.file, "large.gguf"));
    assert_true(d.read_bytes > 0 && d.read_bytes <= 20 << 20 && d.read_bytes_per_s > 0);
    assert_true(d.bytes >= d.free_bytes && d.free_bytes > 0);
    assert_true(strncmp(d.mount, "/", 1) == 0 && d.type[0] && d.source[0]);
    print_message("%s (%s) on %s: %.2f GB/s%s\n", d.source, d.type, d.mount,
                  d.read_bytes_per_s * 1e-9, d.is_direct ? " direct" : "");
    assert_int_equal(probe_disk_read("/no/such/file", 100, &d, &why), ERR_NOT_FOUND);
    assert_int_equal(probe_disk_read("/dev/null", 100, &d, &why), ERR_NOT_FOUND);
    unlink(small);
    unlink(large);
    assert_int_equal(probe_disk_read(root, 100, &d, &why), ERR_NOT_FOUND);
    put("/x", ""); // for the teardown
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(machine_without_groups, new_root, drop_root),
        cmocka_unit_test_setup_teardown(version_two, new_root, drop_root),
        cmocka_unit_test_setup_teardown(version_one, new_root, drop_root),
        cmocka_unit_test_setup_teardown(limit_above_the_machine, new_root, drop_root),
        cmocka_unit_test_setup_teardown(nonsense_is_survived, new_root, drop_root),
        cmocka_unit_test_setup_teardown(reads_the_disk, new_root, drop_root),
        cmocka_unit_test(knows_instruction_sets),
        cmocka_unit_test(reads_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
