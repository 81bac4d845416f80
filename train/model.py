"""TTT language models with the parameter names and shapes of the published ttt-lm-pytorch checkpoints."""
import dataclasses
import json
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from inner_loop import EPS, fused, learn_and_read


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields of config.json that shape the model; the defaults are a TTT-Linear of 14 M parameters."""
    vocab_size: int = 8192
    hidden_size: int = 384
    intermediate_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    ttt_layer_type: str = "linear"  # or "mlp"
    ttt_base_lr: float = 1.0  # 0.1 is usual for "mlp"
    mini_batch_size: int = 16
    use_gate: bool = True
    share_qk: bool = True
    pre_conv: bool = True
    conv_kernel: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    @staticmethod
    def load(folder):
        values = json.loads((Path(folder) / "config.json").read_text())
        return Config(**{f.name: values[f.name] for f in dataclasses.fields(Config) if f.name in values})


# --- free functions: compiled once, shared by all layers --------------------------------------------------------------
def linear(x, weight, dtype):
    return F.linear(x.to(dtype), weight.to(dtype))


def rms_norm(x, weight, eps):
    return weight * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps))


def causal_conv(x, weight, bias):
    """Depthwise; x [B, L, C], weight [C, 1, taps], the last tap on the current token."""
    taps, length = weight.shape[-1], x.shape[1]
    x = F.pad(x, (0, 0, taps - 1, 0))
    y = bias
    for i in range(taps):
        y = y + x[:, i:i + length] * weight[:, 0, i]
    return y


def rotate(x, cos, sin):
    """RoPE on adjacent pairs; x [..., d], cos and sin broadcast to [..., d / 2]."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def to_mini_batches(x, mini_batch, heads):
    """[B, L, heads * c] -> [N, B * heads, mini_batch, c]."""
    batch, length, width = x.shape
    x = x.reshape(batch, length // mini_batch, mini_batch, heads, width // heads)
    return x.permute(1, 0, 3, 2, 4).reshape(length // mini_batch, batch * heads, mini_batch, width // heads)


@fused
def ttt_inputs(x, q_weight, k_weight, v_weight, conv_q, conv_k, lr_weight, lr_bias, token_idx, inverse_slot, cos, sin,
               base_lr, dtype):
    heads, mini_batch = lr_weight.shape[0], len(token_idx)
    q, v = linear(x, q_weight, dtype).to(x.dtype), linear(x, v_weight, dtype).to(x.dtype)
    if conv_q is None:
        k = linear(x, k_weight, dtype).to(x.dtype)
    else:
        q, k = causal_conv(q, *conv_q), causal_conv(q, *conv_k)
    q, k, v = (to_mini_batches(t, mini_batch, heads) for t in (q, k, v))
    rate = torch.sigmoid(F.linear(x, lr_weight[:, 0]) + lr_bias[:, 0]) * (base_lr / v.shape[-1])
    tau = torch.clamp_min(inverse_slot + token_idx, 0.0)
    return rotate(q, cos, sin), rotate(k, cos, sin), v, to_mini_batches(rate, mini_batch, heads), tau


@fused
def ttt_output(x, z, norm_weight, norm_bias, gate_weight, out_weight, dtype):
    batch, length, width = x.shape
    n, _, mini_batch, head_dim = z.shape
    z = z.reshape(n, batch, width // head_dim, mini_batch, head_dim).permute(1, 0, 3, 2, 4).reshape(batch, length, width)
    z = F.layer_norm(z, (width,), norm_weight, norm_bias, EPS)
    if gate_weight is not None:
        z = F.gelu(linear(x, gate_weight, dtype), approximate="tanh") * z.to(dtype)
    return linear(z, out_weight, dtype)


@fused
def block_input(x, conv_norm, conv, norm_weight, eps):
    if conv is not None:
        x = x + causal_conv(rms_norm(x, conv_norm, eps), *conv)
    return x, rms_norm(x, norm_weight, eps)


@fused
def block_output(x, y, norm_weight, gate_weight, up_weight, down_weight, eps, dtype):
    x = x + y
    f = rms_norm(x, norm_weight, eps)
    return x + linear(F.silu(linear(f, gate_weight, dtype)) * linear(f, up_weight, dtype), down_weight, dtype)


@fused
def head_losses(x, targets, norm_weight, head_weight, eps, dtype):
    """[B, L]; 0 where a target is ignored."""
    logits = linear(rms_norm(x, norm_weight, eps), head_weight, dtype)
    logits = logits.float() if dtype == torch.bfloat16 else logits
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape)


# --- modules: hold the parameters under their published names ---------------------------------------------------------
class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


def depthwise(c):
    conv = nn.Conv1d(c.hidden_size, c.hidden_size, c.conv_kernel, groups=c.hidden_size)
    nn.init.normal_(conv.weight, std=c.conv_kernel ** -0.5)
    nn.init.zeros_(conv.bias)
    return conv


def taps(conv):
    return conv.weight, conv.bias


class TTT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        width, heads, d = c.hidden_size, c.num_attention_heads, c.head_dim
        for name in ["q_proj", "v_proj", "o_proj"] + ["k_proj"] * (not c.share_qk) + ["g_proj"] * c.use_gate:
            setattr(self, name, nn.Linear(width, width, bias=False))
        if c.share_qk:
            self.conv_q, self.conv_k = depthwise(c), depthwise(c)
        self.learnable_token_idx = nn.Parameter(torch.zeros(c.mini_batch_size))
        self.learnable_ttt_lr_weight = nn.Parameter(torch.randn(heads, 1, width) * c.initializer_range)
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(heads, d))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(heads, d))
        self.post_norm = nn.LayerNorm(width, eps=EPS)
        sizes = [d, d] if c.ttt_layer_type == "linear" else [d, 4 * d, d]
        self.fast_weight_names = []
        for i, (rows, columns) in enumerate(zip(sizes, sizes[1:]), 1):
            setattr(self, f"W{i}", nn.Parameter(torch.randn(heads, rows, columns) * c.initializer_range))
            setattr(self, f"b{i}", nn.Parameter(torch.zeros(heads, 1, columns)))
            self.fast_weight_names += [f"W{i}", f"b{i}"]
        slots = torch.arange(c.mini_batch_size, dtype=torch.float64)
        angles = torch.outer(slots, c.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
        for name, value in (("cos", angles.cos()), ("sin", angles.sin()), ("inverse_slot", 1 / (slots + 1)),
                            ("base_lr", torch.tensor(c.ttt_base_lr))):
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, x, dtype):
        c = self.config
        q, k, v, rate, tau = ttt_inputs(
            x, self.q_proj.weight, None if c.share_qk else self.k_proj.weight, self.v_proj.weight,
            taps(self.conv_q) if c.share_qk else None, taps(self.conv_k) if c.share_qk else None,
            self.learnable_ttt_lr_weight, self.learnable_ttt_lr_bias, self.learnable_token_idx, self.inverse_slot,
            self.cos, self.sin, self.base_lr, dtype)

        def per_sequence(p):
            return p.repeat(x.shape[0], 1, 1)
        z = learn_and_read(q, k, v, rate, tau, per_sequence(self.ttt_norm_weight.unsqueeze(1)),
                           per_sequence(self.ttt_norm_bias.unsqueeze(1)),
                           [per_sequence(getattr(self, name)) for name in self.fast_weight_names])
        return ttt_output(x, z, self.post_norm.weight, self.post_norm.bias,
                          self.g_proj.weight if c.use_gate else None, self.o_proj.weight, dtype)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)


class PreConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = RMSNorm(c.hidden_size)
        self.conv = depthwise(c)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.eps = c.rms_norm_eps
        if c.pre_conv:
            self.conv = PreConv(c)
        self.seq_norm = RMSNorm(c.hidden_size)
        self.seq_modeling_block = TTT(c)
        self.ffn_norm = RMSNorm(c.hidden_size)
        self.mlp = Mlp(c)

    def forward(self, x, dtype):
        pre = getattr(self, "conv", None)
        x, y = block_input(x, pre and pre.norm.weight, pre and taps(pre.conv), self.seq_norm.weight, self.eps)
        y = self.seq_modeling_block(y, dtype)
        mlp = self.mlp
        return block_output(x, y, self.ffn_norm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight,
                            self.eps, dtype)


class Backbone(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size)


class LanguageModel(nn.Module):
    """Projections and head run in `dtype`; the residual stream, norms and inner loop in the parameters' own type."""

    def __init__(self, config, dtype=torch.float32):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.initializer_range)

    def head_weight(self):
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def hidden(self, ids):
        x = F.embedding(ids, self.model.embed_tokens.weight)
        for block in self.model.layers:
            x = block(x, self.dtype)
        return x

    def forward(self, ids, targets):
        """Losses in nats [B, L]; L is a multiple of mini_batch_size."""
        return head_losses(self.hidden(ids), targets, self.model.norm.weight, self.head_weight(), self.config.rms_norm_eps,
                           self.dtype)

    def logits(self, ids):
        """[B, L, vocab_size] for any L: the model is causal, so padding at the end changes nothing before it."""
        length = ids.shape[1]
        x = self.hidden(F.pad(ids, (0, -length % self.config.mini_batch_size)))[:, :length]
        return linear(rms_norm(x, self.model.norm.weight, self.config.rms_norm_eps), self.head_weight(), self.dtype)
