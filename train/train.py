"""Trains a TTT language model on whole books.

    python train.py --data BOOKS --tokenizer tokenizer.model --out DIR --phases 2048:64:1000,8192:32:500

A phase is context:windows:steps. The learning rate rises over the warm-up steps, stays, and falls linearly to zero over
the last part of all tokens. A run that meets --stop-after saves its state, and the same command goes on from there.
On a GPU a whole step (forward, backward, clipping, AdamW) is one CUDA graph of compiled functions.
"""
import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch

import data
import export
import inner_loop
from model import Config, LanguageModel


@dataclasses.dataclass(frozen=True)
class Phase:
    context: int
    windows: int
    steps: int

    @property
    def tokens_per_step(self):
        return self.context * self.windows


def parse_phases(text):
    return [Phase(*map(int, phase.split(":"))) for phase in text.split(",")]


def locate(phases, step):
    """(phase, tokens seen before this step) of a global step; the phase is None after the last one."""
    tokens = 0
    for phase in phases:
        if step < phase.steps:
            return phase, tokens + step * phase.tokens_per_step
        tokens += phase.steps * phase.tokens_per_step
        step -= phase.steps
    return None, tokens


def rate_factor(step, progress, warmup, decay):
    """Warm-up by steps; linear decay to 0 over the last `decay` of the tokens."""
    return min(1.0, (step + 1) / warmup) * min(1.0, (1 - progress) / decay)


def make_optimizer(model, rate, weight_decay, device):
    options = {"lr": rate, "betas": (0.9, 0.95), "weight_decay": weight_decay}
    if device == "cuda":  # a graph reads the rate from device memory
        options |= {"lr": torch.tensor(rate, device=device), "fused": True, "capturable": True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    for p in model.parameters():  # made here, so that the graph and a resumed run find them in place
        optimizer.state[p] = {"step": torch.zeros((), device=device), "exp_avg": torch.zeros_like(p),
                              "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


class Step:
    """One training step on fixed buffers; with `graph`, captured once and replayed."""

    def __init__(self, model, optimizer, phase, clip, graph, device):
        self.model, self.optimizer, self.clip = model, optimizer, clip
        self.inputs = torch.zeros(phase.windows, phase.context, dtype=torch.long, device=device)
        self.targets = torch.zeros_like(self.inputs)
        self.loss, self.norm = torch.zeros((), device=device), torch.zeros((), device=device)
        self.graph = None
        if graph:
            self.capture()

    def run(self):
        # Each window's loss is the mean over its targets that are not ignored.
        counted = (self.targets != data.IGNORE).sum(1)
        loss = (self.model(self.inputs, self.targets).sum(1) / counted).mean()
        loss.backward()
        self.norm.copy_(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def capture(self):
        state = [p.data for p in self.model.parameters()]
        state += [value for s in self.optimizer.state.values() for value in s.values()]
        saved = [value.clone() for value in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.optimizer.zero_grad(set_to_none=True)
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.run()
        with torch.no_grad():  # warming up is no training
            for value, old in zip(state, saved):
                value.copy_(old)

    def __call__(self, inputs, targets):
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        if self.graph:
            self.graph.replay()
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self.run()


@torch.no_grad()
def validation_loss(model, split, context, max_windows, device):
    """Mean loss in nats over windows spread evenly through the split."""
    inner_loop.enable_compile(False)
    windows = data.book_windows(split["lengths"], context, context)
    windows = windows[::max(1, math.ceil(len(windows) / max_windows))]
    tokens = split["tokens"].to(device)
    total = 0.0
    for i in range(0, len(windows), 32):
        starts = torch.tensor([start for _, _, start in windows[i:i + 32]], device=device)
        total += model(*data.cut_windows(tokens, starts, context)).double().mean(1).sum().item()
    return total / len(windows)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.began = time.time()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.phases = parse_phases(args.phases)
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.state_file = Path(args.state or self.out / "train.pt")
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 in the inner loop
            limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
            setattr(torch._dynamo.config, limit, 256)
        torch.manual_seed(args.seed)
        self.splits = data.load_splits(args.data, args.tokenizer, args.cache, args.processes)
        self.tokens = self.splits["train"]["tokens"].to(self.device)
        config = Config(ttt_layer_type=args.layer_type, ttt_base_lr=args.base_lr, hidden_size=args.hidden_size,
                        intermediate_size=args.intermediate_size, num_hidden_layers=args.layers,
                        num_attention_heads=args.heads, vocab_size=args.vocab_size)
        self.model = LanguageModel(config, torch.bfloat16 if self.device == "cuda" else torch.float32).to(self.device)
        self.optimizer = make_optimizer(self.model, args.lr, args.weight_decay, self.device)
        self.step = 0
        if args.init:
            self.model.load_state_dict(export.load_checkpoint(args.init).state_dict())
        if self.state_file.exists():
            self.load()
        self.log(event="start", parameters=sum(p.numel() for p in self.model.parameters()), step=self.step,
                 phases=args.phases, train_tokens=len(self.tokens), device=self.device)

    def log(self, **fields):
        fields["seconds"] = round(time.time() - self.began, 1)
        line = json.dumps(fields)
        print(line, flush=True)
        with open(self.out / "log.jsonl", "a") as file:
            file.write(line + "\n")

    def optimizer_tensors(self):
        return [value for s in self.optimizer.state.values() for value in s.values()]

    def save(self):
        part = self.state_file.with_suffix(".part")
        torch.save({"config": dataclasses.asdict(self.model.config), "model": self.model.state_dict(),
                    "optimizer": self.optimizer_tensors(), "step": self.step}, part)
        part.replace(self.state_file)

    def load(self):
        state = torch.load(self.state_file, map_location=self.device)
        self.model.load_state_dict(state["model"])
        for value, saved in zip(self.optimizer_tensors(), state["optimizer"]):
            value.copy_(saved)
        self.step = state["step"]

    def set_rates(self, factor):
        for group in self.optimizer.param_groups:
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(self.args.lr * factor)
            else:
                group["lr"] = self.args.lr * factor
        if self.args.layer_type == "mlp":  # its inner rate warms up from a tenth
            inner = self.args.base_lr * min(1.0, 0.1 + 0.9 * self.step / self.args.warmup)
            for block in self.model.model.layers:
                block.seq_modeling_block.base_lr.fill_(inner)

    def validate(self):
        args = self.args
        loss = validation_loss(self.model, self.splits["valid"], args.valid_context, args.valid_windows, self.device)
        self.log(event="valid", step=self.step, tokens=locate(self.phases, self.step)[1], context=args.valid_context,
                 loss=round(loss, 4))

    def run(self):
        """True when all phases are done, False when the time is up."""
        args, generator = self.args, torch.Generator(device=self.device)
        total = locate(self.phases, 1 << 60)[1]
        step_fn, current, saved_at = None, None, time.time()
        while True:
            phase, seen = locate(self.phases, self.step)
            stop = time.time() - self.began > args.stop_after
            if stop or phase is None:
                break
            if phase is not current:
                if current:
                    self.validate()
                step_fn, current, made = None, phase, time.time()
                if self.device == "cuda":
                    torch.cuda.empty_cache()
                on_gpu = self.device == "cuda"
                inner_loop.enable_compile(on_gpu and not args.eager)
                step_fn = Step(self.model, self.optimizer, phase, args.clip, on_gpu and not args.eager, self.device)
                self.log(event="phase", context=phase.context, windows=phase.windows, setup_seconds=round(time.time() - made, 1))
                mark, mark_step, loss_sum = time.time(), self.step, torch.zeros((), device=self.device)
            factor = rate_factor(self.step, seen / total, args.warmup, args.decay)
            self.set_rates(factor)
            generator.manual_seed(args.seed * 1_000_003 + self.step)
            step_fn(*data.random_windows(self.tokens, phase.windows, phase.context, generator))
            loss_sum += step_fn.loss
            self.step += 1
            if self.step % args.log_every == 0:
                count = self.step - mark_step
                loss = loss_sum.item() / count  # waits for the device
                speed = count * phase.tokens_per_step / (time.time() - mark)
                self.log(event="step", step=self.step, tokens=seen + phase.tokens_per_step, loss=round(loss, 4),
                         lr=round(args.lr * factor, 7), norm=round(step_fn.norm.item(), 3), tokens_per_second=round(speed))
                if not math.isfinite(loss):
                    raise SystemExit("the loss is no longer finite")
                if time.time() - saved_at > args.save_every:
                    self.save()
                    saved_at = time.time()
                if args.valid_every and self.step % args.valid_every == 0:
                    self.validate()
                    inner_loop.enable_compile(self.device == "cuda" and not args.eager)
                mark, mark_step = time.time(), self.step
                loss_sum.zero_()
        self.save()
        if self.device == "cuda":
            self.log(event="memory", peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 1))
        self.validate()
        export.save_checkpoint(self.model, self.out, args.tokenizer)
        self.log(event="done" if phase is None else "paused", step=self.step, tokens=seen)
        return phase is None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of train*.txt.xz and valid*.txt.xz")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True, help="folder for the exported model and log.jsonl")
    parser.add_argument("--state", help="file of the training state; default: train.pt in --out")
    parser.add_argument("--init", help="folder of an exported model to start from")
    parser.add_argument("--cache", help="file that keeps the tokens for the next run")
    parser.add_argument("--processes", type=int, default=4, help="of the tokenizer")
    parser.add_argument("--phases", default="2048:64:4000,8192:32:1000", help="context:windows:steps,...")
    parser.add_argument("--layer-type", choices=("linear", "mlp"), default="linear")
    parser.add_argument("--base-lr", type=float, default=1.0, help="of the inner loop; 0.1 is usual for mlp")
    parser.add_argument("--hidden-size", type=int, default=Config.hidden_size)
    parser.add_argument("--intermediate-size", type=int, default=Config.intermediate_size)
    parser.add_argument("--layers", type=int, default=Config.num_hidden_layers)
    parser.add_argument("--heads", type=int, default=Config.num_attention_heads)
    parser.add_argument("--vocab-size", type=int, default=Config.vocab_size)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument("--decay", type=float, default=0.6, help="part of all tokens over which the rate falls to 0")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="on all parameters")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds from the start of this command")
    parser.add_argument("--save-every", type=float, default=120, help="seconds")
    parser.add_argument("--log-every", type=int, default=50, help="steps")
    parser.add_argument("--valid-every", type=int, default=500, help="steps, a multiple of --log-every; 0: never")
    parser.add_argument("--valid-context", type=int, default=8192)
    parser.add_argument("--valid-windows", type=int, default=32)
    parser.add_argument("--eager", action="store_true", help="no compilation, no CUDA graph")
    Trainer(parser.parse_args()).run()


if __name__ == "__main__":
    main()
