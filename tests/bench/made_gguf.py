"""Models of made-up weights as GGUF files that every program of the field reads: Llama's layers, dense or
with experts, all matrices of one type; the tokenizer is that of another GGUF file.

    made_gguf.py OUT TOKENIZER.gguf TYPE [dim=2048 layers=6 heads=32 kv=4 ffn=5632 experts=0 used=0]

Blocks are random with scales that keep activations finite; one tile of them is repeated, which no kernel can
notice. Formats: GGML's (ggml-common.h). Standard library only.
"""
import random
import struct
import sys

U32, F32, STR, ARR = 4, 6, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# type: GGML number, elements and bytes of a block, where its scales (halfs) lie
TYPES = {
    "Q4_0": (2, 32, 18, [0]),
    "Q4_1": (3, 32, 20, [0, 2]),
    "Q5_0": (6, 32, 22, [0]),
    "Q5_1": (7, 32, 24, [0, 2]),
    "Q8_0": (8, 32, 34, [0]),
    "Q2_K": (10, 256, 84, [80, 82]),
    "Q3_K": (11, 256, 110, [108]),
    "Q4_K": (12, 256, 144, [0, 2]),
    "Q5_K": (13, 256, 176, [0, 2]),
    "Q6_K": (14, 256, 210, [208]),
}
# What a block's scale is multiplied with at most, so that a weight is about +-0.05.
REACH = {"Q8_0": 127, "Q5_0": 16, "Q5_1": 31, "Q2_K": 45, "Q3_K": 128, "Q4_K": 945, "Q5_K": 1953, "Q6_K": 4096}


class Reader:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, form):
        v = struct.unpack_from("<" + form, self.raw, self.at)
        self.at += struct.calcsize("<" + form)
        return v[0]

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def skip(self, kind):
        if kind == STR:
            self.text()
        elif kind == ARR:
            elem, n = self.take("I"), self.take("Q")
            if elem in SIZES:
                self.at += n * SIZES[elem]
            else:
                for _ in range(n):
                    self.skip(elem)
        else:
            self.at += SIZES[kind]


def tokenizer_of(path):
    """(key, its bytes) of everything that begins with "tokenizer.", and how many tokens there are."""
    with open(path, "rb") as f:
        r = Reader(f.read(64 << 20))
    assert r.raw[:4] == b"GGUF", path
    r.at = 16
    kept, n_vocab = [], 0
    for _ in range(r.take("Q")):
        begin = r.at
        key, kind = r.text(), r.take("I")
        if key == "tokenizer.ggml.tokens":
            n_vocab = struct.unpack_from("<Q", r.raw, r.at + 4)[0]
        r.skip(kind)
        if key.startswith("tokenizer."):
            kept.append(r.raw[begin:r.at])
    return kept, n_vocab


def tile(kind, n):
    """n random blocks."""
    _, _, size, scales = TYPES[kind]
    rnd = random.Random(1)
    out = bytearray(rnd.randbytes(n * size))
    for i in range(n):
        for at in scales:
            struct.pack_into("<e", out, i * size + at, rnd.uniform(0.2, 1) * 0.1 / REACH.get(kind, 15))
    return bytes(out)


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def pair(key, kind, v):
    if kind == STR:
        return text(key) + struct.pack("<I", kind) + text(v)
    return text(key) + struct.pack("<I" + ("I" if kind == U32 else "f"), kind, v)


def tensors_of(c, n_vocab):
    """(name, shape outermost first, is a matrix of the model's type)"""
    d, f, e = c["dim"], c["ffn"], c["experts"]
    kv = d // c["heads"] * c["kv"]
    yield "token_embd.weight", [n_vocab, d], True
    yield "output_norm.weight", [d], False
    for i in range(c["layers"]):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", [d], False
        yield p + "attn_q.weight", [d, d], True
        yield p + "attn_k.weight", [kv, d], True
        yield p + "attn_v.weight", [kv, d], True
        yield p + "attn_output.weight", [d, d], True
        yield p + "ffn_norm.weight", [d], False
        if e:
            yield p + "ffn_gate_inp.weight", [e, d], False
        end = "_exps.weight" if e else ".weight"
        stack = [e] if e else []
        yield p + "ffn_gate" + end, stack + [f, d], True
        yield p + "ffn_up" + end, stack + [f, d], True
        yield p + "ffn_down" + end, stack + [d, f], True


def plain(shape):
    """Norms are 1, routers random."""
    n = 1
    for s in shape:
        n *= s
    if len(shape) == 1:
        return struct.pack("<f", 1) * n
    rnd = random.Random(n)
    return struct.pack(f"<{n}f", *(rnd.gauss(0, 0.05) for _ in range(n)))


def write(out, tokenizer, kind, **asked):
    """tokenizer None: a model of `vocab` ids without words."""
    c = dict(dim=2048, layers=6, heads=32, kv=4, ffn=5632, experts=0, used=0, vocab=0) | asked
    kept, n_vocab = tokenizer_of(tokenizer) if tokenizer else ([], c["vocab"])
    number, block, size, _ = TYPES[kind]
    keys = [pair("general.architecture", STR, "llama"), pair("general.name", STR, f"made up, {kind}"),
            pair("llama.context_length", U32, 8192), pair("llama.embedding_length", U32, c["dim"]),
            pair("llama.block_count", U32, c["layers"]), pair("llama.feed_forward_length", U32, c["ffn"]),
            pair("llama.attention.head_count", U32, c["heads"]),
            pair("llama.attention.head_count_kv", U32, c["kv"]),
            pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
            pair("llama.rope.dimension_count", U32, c["dim"] // c["heads"]),
            pair("llama.vocab_size", U32, n_vocab)]
    if c["experts"]:
        keys += [pair("llama.expert_count", U32, c["experts"]), pair("llama.expert_used_count", U32, c["used"])]
    keys += kept
    heads, at, sizes = b"", 0, []
    tensors = list(tensors_of(c, n_vocab))
    for name, shape, is_matrix in tensors:
        n = 1
        for s in shape:
            n *= s
        n_byte = n // block * size if is_matrix else 4 * n
        heads += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1],
                                          number if is_matrix else 0, at)
        sizes.append(n_byte)
        at += n_byte + -n_byte % 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + heads
    blocks = tile(kind, 16384)
    with open(out, "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for (name, shape, is_matrix), n_byte in zip(tensors, sizes):
            if is_matrix:
                for _ in range(n_byte // len(blocks)):
                    f.write(blocks)
                f.write(blocks[:n_byte % len(blocks)])
            else:
                f.write(plain(shape))
            f.write(bytes(-n_byte % 32))


def main(args):
    if len(args) < 3 or args[2] not in TYPES:
        sys.exit(__doc__)
    write(*args[:3], **{k: int(v) for k, v in (a.split("=") for a in args[3:])})


if __name__ == "__main__":
    main(sys.argv[1:])
