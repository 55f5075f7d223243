"""Samples of a model for the demo."""

from __future__ import annotations

import pathlib

import torch
from torch import nn

from arrow_quant_v2.torch.synthetic import class_count, denoiser_arguments, load_scheduler, output_tensor, sample_dims


@torch.no_grad()
def sample(model: nn.Module, path: pathlib.Path, count: int, steps: int, seed: int = 100) -> torch.Tensor:
    """Samples [count, channels, *dims], cut to [-1, 1], by DDIM from the noise of ``seed``; labels run through the
    classes, if there are any. Raises UnsupportedModelError for a model that needs another condition."""
    scheduler = load_scheduler(path)
    scheduler.set_timesteps(steps)
    names = denoiser_arguments(model)
    channels, dims = sample_dims(model.config)
    x = torch.randn(count, channels, *dims, generator=torch.Generator().manual_seed(seed))
    classes = class_count(model.config) if "class_labels" in names else 0
    labels = {"class_labels": torch.arange(count) % classes} if classes else {}
    for t in scheduler.timesteps:
        noise = output_tensor(model(x, timestep=t.expand(count), **labels))[:, :channels]
        x = scheduler.step(noise, t, x).prev_sample
    return x.clamp(-1, 1)
