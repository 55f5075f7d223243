"""Samples of the float and of the quantized model, as the page shows them."""

from __future__ import annotations

import base64
import io
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from arrow_quant_v2.torch.same_seed import SamplePairs

Facts = dict[str, Any]
Floats = npt.NDArray[np.float32]

_LEAST_PIXELS = 96  # small pictures are enlarged by a whole factor
_WINDOW = 256  # of a spectrogram, samples
_FLOOR_DB = -80.0


def sample_both(
    original: pathlib.Path,
    quantized: pathlib.Path,
    count: int,
    seed: int,
    allow_remote_code: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Facts, list[Facts]]:
    """The facts of the samples for the JSON, and for the page a pair of ``wanted`` and ``got`` for each: data URIs of
    pictures, or runs of text (text, whether it is the same in both)."""
    from arrow_quant_v2.torch.same_seed import sample_pairs

    pairs = sample_pairs(original, quantized, count, seed, allow_remote_code, progress)
    facts = {
        "kind": pairs.kind, "count": count, "seed": seed, "steps": pairs.steps, "psnr_db": pairs.psnr_db,
        "sqnr_db": pairs.sqnr_db, "token_agreement": pairs.token_agreement,
    }  # fmt: skip
    shown = _texts(pairs) if pairs.kind == "text" else _pictures(pairs)
    return facts, shown


def _texts(pairs: SamplePairs) -> list[Facts]:
    assert pairs.words is not None
    shown = []
    for wanted, got in zip(pairs.wanted.tolist(), pairs.got.tolist(), strict=True):
        same = [a == b for a, b in zip(wanted, got, strict=True)]
        shown.append({side: _runs(list(map(pairs.words, tokens)), same) for side, tokens in _sides(wanted, got)})
    return shown


def _sides(wanted: Any, got: Any) -> tuple[tuple[str, Any], ...]:
    return ("wanted", wanted), ("got", got)


def _runs(words: list[str], same: list[bool]) -> list[tuple[str, bool]]:
    """Neighbouring words joined where both are the same in the two texts, or both are not."""
    runs: list[tuple[str, bool]] = []
    for word, equal in zip(words, same, strict=True):
        if runs and runs[-1][1] == equal:
            runs[-1] = (runs[-1][0] + word, equal)
        else:
            runs.append((word, equal))
    return runs


def _pictures(pairs: SamplePairs) -> list[Facts]:
    draw = spectrogram if pairs.kind == "signal" else latent if pairs.kind == "latent" else image
    shown = []
    for wanted, got in zip(pairs.wanted.float().numpy(), pairs.got.float().numpy(), strict=True):
        shown.append({side: data_uri(draw(values, wanted)) for side, values in _sides(wanted, got)})
    return shown


def image(values: Floats, _: Floats) -> npt.NDArray[np.uint8]:
    """Pixels [height, width(, 3)] of a picture [1 or 3, height, width] in [-1, 1]."""
    pixels = ((np.nan_to_num(values).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def latent(values: Floats, reference: Floats) -> npt.NDArray[np.uint8]:
    """Pixels of the first channel of [channels, ...], flattened to two axes, in the reference's range."""
    first = values[0].reshape(-1, values.shape[-1])
    return _shades(first, float(reference[0].min()), float(reference[0].max()))


def spectrogram(values: Floats, reference: Floats) -> npt.NDArray[np.uint8]:
    """Log magnitude of the short-time Fourier transform of a signal [channels, length], high frequencies above; its
    channels are added. White is the reference's loudest value."""
    top = _magnitudes_db(reference).max()
    return _shades(_magnitudes_db(values), top + _FLOOR_DB, top)


def _magnitudes_db(values: Floats) -> npt.NDArray[np.float64]:
    signal = np.nan_to_num(values).sum(0)
    window = min(_WINDOW, len(signal))
    starts = np.arange(0, len(signal) - window + 1, max(1, window // 4))
    frames = signal[starts[:, None] + np.arange(window)] * np.hanning(window)
    decibels: npt.NDArray[np.float64] = 20 * np.log10(np.abs(np.fft.rfft(frames)).T[::-1] + 1e-10)
    return decibels


def _shades(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    shades = (np.nan_to_num(values) - low) / max(high - low, 1e-12)
    pixels: npt.NDArray[np.uint8] = (shades.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A PNG in the address itself."""
    factor = max(1, -(-_LEAST_PIXELS // max(1, min(pixels.shape[:2]))))
    picture = Image.fromarray(pixels)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
