"""Models of a few thousand weights, made in seconds, for the examples when no model is given."""

import json
import pathlib

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from transformers import BertConfig, BertForMaskedLM

MASK, LENGTH = 256, 32


def tiny_pipeline(folder: pathlib.Path) -> pathlib.Path:
    """A diffusers pipeline of a UNet with random weights; its pictures mean nothing."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=32,
    )  # fmt: skip
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(folder)
    return folder


def tiny_text_model(folder: pathlib.Path) -> pathlib.Path:
    """A masked language model over bytes with random weights; its text means nothing."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=258, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=LENGTH, initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    facts = {"modality": "text", "mask_token_id": MASK, "sequence_length": LENGTH}
    (folder / "metadata.json").write_text(json.dumps(facts))
    return folder
