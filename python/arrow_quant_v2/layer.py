"""Quantize one weight matrix: numpy in, numpy out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.arrays import to_float32
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """A matrix [rows, cols] as packed codes: value = scale * (code - zero_point).

    codes: uint8, LSB-first bit stream over the flattened matrix. scales, zero_points: float32 [rows, groups].
    """

    shape: tuple[int, ...]
    bit_width: int
    group_size: int
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.float32]

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and grids in memory, per weight."""
        stored = self.codes.nbytes + self.scales.nbytes + self.zero_points.nbytes
        return 8 * stored / max(1, math.prod(self.shape))

    def dequantize(self) -> npt.NDArray[np.float32]:
        """Values, float32, in the shape of the weight."""
        rows = self.scales.shape[0]
        matrix: npt.NDArray[np.float32] = core.dequantize_array(
            self.codes,
            rows,
            math.prod(self.shape) // rows,
            self.bit_width,
            self.group_size,
            self.scales.ravel(),
            self.zero_points.ravel(),
        )
        return matrix.reshape(self.shape)


def quantize_layer(
    weight: Any, bit_width: int = 4, group_size: int = 128, fit: str = "min_max", num_threads: int = 0
) -> QuantizedLayer:
    """Nearest rounding of a weight [out, in, ...], grouped along the flattened input axes.

    Args:
        weight: array-like or an Arrow array, at least 1-D, not empty, finite. float32 in C order is read where it lies,
            anything else is converted to it.
        bit_width: 2, 3, 4 or 8.
        group_size: at least 1, or -1 for one group per output channel.
        fit: "min_max" or "fitted" (least squares).

    Raises:
        QuantizationError: NaN or Inf. ConfigurationError: a wrong argument, no real numbers. ShapeMismatchError.
    """
    if fit not in ("min_max", "fitted"):
        raise ConfigurationError(f"fit is {fit!r}. Use min_max or fitted.", code="configuration")
    array = to_float32(weight)
    if array.ndim == 0 or array.size == 0:
        raise ShapeMismatchError(f"the weight has the shape {array.shape}. Give at least one row.")
    matrix = array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)
    codes, scales, zeros, group = core.quantize_array(matrix, bit_width, group_size, fit == "fitted", num_threads)
    return QuantizedLayer(array.shape, bit_width, group, codes, scales, zeros)
