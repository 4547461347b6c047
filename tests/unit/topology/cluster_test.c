// Cluster files: good ones read back exactly, bad ones are refused with file, line, found, allowed.
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/base/buf.h"
#include "topology/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE(name, host)                                                                         \
    "  - name: " name "\n    host: " host "\n    kind: cpu\n    threads: 2\n    mem_bytes: 4e9\n"  \
    "    read_bytes_per_s: 20e9\n    f32_flops_per_s: 100e9\n"

static struct cluster *good(const char *text)
{
    struct cluster *c = NULL;
    struct err_text why = {{0}};
    if (cluster_read("test.yaml", text, strlen(text), &c, &why)) fail_msg("%s", why.s);
    return c;
}

static void refused(const char *text, const char *needle)
{
    struct cluster *c = (struct cluster *)(uintptr_t)1;
    struct err_text why = {{0}};
    err_t e = cluster_read("test.yaml", text, strlen(text), &c, &why);
    if (e != ERR_CONFIG || strncmp(why.s, "test.yaml", 9) || !strstr(why.s, needle))
        fail_msg("error %d: '%s', expected '%s'", e, why.s, needle);
    assert_null(strchr(why.s, '\n'));
    assert_ptr_equal(c, (void *)(uintptr_t)1);
}

static void reads_devices_and_links(void **state)
{
    (void)state;
    struct cluster *c = good("# a comment\ndevices:\n" DEVICE("a", "x") DEVICE(
        "b", "y") "    unified: yes\n    mem_free_bytes: 3000000000\n"
                  "    int8_ops_per_s: 2e11\n" DEVICE(
                      "c", "x") "links:\n  - {from: a, to: b, latency_us: 50, bytes_per_s: 117e6}\n"
                                "  - {from: c, to: b, latency_us: 10, bytes_per_s: 1e9}\n"
                                "  - {from: b, to: c, latency_us: 20, bytes_per_s: 2e9}\n");
    assert_int_equal(c->n_device, 3);
    assert_string_equal(c->devices[1].name, "b");
    assert_string_equal(c->devices[1].host, "y");
    assert_int_equal(c->devices[0].kind, CLUSTER_CPU);
    assert_int_equal(c->devices[0].mem_free_bytes, 4000000000);
    assert_int_equal(c->devices[1].mem_free_bytes, 3000000000);
    assert_true(c->devices[1].unified);
    assert_float_equal(c->devices[1].int8_ops_per_s, 2e11, 0);
    assert_float_equal(c->links[0][1].latency_us, 50, 0);
    assert_float_equal(c->links[1][0].latency_us, 50, 0); // mirrored
    assert_float_equal(c->links[2][1].latency_us, 10, 0);
    assert_float_equal(c->links[1][2].latency_us, 20, 0); // given
    assert_float_equal(c->links[0][2].bytes_per_s, cluster_same_host.bytes_per_s, 0);
    assert_float_equal(c->links[0][0].bytes_per_s, 0, 0);
    assert_int_equal(cluster_find(c, "c"), 2);
    assert_int_equal(cluster_find(c, "d"), -1);
    free(c);
}

static void writes_what_it_reads(void **state)
{
    (void)state;
    struct cluster *c = good("devices:\n" DEVICE("a", "x") DEVICE("b", "x") DEVICE("c", "z"));
    c->devices[0].read_bytes_per_s = 1e10 / 3; // no short decimal form
    c->devices[1].kind = CLUSTER_CUDA;
    c->devices[1].threads = 0;
    c->devices[2].mem_bytes = ((uint64_t)1 << 40) + 1;
    c->links[0][1] = c->links[1][0] = (struct cluster_link){0, 0}; // no link though on one host
    c->links[1][2] = (struct cluster_link){0.1, 12345.678};        // one direction only
    struct buf text = {0};
    cluster_write(c, &text);
    assert_true(buf_ok(&text));
    struct cluster *again = good(text.data);
    assert_memory_equal(again, c, sizeof *c);
    free(again);
    // The same through a file.
    char path[64];
    struct err_text why = {{0}};
    snprintf(path, sizeof path, "/tmp/trireme-cluster-%d.yaml", (int)getpid());
    if (cluster_save(c, "made by a test\n\nof two lines", path, &why) ||
        cluster_load(path, &again, &why))
        fail_msg("%s", why.s);
    assert_memory_equal(again, c, sizeof *c);
    unlink(path);
    free(again);
    assert_int_equal(cluster_save(c, NULL, "/tmp/no-such-folder/x.yaml", &why), ERR_SYSTEM);
    c->devices[0].read_bytes_per_s = 0;
    assert_int_equal(cluster_save(c, "made by a test\n\nof two lines", path, &why), ERR_CONFIG);
    assert_int_equal(access(path, F_OK), -1);
    free(c);
    buf_fini(&text);
}

static void refuses_with_file_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *needle;
    } cases[] = {
        {"", "test.yaml: is empty"},
        {"[", "test.yaml: Expecting MAPPING"},
        {"devices: []", "test.yaml:1: "},
        {"devices: 7", "test.yaml:1: "},
        {"other: 1\ndevices:\n" DEVICE("a", "x"), "test.yaml:1: Unexpected key: other"},
        {"devices:\n" DEVICE("a", "x") "    colour: red\n", "test.yaml:9: Unexpected key: colour"},
        {"devices:\n  - name: a\n    host: x\n", "Missing required mapping field: kind"},
        {"devices:\n" DEVICE("a", "x") "    name: b\n", "test.yaml:9: "},
        {"devices:\n" DEVICE("a", "x") "    kind: gpu\n", "test.yaml:9: "},
        {"devices:\n" DEVICE("a", "x") "    int8_ops_per_s: fast\n",
         "test.yaml:2: device 'a': int8_ops_per_s is 'fast', allowed are"},
        {"devices:\n" DEVICE("a", "x") "    int8_ops_per_s: nan\n",
         "test.yaml:2: device 'a': int8_ops_per_s is 'nan', allowed"},
        {"devices:\n" DEVICE("a", "x") "    int8_ops_per_s: -1\n", "int8_ops_per_s is -1, allowed"},
        {"devices:\n" DEVICE("a", "x") "    int8_ops_per_s: 1e999\n",
         "int8_ops_per_s is inf, allowed"},
        {"devices:\n" DEVICE("a", "x") "    host_cores: -5\n", "host_cores is -5, allowed"},
        {"devices:\n" DEVICE("a", "x") "    host_cores: 1e999\n", "host_cores is inf, allowed"},
        {"devices:\n" DEVICE("a", "x") "    host_read_bytes_per_s: 1e999\n",
         "host_read_bytes_per_s is inf, allowed"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: 5e9\n",
         "test.yaml:2: device 'a': mem_free_bytes is 5e+09, allowed 1 to 4e+09"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: 0.5\n",
         "mem_free_bytes is 0.5, allowed whole numbers"},
        {"devices:\n" DEVICE("a", "x") "\n# c\n" DEVICE("a", "y"),
         "test.yaml:11: device 'a' is there twice, allowed once"},
        {"devices:\n" DEVICE("a b", "x"), "test.yaml:2: device 'a b'"},
        {"devices:\n" DEVICE("12345678901234567890123456789012", "x"), "test.yaml:2: "},
        {"devices:\n" DEVICE("a",
                             "x") "links:\n  - {from: a, to: b, latency_us: 1, bytes_per_s: 1e6}\n",
         "test.yaml:10: link a to b: no device has the name 'b'"},
        {"devices:\n" DEVICE("a",
                             "x") "links:\n  - {from: a, to: a, latency_us: 1, bytes_per_s: 1e6}\n",
         "test.yaml:10: link a to a: allowed between two devices"},
        {"devices:\n" DEVICE("a", "x")
             DEVICE("b", "x") "links:\n- {from: a, to: b, latency_us: 1, bytes_per_s: 1e6}\n"
                              "- {from: a, to: b, latency_us: 1, bytes_per_s: 1e6}\n",
         "test.yaml:18: link a to b: is there twice"},
        {"devices:\n" DEVICE("a", "x")
             DEVICE("b", "x") "links:\n- {from: a, to: b, latency_us: -1, bytes_per_s: 1e6}\n",
         "test.yaml:17: link a to b: latency_us -1"},
        {"devices:\n" DEVICE("a", "x")
             DEVICE("b", "x") "links:\n- {from: a, to: b, latency_us: 1, bytes_per_s: nan}\n",
         "bytes_per_s is 'nan'"},
        {"devices:\n  - &x {name: a, host: h, kind: cpu, threads: 1, mem_bytes: 4e9, "
         "read_bytes_per_s: 1e9, f32_flops_per_s: 1e9}\n  - *x\n",
         "test.yaml:"},
        {"devices:\n  - {name: a, host: h, kind: gpu}\n", "test.yaml:2: Invalid ENUM value: gpu"},
        {"devices:\n  - {name: a, host: h, kind: cpu, mem_bytes: 4e9, read_bytes_per_s: 1e9, "
         "f32_flops_per_s: 1e9}\n",
         "test.yaml:2: device 'a': threads is 0, allowed 1 to 4096"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: -3\n",
         "mem_free_bytes is -3, allowed whole"},
        {"devices:\n\t- name: a\n", "test.yaml"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: 3 GB\n",
         "mem_free_bytes is '3 GB', allowed are"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: 0x10\n", "mem_free_bytes is '0x10'"},
        {"devices:\n" DEVICE("a", "x") "    mem_free_bytes: ~\n", "mem_free_bytes is '~'"},
        {"devices:\n" DEVICE("a", "x") "    unified: maybe\n", "test.yaml:9: "},
        {"\xff\xfe", "test.yaml"},
        {"devices:\n" DEVICE("\"a\\nerror: b\"", "x"), "test.yaml:2: device 'a\\x0aerror: b'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].text, cases[i].needle);
}

static void refuses_large_and_deep_files(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_str(&b, "devices:\n");
    for (int i = 0; i < 65; i++)
        buf_printf(&b,
                   "  - {name: d%d, host: h, kind: cuda, mem_bytes: 4e9, read_bytes_per_s: 1e9, "
                   "f32_flops_per_s: 1e9}\n",
                   i);
    refused(b.data, "test.yaml");
    buf_clear(&b);
    for (int i = 0; i < 100000; i++)
        buf_char(&b, '[');
    refused(b.data, "test.yaml");
    buf_clear(&b);
    for (int i = 0; i < 300000; i++)
        buf_str(&b, "#");
    refused(b.data, "has 300000 bytes, allowed 262144");
    buf_fini(&b);
    struct cluster *c;
    struct err_text why;
    assert_int_equal(cluster_load("/tmp", &c, &why), ERR_CONFIG);
    assert_int_equal(cluster_load("/dev/zero", &c, &why), ERR_CONFIG);
    assert_int_equal(cluster_load("/tmp/no-such.yaml", &c, &why), ERR_SYSTEM);
}

static void reads_the_examples(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        int n;
    } files[] = {{"two-cpu-boxes", 2},   {"one-gb10", 1},      {"two-gb10-cx7", 2},
                 {"two-3090-nvlink", 3}, {"two-4090", 2},      {"four-h100", 4},
                 {"laptop-5080", 2},     {"spark-and-h100", 2}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        struct cluster *c;
        struct err_text why = {{0}};
        snprintf(path, sizeof path, "deploy/clusters/%s.yaml", files[i].file);
        if (cluster_load(path, &c, &why)) fail_msg("%s", why.s);
        assert_int_equal(c->n_device, files[i].n);
        free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_devices_and_links),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(refuses_with_file_and_line),
        cmocka_unit_test(refuses_large_and_deep_files),
        cmocka_unit_test(reads_the_examples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
