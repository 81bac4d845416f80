"""Trains the SentencePiece BPE tokenizer on a random sample of the train split.

    python tokenizer.py --data DIR --out tokenizer.model
"""
import argparse
import random
import tempfile
from pathlib import Path

import sentencepiece

import data

PRINTABLE = "".join(c for c in map(chr, range(33, 127)))


def sample_paragraphs(books, num_bytes, seed):
    paragraphs = [p for book in books for p in book.split("\n") if p]
    random.Random(seed).shuffle(paragraphs)
    total = 0
    for paragraph in paragraphs:
        total += len(paragraph.encode()) + 1
        if total > num_bytes:
            return
        yield paragraph


def train(sample_file, prefix, vocab_size):
    sentencepiece.SentencePieceTrainer.train(
        input=str(sample_file), model_prefix=str(prefix), model_type="bpe", vocab_size=vocab_size,
        byte_fallback=True, split_digits=True, character_coverage=0.9999, required_chars=PRINTABLE,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, max_sentence_length=1 << 16, num_threads=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of train*.txt.xz")
    parser.add_argument("--out", required=True, help="file to write, ending in .model")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--sample-bytes", type=int, default=24_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    out = Path(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        sample = Path(scratch) / "sample.txt"
        with open(sample, "w", encoding="utf-8", newline="\n") as file:
            # The trainer stops if a required character never occurs.
            file.write(" ".join(PRINTABLE) + "\n")
            for paragraph in sample_paragraphs(data.read_books(args.data, "train"), args.sample_bytes, args.seed):
                file.write(paragraph + "\n")
        train(sample, Path(scratch) / "spm", args.vocab_size)
        out.write_bytes((Path(scratch) / "spm.model").read_bytes())
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
