"""Sounds: log-spectral distance."""

from __future__ import annotations

import math
from typing import Any

import torch

_WINDOW = 1024
# Below this part of the loudest place of the float model's sound (-80 dB), what is there does not count.
_FLOOR = 1e-8


class SoundFigures:
    """Compares batches [batch, channels, frames] one after the other."""

    def __init__(self) -> None:
        self._distances: list[float] = []

    def add(self, want: torch.Tensor, got: torch.Tensor) -> None:
        self._distances += log_spectral_distance(want, got).tolist()

    def figures(self) -> tuple[dict[str, Any], dict[str, str]]:
        """log_spectral_distance_db, the mean over samples; and why it is None."""
        if not all(map(math.isfinite, self._distances)):
            why = {"log_spectral_distance_db": "the quantized model's samples hold NaN or infinity"}
            return {"log_spectral_distance_db": None}, why
        return {"log_spectral_distance_db": math.fsum(self._distances) / len(self._distances)}, {}


def log_spectral_distance(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Root mean square over frequencies of the difference of power spectra in dB, mean over windows and channels, of
    sounds [batch, channels, frames]; float64 [batch].

    Gray and Markel 1976, Distance Measures for Speech Processing (the L2 norm of log spectra). Hann windows of 1024
    frames, or the next lower power of two of a shorter sound, a quarter apart.
    """
    a, b = _power(want), _power(got)
    floor = (_FLOOR * a.flatten(1).amax(1)).clamp(min=1e-30).reshape(-1, 1, 1, 1)
    difference = 10 * (torch.maximum(a, floor).log10() - torch.maximum(b, floor).log10())
    return difference.square().mean(2).sqrt().flatten(1).mean(1)


def _power(x: torch.Tensor) -> torch.Tensor:
    """[batch, channels, frequencies, windows]."""
    size = min(_WINDOW, 1 << (x.shape[-1].bit_length() - 1))
    window = torch.hann_window(size, dtype=torch.float64)
    flat = x.double().reshape(-1, x.shape[-1])
    spectrum = torch.stft(flat, size, max(1, size // 4), window=window, center=False, return_complex=True)
    return spectrum.abs().square().reshape(*x.shape[:2], *spectrum.shape[1:])
