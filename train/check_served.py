"""Scores the windows of a model's eval.json through a running tttd and compares the losses.

    pip install grpcio grpcio-tools sentencepiece
    tttd --model models/M --precision fp32
    python train/check_served.py --model models/M --data BOOKS --split test --context 8192

Prints the greatest difference of a window's mean loss from PyTorch's, and perplexity by token position.
"""
import argparse
import importlib
import json
import lzma
import math
import sys
import tempfile
from pathlib import Path

import grpc
import grpc_tools
import sentencepiece
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
BUCKETS = [(0, 1024), (1024, 4096), (4096, 8192), (8192, 16384), (16384, 32768)]
SEPARATOR = "<|endoftext|>\n"
BOS = 1


def load_stubs():
    out = tempfile.mkdtemp()
    protos = [str(p) for p in (ROOT / "proto").rglob("*.proto")]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={out}",
                    f"--grpc_python_out={out}", *protos]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, out)
    return importlib.import_module("ttt.v1.inference_pb2"), importlib.import_module("ttt.v1.inference_pb2_grpc")


def books_of(folder, split):
    parts = sorted(Path(folder).glob(f"{split}*.txt.xz"))
    return [book for p in parts for book in lzma.open(p, "rt", encoding="utf-8", newline="\n").read().split(SEPARATOR)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--every", type=int, default=1, help="take each n-th window")
    args = parser.parse_args()
    pb2, pb2_grpc = load_stubs()
    stub = pb2_grpc.InferenceStub(
        grpc.insecure_channel(args.server, options=[("grpc.max_receive_message_length", -1)]))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(Path(args.model) / "tokenizer.model"))
    ids = [tokenizer.encode(book) for book in books_of(args.data, args.split)]
    expected = json.loads((Path(args.model) / "eval.json").read_text())[args.split][str(args.context)]
    windows = expected["each_window"][:: args.every]
    totals = [0.0] * len(BUCKETS)
    worst = total = 0.0
    for window in windows:
        begin = window["token_offset"]
        request = pb2.ScoreRequest()
        request.token_ids.ids.extend([BOS] + ids[window["book"]][begin:begin + window["count"]])
        losses = [-p.logprob for p in stub.Score(request).positions[:-1]]
        mean = sum(losses) / len(losses)
        total += mean
        worst = max(worst, abs(mean - window["nats"]))
        for i, (a, b) in enumerate(BUCKETS):
            totals[i] += sum(losses[a:b]) / (b - a)
    print(f"{args.split}: {len(windows)} windows of {args.context}: {total / len(windows):.5f} nats; "
          f"greatest difference of a window from PyTorch {worst:.2e}")
    for (a, b), sum_of_means in zip(BUCKETS, totals):
        if b <= args.context:
            print(f"  {a:5d}-{b:5d}: perplexity {math.exp(sum_of_means / len(windows)):.2f}")


if __name__ == "__main__":
    main()
