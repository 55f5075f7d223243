"""Copy a diffusers model with its weights rounded to bfloat16: how examples/models/dit_mnist was made.

usage: make_demo_model.py SOURCE_DIR TARGET_DIR
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    source, target = (pathlib.Path(p) for p in sys.argv[1:3])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    for file in source.glob("*.safetensors"):
        tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(file).items()}
        save_file(tensors, target / file.name, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
