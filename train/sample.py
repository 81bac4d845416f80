"""Prints continuations of a prompt; for a look at a model, not for speed: every token reads the whole text again.

    python sample.py --model DIR --prompt "It was late in the evening when"
"""
import argparse
from pathlib import Path

import sentencepiece
import torch

import data
import export


@torch.no_grad()
def sample(model, prompt_ids, num_tokens, temperature, generator, samples):
    ids = torch.tensor(prompt_ids).expand(samples, -1)
    for _ in range(num_tokens):
        probabilities = torch.softmax(model.logits(ids)[:, -1].double() / temperature, -1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)], 1)
    return ids.tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder in the Hugging Face layout, with tokenizer.model")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="the work is many small steps")
    args = parser.parse_args()
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(Path(args.model) / "tokenizer.model"))
    torch.set_num_threads(args.threads)
    model = export.load_checkpoint(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    for ids in sample(model, [data.BOS] + tokenizer.encode(args.prompt), args.tokens, args.temperature, generator, args.samples):
        end = ids.index(data.EOS) if data.EOS in ids else len(ids)
        print(tokenizer.decode(ids[1:end]), "\n---", flush=True)


if __name__ == "__main__":
    main()
