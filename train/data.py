"""Books as text, as token streams and as training windows.

A split is one or more xz files named after it (`train-00.txt.xz`, `valid.txt.xz`), UTF-8, with a line
`<|endoftext|>` between books. Every book becomes BOS + text + EOS.
"""
import lzma
import multiprocessing
from pathlib import Path

import numpy as np
import sentencepiece
import torch

SEPARATOR = "<|endoftext|>\n"
SPLITS = ("train", "valid", "test")
BOS, EOS = 1, 2
IGNORE = -100  # a target that takes no part in the loss


def read_books(folder, split):
    files = sorted(Path(folder).glob(f"{split}*.txt.xz"))
    if not files:
        raise FileNotFoundError(f"no {split}*.txt.xz in {folder}")
    books = []
    for file in files:
        with lzma.open(file, "rt", encoding="utf-8", newline="\n") as text:
            books += text.read().split(SEPARATOR)
    return books


_tokenizer = None  # of a worker process


def _start_worker(model_file):
    global _tokenizer
    _tokenizer = sentencepiece.SentencePieceProcessor(model_file=model_file)


def _encode(book):
    return np.array([BOS] + _tokenizer.encode(book) + [EOS], dtype=np.uint16)


def tokenize_split(folder, split, tokenizer_file, processes):
    """{tokens: int32 [n], lengths: of each book with its BOS and EOS, num_bytes: of each book's text}."""
    books = read_books(folder, split)
    with multiprocessing.Pool(processes, _start_worker, (str(tokenizer_file),)) as pool:
        encoded = pool.map(_encode, books, chunksize=1)
    return {
        "tokens": torch.from_numpy(np.concatenate(encoded).astype(np.int32)),
        "lengths": [len(book) for book in encoded],
        "num_bytes": [len(book.encode()) for book in books],
    }


def load_splits(folder, tokenizer_file, cache=None, processes=1, splits=SPLITS):
    """The token streams of the splits; `cache` keeps them for the next run."""
    if cache and Path(cache).exists():
        return torch.load(cache)
    streams = {s: tokenize_split(folder, s, tokenizer_file, processes) for s in splits}
    if cache:
        torch.save(streams, cache)
    return streams


def cut_windows(tokens, starts, context):
    """Inputs and targets [windows, context]: BOS, then the tokens from each start on; the target BOS is ignored."""
    targets = tokens[starts[:, None] + torch.arange(context, device=tokens.device)].long()
    inputs = torch.cat([torch.full_like(targets[:, :1], BOS), targets[:, :-1]], 1)
    return inputs, targets.masked_fill(targets == BOS, IGNORE)


def random_windows(tokens, batch, context, generator):
    starts = torch.randint(0, len(tokens) - context, (batch,), generator=generator, device=tokens.device)
    return cut_windows(tokens, starts, context)


def book_windows(lengths, context, stride):
    """(book, offset in its text, start in the stream) of windows that lie inside the text of one book."""
    windows, begin = [], 0
    for book, length in enumerate(lengths):
        text = length - 2  # without BOS and EOS
        windows += [(book, at, begin + 1 + at) for at in range(0, text - context + 1, stride)]
        begin += length
    return windows
