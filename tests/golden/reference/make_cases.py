#!/usr/bin/env python3
"""Writes ../cases: small random checkpoints and what ttt_reference.py makes of them.

Each case holds config.json, weights (F32, BF16 or F16, one file or two shards) and
golden.safetensors: `tokens` I32 [50], `logits` F32 [50, vocab] of one pass in float64,
and `w1`, ... the fast weights after it, per layer. The checkpoint is rounded to its
storage type before the reference sees it.

    python3 tests/golden/reference/make_cases.py    # needs numpy
"""

import json
import os

import numpy as np

import ttt_reference as ttt

CASES = [
    # name, type, head_dim, heads, layers, mini_batch, kernel, gate, share, pre, tied, storage
    ("linear-m1-k2", "linear", 32, 2, 2, 1, 2, True, True, True, True, "F32"),
    ("linear-m2-k8", "linear", 64, 1, 2, 2, 8, False, True, True, False, "BF16"),
    ("linear-m3-k5", "linear", 96, 1, 1, 3, 5, True, False, True, True, "F16"),
    ("linear-m5-plain", "linear", 32, 3, 2, 5, 4, False, False, False, True, "F32"),
    ("linear-m13-gate", "linear", 64, 2, 1, 13, 3, True, False, False, False, "F32"),
    ("linear-m16-share", "linear", 32, 2, 2, 16, 6, False, True, False, True, "shards"),
    ("mlp-m1-k3", "mlp", 32, 2, 1, 1, 3, True, True, True, True, "F32"),
    ("mlp-m4-k2", "mlp", 32, 1, 2, 4, 2, False, True, False, False, "BF16"),
    ("mlp-m7-pre", "mlp", 64, 1, 1, 7, 7, False, False, True, True, "F16"),
    ("mlp-m11-gate", "mlp", 32, 2, 2, 11, 4, True, False, False, True, "shards"),
    ("mlp-m16-hd96", "mlp", 96, 1, 1, 16, 4, True, True, True, False, "BF16"),
    ("mlp-m15-plain", "mlp", 32, 2, 1, 15, 4, False, False, False, False, "F32"),
]
VOCAB = 80
INTERMEDIATE = 72
NUM_TOKENS = 50


def tensor_shapes(c: ttt.Config):
    hidden, heads, d = c.hidden_size, c.num_attention_heads, c.head_dim
    inner = 4 * d if c.ttt_layer_type == "mlp" else d
    shapes = {"model.embed_tokens.weight": (VOCAB, hidden), "model.norm.weight": (hidden,)}
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (VOCAB, hidden)
    for i in range(c.num_hidden_layers):
        p, s = f"model.layers.{i}.", f"model.layers.{i}.seq_modeling_block."

        def conv(name):
            shapes[name + ".weight"] = (hidden, 1, c.conv_kernel)
            shapes[name + ".bias"] = (hidden,)

        if c.pre_conv:
            shapes[p + "conv.norm.weight"] = (hidden,)
            conv(p + "conv.conv")
        if c.share_qk:
            conv(s + "conv_q")
            conv(s + "conv_k")
        for name in ["q", "v", "o"] + ([] if c.share_qk else ["k"]) + (["g"] if c.use_gate else []):
            shapes[s + name + "_proj.weight"] = (hidden, hidden)
        shapes |= {
            p + "seq_norm.weight": (hidden,),
            p + "ffn_norm.weight": (hidden,),
            s + "learnable_ttt_lr_weight": (heads, 1, hidden),
            s + "learnable_ttt_lr_bias": (heads, 1),
            s + "learnable_token_idx": (c.mini_batch_size,),
            s + "ttt_norm_weight": (heads, d),
            s + "ttt_norm_bias": (heads, d),
            s + "post_norm.weight": (hidden,),
            s + "post_norm.bias": (hidden,),
            s + "W1": (heads, d, inner),
            s + "b1": (heads, 1, inner),
            p + "mlp.gate_proj.weight": (INTERMEDIATE, hidden),
            p + "mlp.up_proj.weight": (INTERMEDIATE, hidden),
            p + "mlp.down_proj.weight": (hidden, INTERMEDIATE),
        }
        if c.ttt_layer_type == "mlp":
            shapes[s + "W2"] = (heads, inner, d)
            shapes[s + "b2"] = (heads, 1, d)
    return shapes


def random_weights(c: ttt.Config, rng):
    weights = {}
    for name, shape in tensor_shapes(c).items():
        x = rng.standard_normal(shape)
        if "norm" in name and name.endswith("weight"):
            x = 1 + 0.2 * x
        elif name.endswith("learnable_token_idx"):
            x = 0.1 * x
            if c.mini_batch_size > 2:
                x[c.mini_batch_size // 2] = -1.0  # drives the token scale below zero
        elif "conv" in name and name.endswith("weight"):
            x = x / np.sqrt(c.conv_kernel)
        elif name.endswith(("W1", "W2")):
            x = 0.5 * x / np.sqrt(shape[1])
        elif name.endswith(("bias", "b1", "b2")):
            x = 0.2 * x
        elif name.endswith("learnable_ttt_lr_weight"):
            x = x / np.sqrt(c.hidden_size)
        elif "embed" in name:
            x = 0.25 * x
        else:
            x = x / np.sqrt(shape[-1])
        weights[name] = x.astype(np.float32)
    return weights


def write_checkpoint(folder, weights, storage):
    if storage == "shards":
        names = sorted(weights)
        index = {"metadata": {"total_size": sum(a.nbytes for a in weights.values())}, "weight_map": {}}
        for i in range(2):
            shard = f"model-{i + 1:05d}-of-00002.safetensors"
            part = {n: weights[n] for n in names[i::2]}
            ttt.write_safetensors(os.path.join(folder, shard), part)
            index["weight_map"] |= {n: shard for n in part}
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
            json.dump(index, f, indent=1)
        return weights
    path = os.path.join(folder, "model.safetensors")
    if storage == "F16":
        ttt.write_safetensors(path, {n: a.astype(np.float16) for n, a in weights.items()})
    else:
        ttt.write_safetensors(path, weights, bf16=storage == "BF16")
    return ttt.read_safetensors(path)


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cases")
    for seed, case in enumerate(CASES):
        name, kind, d, heads, layers, m, kernel, gate, share, pre, tied, storage = case
        folder = os.path.join(root, name)
        os.makedirs(folder, exist_ok=True)
        raw = dict(
            architectures=["TTTForCausalLM"], model_type="ttt", vocab_size=VOCAB, hidden_size=d * heads,
            intermediate_size=INTERMEDIATE, num_hidden_layers=layers, num_attention_heads=heads,
            hidden_act="silu", rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
            rope_theta=10000.0, use_gate=gate, share_qk=share, ttt_layer_type=kind,
            ttt_base_lr=1.0 if kind == "linear" else 0.1, mini_batch_size=m, pre_conv=pre, conv_kernel=kernel,
        )
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(raw, f, indent=2)
        rng = np.random.default_rng(seed)
        config = ttt.Config.load(os.path.join(folder, "config.json"))
        weights = write_checkpoint(folder, random_weights(config, rng), storage)
        tokens = rng.integers(0, VOCAB, NUM_TOKENS).astype(np.int32)
        model = ttt.Model(config, weights, np.float64)
        state = model.new_state()
        golden = {"tokens": tokens, "logits": model.forward(tokens, state).astype(np.float32)}
        for plane in model.names:
            stacked = np.stack([layer.fast[plane] for layer in state.layers])
            golden[plane.lower()] = stacked.astype(np.float32)
        ttt.write_safetensors(os.path.join(folder, "golden.safetensors"), golden)
        print(f"{name}: logits within {np.abs(golden['logits']).max():.1f}")


if __name__ == "__main__":
    main()
