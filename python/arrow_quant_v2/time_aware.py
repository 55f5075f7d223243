"""Time-aware parameters of single layers: static activation ranges and output corrections per group of timesteps."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.arrays import to_float32
from arrow_quant_v2.calibration import time_boundaries
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError

FloatArray = npt.NDArray[np.float32]


def group_of(boundaries: Sequence[float], time: float) -> int:
    """The time group that holds ``time``; the nearest one for times outside [boundaries[0], boundaries[-1])."""
    return int(np.searchsorted(boundaries[1:-1], time, side="right"))


@dataclasses.dataclass(frozen=True)
class ActivationRanges:
    """Static ranges of a layer's input in 8-bit codes.

    ``scales`` and ``zero_points`` are float32 in the order (time group, input of a grouped convolution, block of
    ``block_sizes[group]`` channels); group i holds times in [boundaries[i], boundaries[i + 1]). ``report``: the method
    ("time_aware" or "shared"), errors on held-out rows relative to the outputs, bits a weight. ``fallback_cause``: why
    the ranges are shared where time-aware ones were asked for, else empty.
    """

    boundaries: tuple[float, ...]
    block_sizes: tuple[int, ...]
    channels: int
    inputs: int
    scales: FloatArray
    zero_points: FloatArray
    report: dict[str, Any]
    fallback_cause: str

    def encode(self, x: npt.ArrayLike, time: float, bits: int = 8) -> npt.NDArray[np.uint8]:
        """Codes 0 .. 2**bits - 1 of ``x`` [..., channels of all inputs] at ``time``; what lies outside is clipped."""
        values = to_float32(x)
        scales, zeros, levels = self._by_channel(values.shape[-1:], time, bits)
        codes = np.clip(np.round(values / scales) + zeros, 0, levels)
        return codes.astype(np.uint8)

    def decode(self, codes: npt.NDArray[np.uint8], time: float, bits: int = 8) -> FloatArray:
        """float32 values of codes [..., channels of all inputs] that were made at ``time``."""
        scales, zeros, _ = self._by_channel(codes.shape[-1:], time, bits)
        values: FloatArray = (codes.astype(np.float32) - zeros) * scales
        return values

    def _by_channel(self, shape: tuple[int, ...], time: float, bits: int) -> tuple[FloatArray, FloatArray, int]:
        if not 1 <= bits <= 8:
            raise ConfigurationError(f"bits is {bits}. Give 1 to 8.")
        if shape != (self.inputs * self.channels,):
            raise ShapeMismatchError(
                f"the last axis has {shape} values, the layer {self.inputs * self.channels} channels"
            )
        group, levels = group_of(self.boundaries, time), 2**bits - 1
        counts = [self.inputs * -(-self.channels // size) for size in self.block_sizes]
        begin = [0, *itertools.accumulate(counts)][group]
        part = slice(begin, begin + counts[group])
        scales = self._spread(self.scales[part] * np.float32(255 / levels), self.block_sizes[group])
        zeros = self._spread(np.round(self.zero_points[part] * np.float32(levels / 255)), self.block_sizes[group])
        return scales, zeros, levels

    def _spread(self, values: FloatArray, block_size: int) -> FloatArray:
        blocks = values.reshape(self.inputs, -1)
        spread: FloatArray = np.repeat(blocks, block_size, axis=1)[:, : self.channels].ravel()
        return spread


@dataclasses.dataclass(frozen=True)
class TimeCorrection:
    """Gains and biases of a layer's outputs, float32 [time groups, outputs]; both empty where none pays.

    ``report``: kind ("none", "bias", "gain_and_bias"), squared errors on held-out rows by time group before and after,
    bits a weight.
    """

    boundaries: tuple[float, ...]
    gains: FloatArray
    biases: FloatArray
    report: dict[str, Any]

    def apply(self, y: npt.ArrayLike, time: float) -> FloatArray:
        """gain * y + bias at ``time`` for outputs [..., outputs] of the quantized weight, without the layer's bias."""
        values = to_float32(y)
        if not self.biases.size:
            return values
        group = group_of(self.boundaries, time)
        corrected: FloatArray = (values * self.gains[group] + self.biases[group]).astype(np.float32)
        return corrected


class TimeAwareQuantizer:
    """Makes what a run over a model makes for one layer, from an array and statistics.

    Args:
        config: num_time_groups, time_grouping, activation_block_early and _late, activation_range, thermodynamic.
    """

    def __init__(self, config: DiffusionQuantConfig | None = None) -> None:
        self.config = config or DiffusionQuantConfig()
        self._core = core.TimeAwareQuantizer(json.dumps(self.config.to_dict()))

    def time_groups(self, steps: int) -> list[float]:
        """Boundaries of num_time_groups equally long groups of ``steps`` timesteps, at most one group per step."""
        return time_boundaries(float(steps), self.config.num_time_groups, steps)

    def ranges(
        self,
        weight: npt.ArrayLike,
        statistics: Any,
        layer: str,
        component: str = "",
        taps: int = 1,
        column_scales: npt.ArrayLike | None = None,
    ) -> ActivationRanges:
        """Static ranges for the input of a layer.

        Args:
            weight: the quantized weight [rows, cols] as it will multiply the input.
            statistics: of the model: a collector's statistics, or a calibration file's.
            layer: name of the weight tensor in them.
            component: of a pipeline.
            taps: columns of each input channel: positions of a convolution's kernel.
            column_scales: [cols] that the input is multiplied by before it becomes codes.

        Raises:
            ShapeMismatchError: samples never reached the layer, or the statistics do not fit the weight.
        """
        scales = None if column_scales is None else to_float32(column_scales)
        values = self._core.ranges(_matrix(weight), statistics, component, layer, taps, scales)
        return ActivationRanges(**{**values, "report": json.loads(values["report"])})

    def corrections(
        self, weight: npt.ArrayLike, quantized: npt.ArrayLike, statistics: Any, layer: str, component: str = ""
    ) -> TimeCorrection:
        """Gains and biases that pay for what became of a weight.

        The bias makes the mean output of a time group exact (Nagel et al. 2019, "Data-Free Quantization through Weight
        Equalization and Bias Correction", equation 18, for each group).

        Args:
            weight: [rows, cols].
            quantized: what became of it, [rows, cols].
            statistics: as for ranges.
            layer: name of the weight tensor in them.
            component: of a pipeline.

        Raises:
            ShapeMismatchError: as ranges.
        """
        want = _matrix(weight)
        values = self._core.corrections(want, _matrix(quantized), statistics, component, layer)
        biases = values["biases"].reshape(-1, len(want))
        gains = values["gains"].reshape(-1, len(want)) if values["gains"].size else np.ones_like(biases)
        return TimeCorrection(values["boundaries"], gains, biases, json.loads(values["report"]))


def _matrix(weight: npt.ArrayLike) -> FloatArray:
    array = to_float32(weight)
    if array.ndim < 2:
        raise ShapeMismatchError(f"the weight has the shape {array.shape}. Give [rows, cols].")
    return np.ascontiguousarray(array.reshape(array.shape[0], -1))
