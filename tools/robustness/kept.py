"""Layers that stay as they are."""

from __future__ import annotations

import pathlib

import numpy as np

from robustness.observe import expect, kept, layers, make_model, normal, quantize, stored

DIFFUSION = [
    "transformer_blocks.0.norm1.weight", "transformer_blocks.0.attn1.to_q.bias",
    "time_embedding.linear_1.weight", "label_embedder.embedding_table.weight", "pos_embed.weight",
    "pos_embed.proj.weight", "conv_in.weight", "scale_shift_table", "norm_out.linear.weight", "proj_out.weight",
    "x_embedder.weight", "t_embedder.mlp.0.weight", "context_embedder.weight",
]  # fmt: skip
LANGUAGE = ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.gate.weight", "model.norm.weight"]
AUDIO = ["preprocess_conv.weight", "postprocess_conv.weight", "timestep_proj.weight"]
USUAL = ["transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.ff.net.2.weight"]


def _tensor(name: str) -> np.ndarray:
    if name.endswith("bias") or "norm1" in name or name == "model.norm.weight":
        return normal(64, dtype=np.float16)
    if "conv" in name:
        return normal(64, 64, 3, dtype=np.float16) if "process" in name else normal(64, 64, 3, 3, dtype=np.float16)
    return normal(64, 64, dtype=np.float16)


def by_default(folder: pathlib.Path) -> str:
    names = [*DIFFUSION, *LANGUAGE, *AUDIO]
    tensors = {name: _tensor(name) for name in [*names, *USUAL]}
    result = quantize(make_model(folder / "m", tensors), folder / "q")
    lost = sorted(set(names) - kept(result).keys())
    expect(not lost, f"quantized: {', '.join(lost)}")
    expect(set(USUAL) == layers(result).keys(), f"kept: {sorted(set(USUAL) - layers(result).keys())}")
    after = stored(folder / "q")
    changed = [n for n in names if after[n].data.tobytes() != tensors[n].tobytes() or after[n].dtype != "float16"]
    expect(not changed, f"changed: {changed}")
    return f"all {len(names)} kept, bytes and type unchanged, each with its reason; linears of blocks are quantized"


def patterns(folder: pathlib.Path) -> str:
    tensors = {name: _tensor(name) for name in ("lm_head.weight", "down_blocks.0.downsamplers.0.conv.weight", *USUAL)}
    source = make_model(folder / "m", tensors)
    result = quantize(
        source, folder / "q", keep_patterns=["ff.net", "downsamplers"], quantize_patterns=["lm_head", "nothing_like_it"]
    )
    expect(set(layers(result)) == {"lm_head.weight", USUAL[0]}, f"quantized: {list(layers(result))}")
    warning = [w for w in result["warnings"] if "nothing_like_it" in w]
    expect(len(warning) == 1, f"warnings: {result['warnings']}")
    return f"--keep adds, --also removes, samplers on request; a pattern without effect: {warning[0]}"
