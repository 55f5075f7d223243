"""Samples of a float model and of its quantized one from the same seed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.calibrate import load_float_model
from arrow_quant_v2.torch.load import load_quantized
from arrow_quant_v2.torch.masked_text import decoder_of
from arrow_quant_v2.torch.synthetic import SelfSampling, run_sampler, self_sampling, unchanged

_PEAK = 2.0  # of pictures in [-1, 1]


@dataclasses.dataclass(frozen=True)
class SamplePairs:
    """``wanted`` of the float model and ``got`` of the quantized one, [count, ...] each.

    ``kind``: "image" ([count, 1 or 3, height, width] in [-1, 1]), "latent" (the same of other channels), "signal"
    ([count, channels, length]) in float32; "text", int64 tokens, with ``words`` that gives the text of one.
    """

    kind: str
    seed: int
    steps: int
    wanted: torch.Tensor
    got: torch.Tensor
    words: Callable[[int], str] | None = None

    @property
    def psnr_db(self) -> float | None:
        """Peak signal-to-noise ratio of images, in dB, at most 200."""
        if self.kind != "image":
            return None
        return _decibels(_PEAK**2, float(((self.wanted - self.got) ** 2).mean()))

    @property
    def sqnr_db(self) -> float | None:
        """Energy of the float model's samples over the difference's, in dB, at most 200; None for text."""
        if self.kind == "text":
            return None
        return _decibels(float((self.wanted**2).mean()), float(((self.wanted - self.got) ** 2).mean()))

    @property
    def token_agreement(self) -> float | None:
        """Share of places of text with the same token."""
        return float((self.wanted == self.got).float().mean()) if self.kind == "text" else None


def sample_pairs(
    original: pathlib.Path,
    quantized: pathlib.Path,
    count: int,
    seed: int,
    allow_remote_code: bool = False,
    progress: ProgressCallback | None = None,
) -> SamplePairs:
    """Sample both models as calibration samples the float one.

    Raises:
        UnsupportedModelError, MetadataError: how to sample the model is not known. ModelNotFoundError,
        ShapeMismatchError.
    """
    model = load_float_model(original, allow_remote_code)
    sampling = self_sampling(model, original)
    wanted = _sample(model, sampling, count, seed, _part(progress, "float model", 0))
    quantized_model = load_quantized(quantized, dtype=torch.float32, model=copy.deepcopy(model))
    got = _sample(quantized_model, sampling, count, seed, _part(progress, "quantized model", 1))
    if sampling.mask_token_id is not None:
        config: Any = model.config
        words = decoder_of(original, int(config.vocab_size))
        return SamplePairs("text", seed, sampling.steps, wanted, got, words)
    kind = "signal" if wanted.dim() == 3 else "image" if wanted.dim() == 4 and wanted.shape[1] in (1, 3) else "latent"
    if kind == "image":
        wanted, got = wanted.clamp(-1, 1), got.clamp(-1, 1)
    return SamplePairs(kind, seed, sampling.steps, wanted, got)


@torch.no_grad()
def _sample(
    model: nn.Module, sampling: SelfSampling, count: int, seed: int, progress: Callable[[float], None]
) -> torch.Tensor:
    steps = itertools.count(1)
    progress(0)
    return run_sampler(
        sampling.sample(model, list(range(count)), seed, unchanged),
        lambda: progress(min(1.0, next(steps) / sampling.steps)),
    )


def _part(progress: ProgressCallback | None, name: str, half: int) -> Callable[[float], None]:
    def report(fraction: float) -> None:
        if progress is not None:
            progress(f"sampling the {name}", (half + fraction) / 2)

    return report


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return 200.0
    return min(200.0, 10 * math.log10(signal / noise)) if signal > 0 else 0.0
