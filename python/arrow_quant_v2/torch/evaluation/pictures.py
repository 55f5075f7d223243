"""Pictures and latents: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from arrow_quant_v2.torch.evaluation.perceptual import Perceptual

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
_MAX_DB = 200.0
_NOT_FINITE = "the quantized model's samples hold NaN or infinity"


class PictureFigures:
    """Compares batches [batch, channels, *dims] one after the other.

    Pictures are cut to [-1, 1], so that their range is 2. That of latents is the difference of the largest and the
    least value that the float model made, for SSIM in each sample.
    """

    def __init__(self, pictures: bool, rgb: bool) -> None:
        self._pictures = pictures
        self._perceptual = Perceptual() if pictures and rgb else None
        self._squares: list[float] = []
        self._ssim: list[float] = []
        self._low, self._high = math.inf, -math.inf

    def add(self, want: torch.Tensor, got: torch.Tensor) -> None:
        if self._pictures:
            want, got = want.clamp(-1, 1), got.clamp(-1, 1)
        self._low, self._high = min(self._low, float(want.min())), max(self._high, float(want.max()))
        self._squares += (want.double() - got.double()).square().flatten(1).mean(1).tolist()
        if want.dim() == 4:
            rows = want.flatten(1)
            spread = torch.full((len(want),), 2.0) if self._pictures else rows.amax(1) - rows.amin(1)
            self._ssim += ssim(want, got, spread).tolist()
        if self._perceptual is not None and bool(torch.isfinite(got).all()):
            self._perceptual.add(want, got)

    def figures(self) -> tuple[dict[str, Any], dict[str, str]]:
        """psnr_db (of the mean squared error of all samples), psnr_db_by_sample, ssim (mean), lpips, fid; and why one
        of them is None."""
        values: dict[str, Any] = {"psnr_db": None, "psnr_db_by_sample": None, "ssim": None, "lpips": None, "fid": None}
        missing: dict[str, str] = {}
        if not all(map(math.isfinite, self._squares)):
            return values, dict.fromkeys(("psnr_db", "ssim", "lpips", "fid"), _NOT_FINITE)
        peak = 2.0 if self._pictures else self._high - self._low
        values["psnr_db"] = psnr_db(math.fsum(self._squares) / len(self._squares), peak)
        values["psnr_db_by_sample"] = [psnr_db(square, peak) for square in self._squares]
        if self._ssim:
            values["ssim"] = math.fsum(self._ssim) / len(self._ssim)
        else:
            missing["ssim"] = "the samples are not two-dimensional"
        if self._perceptual is None:
            missing |= dict.fromkeys(("lpips", "fid"), "they need pictures of three channels")
        else:
            found, why = self._perceptual.figures()
            values, missing = {**values, **found}, {**missing, **why}
        return values, missing


def psnr_db(mean_square: float, peak: float) -> float:
    """Peak signal-to-noise ratio in dB, at most 200."""
    if mean_square == 0:
        return _MAX_DB
    return min(_MAX_DB, 10 * math.log10(peak**2 / mean_square)) if peak > 0 else 0.0


def ssim(want: torch.Tensor, got: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Structural similarity of pictures [batch, channels, height, width]; float64 [batch].

    Wang, Bovik, Sheikh and Simoncelli 2004, Image Quality Assessment: From Error Visibility to Structural Similarity,
    equation 13: 11x11 Gaussian window with deviation 1.5 (smaller where the picture is, an odd number), whole windows
    only, K1 = 0.01, K2 = 0.03, mean over places and channels. ``spread`` [batch] is the range of values.
    """
    x, y = want.double(), got.double()
    size = min(_WINDOW, *(n - 1 + n % 2 for n in x.shape[2:]))
    c1, c2 = ((k * spread.double()).square().reshape(-1, 1, 1, 1) for k in (_K1, _K2))
    mean_x, mean_y = _blur(x, size), _blur(y, size)
    var_x = _blur(x * x, size) - mean_x.square()
    var_y = _blur(y * y, size) - mean_y.square()
    covariance = _blur(x * y, size) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    # Both are 0 where two latents are the same constant.
    return torch.where(bottom == 0, torch.ones_like(bottom), top / bottom).flatten(1).mean(1)


def _blur(x: torch.Tensor, size: int) -> torch.Tensor:
    """Gaussian means of whole windows, each channel for itself."""
    places = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-places.square() / (2 * _SIGMA**2))
    weights /= weights.sum()
    flat = x.reshape(-1, 1, *x.shape[2:])
    flat = F.conv2d(F.conv2d(flat, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))
    return flat.reshape(*x.shape[:2], *flat.shape[2:])
