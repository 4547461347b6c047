"""What the vendor's library and a copy reach on this device, to compare our products with: products of FP16 and BF16
by rows, in the time of one, each reading other weights than the one before. Exit 77 without PyTorch or a device."""
import sys

try:
    import torch
except ImportError:
    print("no PyTorch here")
    sys.exit(77)
if not torch.cuda.is_available():
    print("PyTorch sees no device")
    sys.exit(77)

MANY = 20


def seconds(f, times=9):
    """Median seconds of f, of MANY in a recorded graph."""
    for _ in range(3):
        f()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(MANY):
            f()
    took = []
    for _ in range(times):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        torch.cuda.synchronize()
        took.append(a.elapsed_time(b) / 1e3 / MANY)
    return sorted(took)[len(took) // 2]


x = torch.empty(1 << 29, dtype=torch.uint8, device="cuda").random_()
y = torch.empty_like(x)
print(f"copy_gb_per_s,{2 * x.numel() / seconds(lambda: y.copy_(x)) / 1e9:.0f}")
del x, y
print("dtype,rows,cols,n_tok,us,tflops,weights_gb_per_s")
for dtype in (torch.float16, torch.bfloat16):
    for rows, cols in ((4096, 4096), (14336, 4096), (4096, 14336)):
        w = [torch.randn(rows, cols, device="cuda", dtype=dtype) for _ in range(6)]
        for m in (1, 4, 16, 64, 512, 2048):
            a = torch.randn(m, cols, device="cuda", dtype=dtype)
            turn = [0]

            def product():
                turn[0] += 1
                return a @ w[turn[0] % len(w)].T

            t = seconds(product)
            name = str(dtype).removeprefix("torch.")
            print(f"{name},{rows},{cols},{m},{t * 1e6:.2f},{2 * m * rows * cols / t / 1e12:.1f},"
                  f"{2 * rows * cols / t / 1e9:.0f}")
