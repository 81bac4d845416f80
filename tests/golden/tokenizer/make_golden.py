"""Writes golden.json: what the Python package `sentencepiece` (0.2.1) makes of lines.txt,
of hostile texts and of random ids.

    make_golden.py [CORPUS.txt]

With a corpus, lines.txt is written anew from every 16th of its lines.
"""

import json
import pathlib
import random
import struct
import sys
import unicodedata

from verify_corpus import processors

HERE = pathlib.Path(__file__).parent
LINES_PER_HASH = 100


def hash_of_ids(lines):
    """FNV-1a, 64 bits, over the ids as 4 bytes each, and -1 after each line."""
    data = b"".join(struct.pack(f"<{len(ids)}i", *ids) + bytes([255] * 4) for ids in lines)
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def random_text(rng):
    """Code points of all planes and lengths in UTF-8, no surrogates."""
    ranges = [(0, 0x80), (0x80, 0x800), (0x300, 0x370), (0x800, 0xD800), (0xE000, 0x10000),
              (0x10000, 0x110000), (0x1F300, 0x1FB00), (0x20, 0x21), (0x2581, 0x2582)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 40)))


def hostile_texts():
    texts = ["", " ", "  ", "   a", "a   ", " a  b ", "\t", "\n", "\r\n", "\n\n\n", " \n \n", "a\tb", "\0", "a\0b", "\0\0 \0",
             "\x01\x02\x1b[31m\x7f", "\u0085", "\u00a0x\u00a0", "\u2028\u2029", "\u3000x\u3000y", "\ufeffbom", "\u200b\u200c\u200d\u200e",
             "\u2581", "\u2581\u2581", "\u2581a", " \u2581 a", "a\u2581b", "\ufffd", "\ufffe\uffff", "\U0010ffff\U0010fffe", "\ue000\uf8ff",
             "<s>", "</s>", "<unk>", "<s>hello</s>", "<pad>", "<0x00>", "<0x0A>", "a<0xE2><0x96>", "<|user|>", "<|user|>hi<|user|>",
             " <|user|> ", "<|use", "<|user", "<|use<|user|>|>", "\u00a7", "\u00a7\u00a7", "\u00a7\u00a7\u00a7", "\u00a7\u00a7\u00a7\u00a7 x",
             "e\u0301", "\u00e9", "E\u0301cole caf\u00e9", "\ufb01\ufb02 \uff21\uff22\uff23\uff01", "\ufdfa" * 20, "\u00bd\u2121\u2026", "\u00ad",
             "Z" + "\u0300\u0301\u0302\u0303" * 30, "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7",
             "\u2764\ufe0f", "\U000E0061\U000E007F", "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c", "\u0645\u0631\u062d\u0628\u0627",
             "\u1112\u1161\u11ab\ud55c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001D54F\U0001D7D8",
             "a" * 1000, " " * 1000, "\n" * 300, "ab" * 500, "\U0001F600" * 200, "\u4e00" * 300, "0123456789" * 20, "-" * 500, "\u2581" * 200,
             "Hello, world!", " Hello", "Hello ", "HELLO hello HeLLo", "it's \"quoted\" -- so", "3.14159 1,000,000", "https://example.org/?a=b&c=%20#d",
             "def f(x):\n    return x\n", "{\"a\": [1, 2, {}]}", "\\u0041\\n", "The end.\n\nThe beginning"]
    texts += [chr(c) for c in range(1, 0x80)]
    rng = random.Random(7)
    texts += [random_text(rng) for _ in range(80)]
    texts += ["".join(rng.choice("ab \u2581<|user|>\u00a7\n'") for _ in range(60)) for _ in range(40)]
    texts += [unicodedata.normalize("NFD", chr(c)) + chr(c) for c in range(0xC0, 0x180, 5)]
    return texts


def random_ids(processor, rng):
    """Mostly bytes, mostly pieces, or anything."""
    size = processor.get_piece_size()
    special = [0, 1, 2, processor.piece_to_id("\u2581")]
    kind = rng.randrange(4)
    ids = []
    for _ in range(rng.randrange(1, 40)):
        if kind == 0 and rng.random() < 0.8:
            ids.append(rng.randrange(3, 3 + 256))
        elif rng.random() < 0.2:
            ids.append(rng.choice(special))
        elif kind == 1:
            text = rng.choice(["\u20ac", "\U0001F600", "\u00e9", "\ufffd"]).encode()
            ids += [3 + byte for byte in text[: rng.randrange(1, 5)]]
        else:
            ids.append(rng.randrange(size))
    return ids


def golden(name, lines):
    modes = processors(HERE / f"{name}.model")
    processor = modes["start"]
    result = {"hashes": {}, "whole": {}, "texts": [], "decodes": []}
    for mode, encoder in modes.items():
        hashes = []
        for first in range(0, len(lines), LINES_PER_HASH):
            ids = [encoder.encode(line) for line in lines[first : first + LINES_PER_HASH]]
            hashes.append(hash_of_ids(ids))
        result["hashes"][mode] = hashes
        result["whole"][mode] = hash_of_ids([encoder.encode("\n".join(lines))])
    for text in hostile_texts():
        start, going_on = modes["start"].encode(text), modes["on"].encode(text)
        result["texts"].append([text.encode().hex(), start, going_on, processor.decode(start).encode().hex()])
    rng = random.Random(8)
    for _ in range(250):
        ids = random_ids(processor, rng)
        result["decodes"].append([ids, processor.decode(ids).encode().hex()])
    return result


def main():
    if len(sys.argv) > 1:
        corpus = pathlib.Path(sys.argv[1]).read_bytes().decode().split("\n")
        (HERE / "lines.txt").write_bytes("\n".join(corpus[::16]).encode())
    lines = (HERE / "lines.txt").read_bytes().decode().split("\n")
    models = {name: golden(name, lines) for name in ("bpe", "unigram")}
    (HERE / "golden.json").write_text(json.dumps(models, separators=(",", ":")).replace('],["', '],\n["') + "\n")


if __name__ == "__main__":
    main()
