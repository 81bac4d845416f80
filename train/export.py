"""Writes and reads models in the Hugging Face layout that tttd loads: config.json, safetensors, tokenizer.model.

    python export.py --checkpoint train.pt --tokenizer tokenizer.model --out DIR
"""
import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import safetensors.torch
import torch

from model import Config, LanguageModel

INDEX = "model.safetensors.index.json"


def config_json(config, dtype="bfloat16"):
    fixed = {
        "architectures": ["TTTForCausalLM"], "model_type": "ttt", "hidden_act": "silu", "max_position_embeddings": 2048,
        "use_cache": False, "pretraining_tp": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
        "scan_checkpoint_group_size": 0, "torch_dtype": dtype,
    }
    return json.dumps(fixed | dataclasses.asdict(config), indent=2) + "\n"


def save_checkpoint(model, folder, tokenizer=None, max_shard_bytes=15 << 20):
    """bfloat16, in shards of at most max_shard_bytes of tensors."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [{}], 0
    for name, value in model.state_dict().items():
        value = value.detach().to("cpu", torch.bfloat16).contiguous()
        if shards[-1] and size + value.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    if len(shards) == 1:
        safetensors.torch.save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
    else:
        weight_map = {}
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            safetensors.torch.save_file(shard, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
        total = sum(value.nbytes for shard in shards for value in shard.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(config_json(model.config))
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")


def load_checkpoint(folder, device="cpu"):
    """The model in float32."""
    folder = Path(folder)
    if (folder / INDEX).exists():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors = {}
    for file in files:
        tensors |= safetensors.torch.load_file(folder / file)
    model = LanguageModel(Config.load(folder))
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.to(device).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, help="file that train.py writes")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu")
    model = LanguageModel(Config(**state["config"]))
    model.load_state_dict(state["model"])
    save_checkpoint(model, args.out, args.tokenizer)


if __name__ == "__main__":
    main()
