#!/usr/bin/env python3
"""act_order_made.py FROM TO: a GPTQ checkpoint of experts, in FROM, as one whose columns are in an order
of their own (desc_act), in TO. The middle columns of each expert change places, in the rows of gate and
up as in the columns of down, whose g_idx then says which group each belongs to: the same function, so the
golden outputs stay. Standard library only."""
import json
import pathlib
import random
import shutil
import struct
import sys


def read(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items()}


def write(path, tensors):
    header, at = {}, 0
    for k, (dtype, shape, data) in tensors.items():
        header[k] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(d for _, _, d in tensors.values()))


def columns(tensor, order):
    """The columns of a matrix of items of whole bytes in another order."""
    dtype, (rows, cols), data = tensor
    size = len(data) // (rows * cols)
    out = b"".join(data[(r * cols + c) * size:(r * cols + c + 1) * size] for r in range(rows) for c in order)
    return dtype, [rows, cols], out


def nibble_rows(tensor, order):
    """Rows of 4-bit codes (words of 8 of them, one below the other) in another order."""
    dtype, (words, cols), data = tensor
    old = struct.unpack(f"<{words * cols}I", data)
    new = [0] * (words * cols)
    for to, of in enumerate(order):
        for c in range(cols):
            new[to // 8 * cols + c] |= (old[of // 8 * cols + c] >> of % 8 * 4 & 15) << to % 8 * 4
    return dtype, [words, cols], struct.pack(f"<{words * cols}I", *new)


def main():
    source, to = map(pathlib.Path, sys.argv[1:3])
    shutil.copytree(source, to, dirs_exist_ok=True)
    config = json.loads((to / "config.json").read_text())
    old = config["quantization_config"]
    group = old["group_size"]
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "desc_act": True}
    (to / "config.json").write_text(json.dumps(config))
    path = next(to.glob("model*.safetensors"))
    tensors = read(path)
    rng = random.Random(1)
    n = 0
    for name in sorted(k for k in tensors if k.endswith(".down_proj.qweight") and ".experts." in k):
        module = name[:-len("down_proj.qweight")]
        order = list(range(tensors[name][1][0] * 8))
        rng.shuffle(order)
        for half in ("gate_proj", "up_proj"):
            zeros = tensors[f"{module}{half}.qzeros"]
            assert len(set(zeros[2])) == 1, "zeros differ: they would have to move too"
            for part in ("qweight", "scales"):
                tensors[f"{module}{half}.{part}"] = columns(tensors[f"{module}{half}.{part}"], order)
        tensors[name] = nibble_rows(tensors[name], order)
        groups = [c // group for c in order]
        assert len(set(groups)) > 1, "one group has no order"
        tensors[f"{module}down_proj.g_idx"] = ("I32", [len(order)], struct.pack(f"<{len(order)}i", *groups))
        n += 1
    for name in [k for k in tensors if k.endswith(".qweight")]:
        module = name[:-len("qweight")]
        cols = tensors[name][1][0] * 8
        tensors.setdefault(f"{module}g_idx", ("I32", [cols], struct.pack(f"<{cols}i", *(c // group for c in range(cols)))))
    write(path, tensors)
    assert n, "no experts"


main()
