"""Loading a model of made-up weights from disk to a device, beside how fast the disk itself is read (dd iflag=direct).

    gpu_load.py PROGRAM [--tiny] [--device NAME]
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time


def write_model(folder, dim, ffn, layers, heads, kv, vocab):
    """A Hugging Face folder in BF16, one tile of random small numbers again and again."""
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dim, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16"}))
    head_dim = dim // heads
    tensors = [("model.embed_tokens.weight", (vocab, dim)), ("model.norm.weight", (dim,))]
    for i in range(layers):
        p = f"model.layers.{i}."
        tensors += [(p + "self_attn.q_proj.weight", (dim, dim)), (p + "self_attn.k_proj.weight", (kv * head_dim, dim)),
                    (p + "self_attn.v_proj.weight", (kv * head_dim, dim)), (p + "self_attn.o_proj.weight", (dim, dim)),
                    (p + "mlp.gate_proj.weight", (ffn, dim)), (p + "mlp.up_proj.weight", (ffn, dim)),
                    (p + "mlp.down_proj.weight", (dim, ffn)), (p + "input_layernorm.weight", (dim,)),
                    (p + "post_attention_layernorm.weight", (dim,))]
    head, at = {}, 0
    for name, shape in tensors:
        n = 2
        for s in shape:
            n *= s
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    # bf16 of sign and fraction by chance and an exponent of about 2^-6
    tile = bytes(b if k % 2 == 0 else (b & 0x80) | 0x3c for k, b in enumerate(os.urandom(1 << 20)))
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _ in range(at // len(tile)):
            f.write(tile)
        f.write(tile[:at % len(tile)])
        f.flush()
        os.fsync(f.fileno())


def forget(path):
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cached_share(path):
    """The part of a file that lies in the page cache, or None: no tool to ask."""
    if not shutil.which("fincore"):
        return None
    out = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)], capture_output=True,
                         text=True, check=False).stdout
    return int(out.split()[0]) / os.path.getsize(path) if out.split() else None


def main(program, tiny, device):
    with tempfile.TemporaryDirectory(prefix="trireme-load-", dir=os.environ.get("LOAD_DIR")) as scratch:
        folder = pathlib.Path(scratch)
        if tiny:
            write_model(folder, dim=256, ffn=512, layers=2, heads=4, kv=2, vocab=512)
        else:
            write_model(folder, dim=4096, ffn=14336, layers=8, heads=32, kv=8, vocab=32000)
        file = folder / "model.safetensors"
        size = file.stat().st_size
        print(f"file_mib,{size >> 20}")
        for turn in range(1 if tiny else 2):
            forget(file)
            begin = time.monotonic()
            dd = subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=4M", "iflag=direct"], capture_output=True,
                                check=False)
            if dd.returncode == 0:
                print(f"dd_gb_per_s,{size / (time.monotonic() - begin) / 1e9:.2f}")
            for state in ("cold", "again"):
                if state == "cold":
                    forget(file)
                r = subprocess.run([program, "bench", str(folder), "--device", device, "--json", "--no-limits", "--batch", "1",
                                    "--prompt", "4", "--tokens", "2"], capture_output=True, text=True, check=False)
                if r.returncode:
                    sys.exit(r.stderr[-600:])
                got = json.loads(r.stdout)
                print(f"load_{state}_gb_per_s,{size / got['load_s'] / 1e9:.2f},s,{got['load_s']:.2f},planned,"
                      f"{got['planned_bytes']},taken,{got['taken_bytes']}")
            share = cached_share(file)
            if share is not None:
                print(f"share_in_page_cache,{share:.3f}")
            sys.stdout.flush()


if __name__ == "__main__":
    words = sys.argv[1:]
    tiny = "--tiny" in words
    device = words[words.index("--device") + 1] if "--device" in words else "cuda"
    if not words:
        sys.exit(__doc__)
    main(words[0], tiny, device)
