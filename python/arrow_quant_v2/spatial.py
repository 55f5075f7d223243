"""Spatial quantization of single layers: equalized channels, shifted inputs, rotated blocks."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.arrays import to_float32
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ShapeMismatchError
from arrow_quant_v2.layer import QuantizedLayer
from arrow_quant_v2.time_aware import ActivationRanges

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class SpatialLayer:
    """A layer whose weight W [rows, cols] is stored for a transformed input R (e * (x - shift)).

    ``layer`` holds the codes, with e as its column_scales and the seed of R; ``layer.dequantize()`` is W itself.
    ``shift``: float32 [cols], or empty. ``ranges``: static ranges of the transformed input. ``report``: equalization
    ("none", "columns", "balance", "grid"), alpha, shift, rotation, error and plain_error: relative output errors with
    and without the transform, weights and 8-bit activations together, on held-out rows. ``fallbacks``: what was wanted
    and did not help, with the cause.
    """

    layer: QuantizedLayer
    shift: FloatArray
    ranges: ActivationRanges
    report: dict[str, Any]
    fallbacks: list[dict[str, Any]]

    def transform(self, x: npt.ArrayLike) -> FloatArray:
        """Inputs [..., cols] as the codes of the weight see them, float32."""
        rows = to_float32(x)
        cols = int(np.prod(self.layer.shape[1:]))
        if rows.shape[-1:] != (cols,):
            raise ShapeMismatchError(f"the last axis has {rows.shape[-1:]} values, the layer {cols} columns")
        if self.shift.size:
            rows = rows - self.shift
        if self.layer.column_scales.size:
            rows = rows * self.layer.column_scales
        if self.layer.rotation_seed is None:
            return rows
        turned: FloatArray = core.rotate_rows(rows.reshape(-1, cols), self.layer.rotation_seed)
        return turned.reshape(rows.shape)

    def transformed_weight(self) -> FloatArray:
        """What the transformed input is multiplied by, [rows, cols]."""
        return dataclasses.replace(self.layer, column_scales=np.zeros(0, np.float32), rotation_seed=None).dequantize()

    def outputs(self, x: npt.ArrayLike) -> FloatArray:
        """W x of inputs [..., cols] by way of the transform, [..., rows], without the layer's bias."""
        result: FloatArray = self.transform(x) @ self.transformed_weight().reshape(self.layer.shape[0], -1).T
        if self.shift.size:
            result = result + self.layer.dequantize().reshape(self.layer.shape[0], -1) @ self.shift
        return result


class SpatialQuantizer:
    """Makes what a run over an image or audio model makes for one layer, from an array and statistics.

    Each layer takes, of what the configuration allows, the transform with the least output error on held-out rows of
    its input, weights and 8-bit activations together: scales that balance both sides (Wu et al. 2024, "PTQ4DiT"), or of
    a grid between them (Dong et al. 2025, "DiTAS"), shifted means, and rotated blocks of 64 (Tseng et al. 2024,
    "QuIP#").

    Args:
        config: bit_width, group_size, equalization, smoothing, hadamard, strategy_spatial, those of rounding and of
            activation ranges.
    """

    def __init__(self, config: DiffusionQuantConfig | None = None) -> None:
        self.config = config or DiffusionQuantConfig()
        self._core = core.SpatialQuantizer(json.dumps(self.config.to_dict()))

    def quantize(
        self, weight: npt.ArrayLike, statistics: Any, layer: str, component: str = "", taps: int = 1
    ) -> SpatialLayer:
        """Quantize the weight of a layer.

        Args:
            weight: [rows, cols], or [rows, channels, kernel...]. For a transposed convolution move the output channels
                to the front.
            statistics: of the model: a collector's statistics, or a calibration file's.
            layer: name of the weight tensor in them.
            component: of a pipeline.
            taps: columns of each input channel: positions of a convolution's kernel. From the weight's shape where it
                has more than two axes.

        Raises:
            ShapeMismatchError: samples never reached the layer, or the statistics do not fit the weight.
            QuantizationError: NaN or Inf.
        """
        array = to_float32(weight)
        if array.ndim < 2:
            raise ShapeMismatchError(f"the weight has the shape {array.shape}. Give [rows, cols].")
        if array.ndim > 2:
            taps = int(np.prod(array.shape[2:]))
        matrix = np.ascontiguousarray(array.reshape(array.shape[0], -1))
        values = self._core.quantize(matrix, statistics, component, layer, taps)
        report = json.loads(values["report"])
        stored = QuantizedLayer(
            shape=array.shape,
            bit_width=values["bits"],
            group_size=values["group_size"],
            codes=values["codes"],
            scales=values["scales"],
            zero_points=values["zero_points"],
            column_scales=values["column_scales"],
            rotation_seed=values["rotation_seed"],
            grid=values["grid"],
            report=report,
        )
        fallbacks = json.loads(values["fallbacks"])
        ranges = ActivationRanges(
            **values["ranges"], report=json.loads(values["ranges_report"]), fallback_cause=_cause(fallbacks)
        )
        return SpatialLayer(stored, values["shift"], ranges, report["spatial"], fallbacks)


def _cause(fallbacks: list[dict[str, Any]]) -> str:
    """Why ranges are shared where time-aware ones were wanted."""
    causes = [str(f["cause"]) for f in fallbacks if f["from_method"] == "time_aware"]
    return causes[0] if causes else ""
