"""Evaluates an exported model in float32: loss by token position, per-window losses, bits per byte.

    python evaluate.py --model DIR --data BOOKS --out eval.json

A window is BOS and then `context` tokens of one book, all of which are scored (the last one is not read). Buckets and
offsets count from 0; an offset is in the token ids of the whole book's text, without BOS.
"""
import argparse
import json
import math
from pathlib import Path

import torch

import data
import export

BUCKETS = [(0, 1024), (1024, 4096), (4096, 8192), (8192, 16384), (16384, 32768)]


@torch.no_grad()
def window_losses(model, tokens, windows, context, batch, device):
    """float64 [windows, context] of nats."""
    losses = []
    for i in range(0, len(windows), batch):
        starts = torch.tensor([start for _, _, start in windows[i:i + batch]], device=device)
        losses.append(model(*data.cut_windows(tokens, starts, context)).double().cpu())
    return torch.cat(losses)


def mean_and_error(values):
    """Mean over windows and its standard error; overlapping windows are not independent, so it is then too small."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"nats": round(values.mean().item(), 5), "standard_error": round(error, 5),
            "perplexity": round(math.exp(values.mean().item()), 3)}


def evaluate_context(model, split, context, stride, tokens_per_batch, device):
    windows = data.book_windows(split["lengths"], context, stride)
    losses = window_losses(model, split["tokens"].to(device), windows, context, max(1, tokens_per_batch // context), device)
    buckets = {f"{a}-{b}": mean_and_error(losses[:, a:b].mean(1)) for a, b in BUCKETS if b <= context}
    # Bits per byte: nats per token over the split's bytes per token.
    num_tokens = sum(split["lengths"]) - 2 * len(split["lengths"])
    bytes_per_token = sum(split["num_bytes"]) / num_tokens
    return {
        "context": context, "stride": stride, "windows": len(windows), **mean_and_error(losses.mean(1)),
        "bits_per_byte": round(losses.mean().item() / math.log(2) / bytes_per_token, 4),
        "bytes_per_token": round(bytes_per_token, 4), "by_position": buckets,
        "each_window": [{"book": book, "token_offset": at, "count": context, "nats": round(loss, 6)}
                        for (book, at, _), loss in zip(windows, losses.mean(1).tolist())],
    }


def evaluate_prefix(model, tokenizer, text, count, device):
    """Losses of the first `count` tokens of a text, after BOS."""
    ids = torch.tensor(tokenizer.encode(text)[:count], dtype=torch.int32, device=device)
    if len(ids) < count:
        raise SystemExit(f"the text has only {len(ids)} tokens")
    losses = window_losses(model, ids, [(0, 0, 0)], count, 1, device)[0]
    return {"token_ids": count + 1, "scored_tokens": count, "first_ids": [data.BOS] + ids[:15].tolist(),
            "mean_nats": round(losses.mean().item(), 7),
            "mean_nats_per_1024": [round(part.mean().item(), 7) for part in losses.split(1024)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder in the Hugging Face layout, with tokenizer.model")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--data", help="folder of valid*.txt.xz and test*.txt.xz")
    parser.add_argument("--splits", default="valid,test")
    parser.add_argument("--windows", default="8192:8192,32768:8192", help="context:stride,...")
    parser.add_argument("--text", help="evaluate the beginning of this text file instead")
    parser.add_argument("--count", type=int, default=8192, help="tokens of --text")
    parser.add_argument("--cache", help="as of train.py")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tokens-per-batch", type=int, default=262144)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("highest")  # no TF32
    model = export.load_checkpoint(args.model, args.device)
    tokenizer_file = Path(args.model) / "tokenizer.model"
    if args.text:
        import sentencepiece
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
        text = Path(args.text).read_bytes().decode("utf-8")
        result = evaluate_prefix(model, tokenizer, text, args.count, args.device)
    else:
        names = args.splits.split(",")
        splits = data.load_splits(args.data, tokenizer_file, args.cache, args.processes, names)
        result = {"window": "BOS, then `count` tokens of the book's text from token_offset on, all scored; nats per token",
                  "precision": "float32 (no TF32)", "torch": torch.__version__, "device": args.device}
        for name in names:
            result[name] = {}
            for window in args.windows.split(","):
                context, stride = map(int, window.split(":"))
                r = evaluate_context(model, splits[name], context, stride, args.tokens_per_batch, args.device)
                result[name][str(context)] = r
                print(name, json.dumps({k: v for k, v in r.items() if k != "each_window"}), flush=True)
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
