"""Compares the tokenizer with the Python package `sentencepiece`, line by line.

    verify_corpus.py TOOL MODEL LINES.txt

TOOL is the built tokenizer_tool. Both encode every line of the file, as a text that
begins a session and as one that goes on; ends with 1 if any line differs.
"""

import subprocess
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2


def processors(path):
    """The model as it is, and with its dummy prefix off."""
    model = sentencepiece_model_pb2.ModelProto()
    with open(path, "rb") as file:
        model.ParseFromString(file.read())
    start = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    model.normalizer_spec.add_dummy_prefix = False
    going_on = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return {"start": start, "on": going_on}


def main():
    tool, model, corpus = sys.argv[1:]
    with open(corpus, "rb") as file:
        data = file.read()
    lines = data.decode().removesuffix("\n").split("\n")
    different = 0
    for mode, processor in processors(model).items():
        output = subprocess.run([tool, model, mode], input=data, stdout=subprocess.PIPE, check=True)
        encoded = output.stdout.decode().removesuffix("\n").split("\n")
        assert len(encoded) == len(lines), (len(encoded), len(lines))
        begin = [processor.bos_id()] if mode == "start" and processor.bos_id() >= 0 else []
        count = tokens = 0
        for line, got in zip(lines, encoded):
            want = begin + processor.encode(line)
            tokens += len(want)
            if [int(id) for id in got.split()] != want:
                count += 1
                if count <= 3:
                    print(f"{mode}: {line!r}\n  got  {got}\n  want {want}")
        print(f"{mode}: {len(lines)} lines, {tokens} tokens, {count} lines differ")
        different += count
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
