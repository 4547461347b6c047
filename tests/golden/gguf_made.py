#!/usr/bin/env python3
"""Tiny Hugging Face checkpoints as the GGUF files that llama.cpp's converter makes of them.

    gguf_made.py [--old] OUT DIR [DIR...]

Of each DIR comes OUT/NAME/model.gguf, with DIR's golden files beside it. Names of keys and tensors, and
what the converter does to the values, are llama.cpp's (gguf-py/gguf/constants.py, tensor_mapping.py,
convert_hf_to_gguf.py), looked up there and written down here a second time on purpose: the tests would
see nothing if they shared topology/arch*.c's tables. Values stay as they are stored (BF16, F32, MXFP4);
vectors become F32. The few numbers that llama.cpp knows by itself and that differ in a tiny checkpoint are
written as keys of their own; these are marked "own". --old: as files of 2024 have it, kv_b in one piece,
experts one by one, DeltaNet's projections by key head. Standard library only.
"""
import array
import json
import math
import os
import shutil
import struct
import sys

U32, F32, BOOL, STR, ARR = 4, 6, 7, 8, 9
GGML = {"F32": 0, "F16": 1, "BF16": 30, "MXFP4": 39}


class Tensor:
    """Values as stored: dtype, shape (outermost first), bytes."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, list(shape), bytes(data)

    def parts(self, n):
        """n equal slices of the data, along the outermost dimensions."""
        size = len(self.data) // n
        return [self.data[i * size:(i + 1) * size] for i in range(n)]

    def rows(self):
        return self.parts(self.shape[0])

    def pick(self, order):
        """The rows `order` names, in that order."""
        rows = self.rows()
        return Tensor(self.dtype, [len(order)] + self.shape[1:], b"".join(rows[i] for i in order))

    def reshape(self, *shape):
        return Tensor(self.dtype, shape, self.data)

    def turned(self):
        """The last two dimensions change places."""
        n, r, c = math.prod(self.shape[:-2]), *self.shape[-2:]
        size = len(self.data) // (n * r * c)
        out = []
        for m in self.parts(n):
            for j in range(c):
                out += [m[(i * c + j) * size:(i * c + j + 1) * size] for i in range(r)]
        return Tensor(self.dtype, self.shape[:-2] + [c, r], b"".join(out))

    def each(self, f):
        """The same of each matrix of a stack."""
        made = [f(Tensor(self.dtype, self.shape[1:], d)) for d in self.rows()]
        return stack(made)

    def floats(self):
        if self.dtype == "F32":
            return array.array("f", self.data)
        if self.dtype == "F16":
            return array.array("f", struct.unpack(f"<{len(self.data) // 2}e", self.data))
        assert self.dtype == "BF16", self.dtype
        wide = b"".join(b"\0\0" + self.data[i:i + 2] for i in range(0, len(self.data), 2))
        return array.array("f", wide)

    def map(self, f):
        return Tensor("F32", self.shape, array.array("f", map(f, self.floats())).tobytes())

    def as_f32(self):
        return Tensor("F32", self.shape, self.floats().tobytes())


def stack(tensors):
    first = tensors[0]
    return Tensor(first.dtype, [len(tensors)] + first.shape, b"".join(t.data for t in tensors))


def load(folder):
    found = {}
    for name in sorted(os.listdir(folder)):
        if not name.startswith("model") or not name.endswith(".safetensors"):
            continue
        raw = open(os.path.join(folder, name), "rb").read()
        n, = struct.unpack("<Q", raw[:8])
        for key, v in json.loads(raw[8:8 + n]).items():
            if key != "__metadata__":
                a, z = v["data_offsets"]
                found[key] = Tensor(v["dtype"], v["shape"], raw[8 + n + a:8 + n + z])
    return found


# ---- architectures: GGUF's name and what its converter does

# permute    rows of queries and keys: halves that turn together become neighbours
# plus_one   norms become 1 + w
# tiled      value heads of DeltaNet: by key head -> key heads in turn
# rot        rope.dimension_count is written: of whole heads, of a part, or what rotary_dim says
# late_norm  the norm before the feed-forward is called post_attention_norm
# ffn        expert_feed_forward_length is this key
ARCHS = {
    "llama": dict(gguf="llama", permute=True, rot="head"),
    "mistral": dict(gguf="llama", permute=True, rot="head"),
    "mixtral": dict(gguf="llama", permute=True, rot="head"),
    "qwen2": dict(gguf="qwen2"),
    "qwen3": dict(gguf="qwen3"),
    "qwen3_moe": dict(gguf="qwen3moe", ffn="moe_intermediate_size"),
    "qwen3_next": dict(gguf="qwen3next", plus_one=True, rot="part", late_norm=True, ffn="moe_intermediate_size"),
    "qwen3_5_text": dict(gguf="qwen35", plus_one=True, tiled=True, rot="part", late_norm=True),
    "qwen3_5_moe_text": dict(gguf="qwen35moe", plus_one=True, tiled=True, rot="part", late_norm=True,
                             ffn="moe_intermediate_size"),
    "ministral3": dict(gguf="mistral3", permute=True, rot="head"),
    "mistral4": dict(gguf="mistral4", ffn="moe_intermediate_size"),
    "deepseek_v2": dict(gguf="deepseek2", ffn="moe_intermediate_size"),
    "deepseek_v3": dict(gguf="deepseek2", ffn="moe_intermediate_size"),
    "gpt_oss": dict(gguf="gpt-oss", late_norm=True, ffn="intermediate_size"),
    "gemma2": dict(gguf="gemma2", plus_one=True),
    "gemma3_text": dict(gguf="gemma3", plus_one=True),
    "phi3": dict(gguf="phi3", rot="head"),
    "smollm3": dict(gguf="smollm3", permute=True, rot="head"),
    "glm4_moe": dict(gguf="glm4moe", rot="part", late_norm=True, ffn="moe_intermediate_size"),
    "olmoe": dict(gguf="olmoe"),
    "granite": dict(gguf="granite", permute=True, rot="head"),
    "granitemoe": dict(gguf="granitemoe", permute=True, rot="head"),
    "llama4_text": dict(gguf="llama4", rot="head", ffn="intermediate_size"),
    "minimax_m2": dict(gguf="minimax-m2", rot="rotary_dim", ffn="intermediate_size"),
}

# Key after "ARCH.", type, and where config.json has the number (the first that is there).
KEYS = [
    ("context_length", U32, "max_position_embeddings"),
    ("embedding_length", U32, "hidden_size"),
    ("feed_forward_length", U32, "intermediate_size_mlp", "intermediate_size"),
    ("attention.head_count", U32, "num_attention_heads"),
    ("attention.layer_norm_rms_epsilon", F32, "rms_norm_eps"),
    ("vocab_size", U32, "vocab_size"),
    ("expert_count", U32, "num_local_experts", "num_experts", "n_routed_experts"),
    ("expert_used_count", U32, "num_experts_per_tok"),
    ("expert_group_count", U32, "n_group"),
    ("expert_group_used_count", U32, "topk_group"),
    ("expert_shared_count", U32, "n_shared_experts"),
    ("expert_shared_feed_forward_length", U32, "shared_expert_intermediate_size", "shared_intermediate_size"),
    ("expert_weights_scale", F32, "routed_scaling_factor"),
    ("leading_dense_block_count", U32, "first_k_dense_replace"),
    ("interleave_moe_layer_step", U32, "interleave_moe_layer_step"),
    ("attention.sliding_window", U32, "sliding_window"),
    ("attn_logit_softcapping", F32, "attn_logit_softcapping"),
    ("final_logit_softcapping", F32, "final_logit_softcapping"),
    ("attention.scale", F32, "attention_multiplier"),
    ("embedding_scale", F32, "embedding_multiplier"),
    ("residual_scale", F32, "residual_multiplier"),
    ("logit_scale", F32, "logits_scaling"),
    ("ssm.conv_kernel", U32, "linear_conv_kernel_dim"),
    ("ssm.state_size", U32, "linear_key_head_dim"),
    ("ssm.group_count", U32, "linear_num_key_heads"),
    ("ssm.time_step_rank", U32, "linear_num_value_heads"),
    ("full_attention_interval", U32, "full_attention_interval"),
    ("rope.freq_base_swa", F32, "rope_local_base_freq"),
    # own: llama.cpp takes 6 (gemma3), 8192 (both of llama4), and no window for llama
    ("attention.sliding_window_pattern", U32, "sliding_window_pattern"),
    ("attention.chunk_size", U32, "attention_chunk_size"),
    ("attention.temperature_length", U32, "floor_scale"),
]

# After "model.layers.N." -> after "blk.N.".
NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.qkv_proj.weight": "attn_qkv.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "mlp.gate_up_proj.weight": "ffn_up.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
    "block_sparse_moe.router.layer.weight": "ffn_gate_inp.weight",
    "feed_forward.router.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "block_sparse_moe.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    "block_sparse_moe.output_linear.weight": "ffn_down_exps.weight",
}
for _place in ("mlp.", "feed_forward."):
    for _part in ("gate", "up", "down"):
        NAMES[f"{_place}{_part}_proj.weight"] = f"ffn_{_part}.weight"
        for _shared in ("shared_expert", "shared_experts"):
            NAMES[f"{_place}{_shared}.{_part}_proj.weight"] = f"ffn_{_part}_shexp.weight"
EACH = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
ALWAYS_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight")


# ---- values

def neighbours(t, n_head):
    """Rows i and i + half of each head become rows 2i and 2i + 1."""
    half = t.shape[0] // n_head // 2
    return t.pick([(2 * h + k) * half + i for h in range(n_head) for i in range(half) for k in range(2)])


def mxfp4(blocks, scales):
    """(n, rows, cols / 32, 16) and a scale each -> 17 bytes a block, whose low nibbles are its first half."""
    out = bytearray()
    for at, scale in enumerate(scales.data):
        b = blocks.data[16 * at:16 * at + 16]
        codes = [c for x in b for c in (x & 15, x >> 4)]
        out.append(scale)
        out += bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
    n, rows, groups, _ = blocks.shape
    return Tensor("MXFP4", [n, rows, 32 * groups], out)


def llama3_factors(c, rope):
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    out = []
    for i in range(0, dim, 2):
        turns = rope["original_max_position_embeddings"] * c["rope_theta"] ** (-i / dim) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0), 1)
        out.append(1 / ((1 - smooth) / factor + smooth))
    return Tensor("F32", [len(out)], array.array("f", out).tobytes())


class Made:
    """One GGUF file in the making."""

    def __init__(self, folder, old):
        self.old = old
        self.outer = json.load(open(os.path.join(folder, "config.json")))
        self.c = self.outer.get("text_config", self.outer)
        self.arch = ARCHS[self.c["model_type"]]
        self.rope = {**(self.c.get("rope_scaling") or {}), **(self.c.get("rope_parameters") or {})}
        self.src = load(folder)
        self.keys, self.tensors = [], []
        self.n_layer = self.c["num_hidden_layers"]
        self.n_head = self.c["num_attention_heads"]
        self.n_head_kv = self.c.get("num_key_value_heads") or self.n_head
        self.head_dim = self.c.get("head_dim") or self.c["hidden_size"] // self.n_head
        self.is_mla = "kv_lora_rank" in self.c
        self.has_mtp = "mtp.fc.weight" in self.src

    def key(self, name, kind, value):
        self.keys.append((f"{self.arch['gguf']}.{name}", kind, value))

    def add(self, name, t):
        if len(t.shape) == 1 or name.endswith(ALWAYS_F32):
            t = t.as_f32()
        self.tensors.append((name, t))

    # -- keys

    def number(self, name, kind, *places):
        """Writes the first of the places that config.json has."""
        for place in places:
            if self.c.get(place):
                self.key(name, kind, self.c[place])
                return

    def attention_keys(self):
        c = self.c
        if self.is_mla:  # as if one head of the latent vector and the rotated part
            latent, rot = c["kv_lora_rank"], c["qk_rope_head_dim"]
            end = "" if self.old else "_mla"
            self.key("attention.head_count_kv", U32, self.n_head if self.old else 1)
            self.key("attention.key_length" + end, U32, c["qk_nope_head_dim"] + rot)
            self.key("attention.value_length" + end, U32, c["v_head_dim"])
            if not self.old:
                self.key("attention.key_length", U32, latent + rot)
                self.key("attention.value_length", U32, latent)
            self.key("attention.kv_lora_rank", U32, latent)
            self.number("attention.q_lora_rank", U32, "q_lora_rank")
            self.key("rope.dimension_count", U32, rot)
            return
        self.key("attention.head_count_kv", U32, self.n_head_kv)
        if c.get("head_dim"):
            self.key("attention.key_length", U32, c["head_dim"])
            self.key("attention.value_length", U32, c["head_dim"])
        part = c.get("partial_rotary_factor") or self.rope.get("partial_rotary_factor") or 1
        rot = {"head": self.head_dim, "part": int(self.head_dim * part), "rotary_dim": c.get("rotary_dim")}
        if "rot" in self.arch:
            self.key("rope.dimension_count", U32, rot[self.arch["rot"]])

    def rope_keys(self):
        c, rope = self.c, self.rope
        kind = rope.get("rope_type", rope.get("type"))
        self.key("rope.freq_base", F32, rope.get("rope_theta", c.get("rope_theta", 10000.0)))
        if kind in ("linear", "yarn"):
            self.key("rope.scaling.type", STR, kind)
            self.key("rope.scaling.factor", F32, rope["factor"])
        if kind == "yarn":
            self.key("rope.scaling.original_context_length", U32, rope["original_max_position_embeddings"])
            self.key("rope.scaling.yarn_beta_fast", F32, rope["beta_fast"])
            self.key("rope.scaling.yarn_beta_slow", F32, rope["beta_slow"])
            if "mscale_all_dim" in rope:  # "for legacy reasons" a tenth of it where there is MLA
                self.key("rope.scaling.yarn_log_multiplier", F32, rope["mscale_all_dim"] * (0.1 if self.is_mla else 1))
        if kind == "llama3":
            self.add("rope_freqs.weight", llama3_factors(c, rope))
        if self.arch["gguf"] == "phi3":
            self.key("rope.scaling.original_context_length", U32, c["original_max_position_embeddings"])
        if "llama_4_scaling_beta" in rope:
            self.key("attention.temperature_scale", F32, rope["llama_4_scaling_beta"])
        if self.arch["gguf"].startswith("qwen35"):
            self.key("rope.dimension_sections", ARR, (U32, rope["mrope_section"] + [0]))

    def write_keys(self):
        c, arch = self.c, self.arch
        self.keys.append(("general.architecture", STR, arch["gguf"]))
        self.key("block_count", U32, self.n_layer + self.has_mtp)
        for name, kind, *places in KEYS:
            self.number(name, kind, *places)
        if "ffn" in arch:
            self.key("expert_feed_forward_length", U32, c[arch["ffn"]])
        if arch["gguf"] in ("deepseek2", "mistral4", "glm4moe"):
            self.key("expert_weights_norm", BOOL, c["norm_topk_prob"])
        if c.get("scoring_func") == "sigmoid" or arch["gguf"] == "glm4moe":
            self.key("expert_gating_func", U32, 2)
        if self.has_mtp:
            self.key("nextn_predict_layers", U32, 1)
        if "linear_num_value_heads" in c:
            self.key("ssm.inner_size", U32, c["linear_value_head_dim"] * c["linear_num_value_heads"])
            if "layer_types" in c:
                flags = [t == "linear_attention" for t in c["layer_types"]]
                self.key("attention.recurrent_layers", ARR, (BOOL, flags + [False] * self.has_mtp))
        self.attention_keys()
        self.rope_keys()

    # -- tensors

    def tiled(self, t, dim, first=0):
        """Rows from `first` on are value heads of `dim` rows, grouped by key head: key heads in turn."""
        n_k, n_v = self.c["linear_num_key_heads"], self.c["linear_num_value_heads"]
        per = n_v // n_k
        order = [first + (k * per + v) * dim + i for v in range(per) for k in range(n_k) for i in range(dim)]
        return t.pick(list(range(first)) + order) if self.arch.get("tiled") else t

    def delta(self, blk, name, t):
        """What DeltaNet's tensors become; False if `name` is none of them."""
        c = self.c
        n_k, n_v = c.get("linear_num_key_heads", 0), c.get("linear_num_value_heads", 0)
        d_k, d_v = c.get("linear_key_head_dim", 0), c.get("linear_value_head_dim", 0)
        qk = 2 * n_k * d_k
        if name == "linear_attn.in_proj_qkvz.weight" and self.old:
            self.add(blk + "ssm_in.weight", t)
        elif name == "linear_attn.in_proj_qkvz.weight":  # of each key head q, k, v..., z...
            many = n_v // n_k * d_v
            head = 2 * d_k + 2 * many
            span = lambda at, n: [h * head + at + i for h in range(n_k) for i in range(n)]
            self.add(blk + "attn_qkv.weight", t.pick(span(0, d_k) + span(d_k, d_k) + span(2 * d_k, many)))
            self.add(blk + "attn_gate.weight", t.pick(span(2 * d_k + many, many)))
        elif name == "linear_attn.in_proj_qkv.weight":
            self.add(blk + "attn_qkv.weight", self.tiled(t, d_v, qk))
        elif name == "linear_attn.in_proj_z.weight":
            self.add(blk + "attn_gate.weight", self.tiled(t, d_v))
        elif name == "linear_attn.in_proj_a.weight":
            self.add(blk + "ssm_alpha.weight", self.tiled(t, 1))
        elif name == "linear_attn.in_proj_b.weight":
            self.add(blk + "ssm_beta.weight", self.tiled(t, 1))
        elif name == "linear_attn.conv1d.weight":
            self.add(blk + "ssm_conv1d.weight", self.tiled(t.reshape(t.shape[0], t.shape[-1]), d_v, qk))
        elif name == "linear_attn.A_log":
            self.add(blk + "ssm_a", self.tiled(t.map(lambda x: -math.exp(x)), 1))
        elif name == "linear_attn.dt_bias":
            self.add(blk + "ssm_dt.bias", self.tiled(t, 1))
        elif name == "linear_attn.out_proj.weight":
            self.add(blk + "ssm_out.weight", self.tiled(t.turned(), d_v).turned())
        else:
            return False
        return True

    def gate_and_up(self, blk, t, order, end="weight"):
        """Two matrices in one, of each of a stack: rows `order(n)` are the gate's, then those of up."""
        for part, rows in zip(("gate", "up"), order(t.shape[1])):
            self.add(f"{blk}ffn_{part}_exps.{end}", t.each(lambda m, rows=rows: m.pick(rows)))

    def experts(self, blk, name, t):
        halves = lambda n: (list(range(n // 2)), list(range(n // 2, n)))
        in_turn = lambda n: (list(range(0, n, 2)), list(range(1, n, 2)))
        is_oss = self.arch["gguf"] == "gpt-oss"
        if name in ("mlp.experts.gate_up_proj", "block_sparse_moe.input_linear.weight"):
            self.gate_and_up(blk, t, halves)
        elif name == "feed_forward.experts.gate_up_proj":  # llama4: (in, out)
            self.gate_and_up(blk, t.turned(), halves)
        elif name == "feed_forward.experts.down_proj":
            self.add(blk + "ffn_down_exps.weight", t.turned())
        elif name == "mlp.experts.gate_up_proj_bias" and is_oss:
            self.gate_and_up(blk, t.reshape(*t.shape, 1), in_turn, "bias")
        elif name.endswith("_blocks"):
            self.mx[name[:-len("_blocks")]] = t
        elif name.endswith("_scales"):
            self.mx_scales[name[:-len("_scales")]] = t
        else:
            return False
        return True

    def layer(self, prefix, number):
        blk, each = f"blk.{number}.", {}
        own = {"post_attention_layernorm.weight": "ffn_norm.weight"}
        if "gemma" in self.arch["gguf"] or self.arch.get("late_norm"):
            own = {"post_attention_layernorm.weight": "post_attention_norm.weight"}
        self.mx, self.mx_scales = {}, {}
        for full in [n for n in self.src if n.startswith(prefix)]:
            name, t = full[len(prefix):], self.src[full]
            if self.arch.get("plus_one") and name.endswith("norm.weight") and "linear_attn" not in name:
                t = t.map(lambda x: x + 1)
            words = name.split(".")
            if len(words) == 5 and words[1] == "experts":
                each.setdefault(EACH[words[3]], {})[int(words[2])] = t
            elif name.startswith(("self_attn.q_proj.", "self_attn.k_proj.")):
                which, n = ("q", self.n_head) if "q_proj" in name else ("k", self.n_head_kv)
                self.add(f"{blk}attn_{which}.{words[2]}", neighbours(t, n) if self.arch.get("permute") else t)
            elif name == "self_attn.kv_b_proj.weight":
                self.kv_b(blk, t)
            elif not self.delta(blk, name, t) and not self.experts(blk, name, t):
                self.add(blk + (own.get(name) or NAMES[name]), self.vector(name, t))
        for part, found in each.items():
            if self.old:
                for i, t in found.items():
                    self.add(f"{blk}ffn_{part}.{i}.weight", t)
                continue
            self.add(f"{blk}ffn_{part}_exps.weight", stack([found[i] for i in range(len(found))]))
        for module, blocks in self.mx.items():
            whole = mxfp4(blocks, self.mx_scales[module])
            if module.endswith("down_proj"):
                self.add(blk + "ffn_down_exps.weight", whole)
            else:
                self.gate_and_up(blk, whole, lambda n: (list(range(0, n, 2)), list(range(1, n, 2))))

    @staticmethod
    def vector(name, t):
        """A matrix of one row is a vector."""
        return t.reshape(t.shape[1]) if name == "mlp.shared_expert_gate.weight" else t

    def kv_b(self, blk, t):
        """Of each head the part of the keys, turned, and that of the values."""
        nope, v = self.c["qk_nope_head_dim"], self.c["v_head_dim"]
        if self.old:
            self.add(blk + "attn_kv_b.weight", t)
            return
        heads = t.reshape(self.n_head, nope + v, t.shape[1])
        self.add(blk + "attn_k_b.weight", heads.each(lambda m: m.pick(range(nope))).turned())
        self.add(blk + "attn_v_b.weight", heads.each(lambda m: m.pick(range(nope, nope + v))))

    def write_tensors(self):
        one = (lambda t: t.map(lambda x: x + 1)) if self.arch.get("plus_one") else (lambda t: t)
        prefix = next(p for p in ("model.language_model.", "language_model.model.", "model.")
                      if p + "embed_tokens.weight" in self.src)
        self.add("token_embd.weight", self.src[prefix + "embed_tokens.weight"])
        self.add("output_norm.weight", one(self.src[prefix + "norm.weight"]))
        for name in ("lm_head.weight", "language_model.lm_head.weight"):
            if name in self.src and not self.outer.get("tie_word_embeddings"):
                self.add("output.weight", self.src[name])
        for i in range(self.n_layer):
            self.layer(f"{prefix}layers.{i}.", i)
        if not self.has_mtp:
            return
        self.layer("mtp.layers.0.", self.n_layer)
        nextn = f"blk.{self.n_layer}.nextn."
        self.add(nextn + "eh_proj.weight", self.src["mtp.fc.weight"])
        self.add(nextn + "enorm.weight", one(self.src["mtp.pre_fc_norm_embedding.weight"]))
        self.add(nextn + "hnorm.weight", one(self.src["mtp.pre_fc_norm_hidden.weight"]))
        self.add(nextn + "shared_head_norm.weight", one(self.src["mtp.norm.weight"]))


# ---- the file

def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARR:
        elem, items = v
        return struct.pack("<IQ", elem, len(items)) + b"".join(value(elem, x) for x in items)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<B"}[kind], v)


def pad(n):
    return b"\0" * (-n % 32)


def write(made, path):
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(made.tensors), len(made.keys)))
    for name, kind, v in made.keys:
        out += text(name) + struct.pack("<I", kind) + value(kind, v)
    at = 0
    for name, t in made.tensors:
        shape = t.shape[::-1]  # innermost first
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, GGML[t.dtype], at)
        at += len(t.data) + len(pad(len(t.data)))
    out += pad(len(out))
    for _, t in made.tensors:
        out += t.data + pad(len(t.data))
    with open(path, "wb") as f:
        f.write(out)


def main(args):
    old = args[:1] == ["--old"]
    if len(args) < 2 + old:
        sys.exit(__doc__)
    out, *folders = args[old:]
    for folder in folders:
        name = os.path.basename(folder.rstrip("/"))
        os.makedirs(os.path.join(out, name), exist_ok=True)
        made = Made(folder, old)
        made.write_keys()
        made.write_tensors()
        write(made, os.path.join(out, name, "model.gguf"))
        for golden in ("golden.json", "golden.safetensors"):
            shutil.copyfile(os.path.join(folder, golden), os.path.join(out, name, golden))


main(sys.argv[1:])
