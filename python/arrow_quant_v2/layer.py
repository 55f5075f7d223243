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

FloatArray = npt.NDArray[np.float32]


def _no_floats() -> FloatArray:
    return np.zeros((0, 0), np.float32)


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """A matrix [rows, cols] as packed codes.

    Grid "affine": value = scale * (code - zero_point). Grid "residual_binary", 2 bits: value = zero_point +- scale +-
    residual_scale, plus where bit 1 and bit 0 of the code are set. Where there is a rotation_seed, rows are then
    turned back (see docs/format.md), and with column_scales (float32 [cols], else empty) the values of each column are
    multiplied by its own.

    codes: uint8, LSB-first bit stream over the flattened matrix. scales, zero_points, residual_scales (residual_binary
    only): float32 [rows, groups]. report: how it was rounded (method, and with a hessian dampening, diagonal, float64)
    and how well (weight_cosine, weight_sqnr_db; with a hessian output_error, output_cosine, output_sqnr_db).
    """

    shape: tuple[int, ...]
    bit_width: int
    group_size: int
    codes: npt.NDArray[np.uint8]
    scales: FloatArray
    zero_points: FloatArray
    residual_scales: FloatArray = dataclasses.field(default_factory=_no_floats)
    column_scales: FloatArray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    rotation_seed: int | None = None
    grid: str = "affine"
    report: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and grids in memory, per weight."""
        grids = self.scales.nbytes + self.zero_points.nbytes + self.residual_scales.nbytes + self.column_scales.nbytes
        return 8 * (self.codes.nbytes + grids) / max(1, math.prod(self.shape))

    def dequantize(self) -> FloatArray:
        """Values, float32, in the shape of the weight."""
        rows = self.scales.shape[0]
        matrix: FloatArray = core.dequantize_array(
            self.codes,
            rows,
            math.prod(self.shape) // rows,
            self.bit_width,
            self.group_size,
            self.scales.ravel(),
            self.zero_points.ravel(),
            self.residual_scales.ravel(),
            self.column_scales,
            self.rotation_seed,
        )
        return matrix.reshape(self.shape)


def quantize_layer(
    weight: Any,
    hessian: npt.ArrayLike | None = None,
    bit_width: int = 4,
    group_size: int = 128,
    grid: str = "affine",
    rounding: str = "auto",
    order: str = "activation",
    rounds: int = 2,
    dampening: float = 0.01,
    *,
    fit: str | None = None,
    column_scales: bool = False,
    num_threads: int = 0,
) -> QuantizedLayer:
    """Quantize a weight [out, in, ...], grouped along the flattened input axes.

    Rounding with a hessian H makes tr(E H E^T) small, E being the error of the weight: error feedback by LDLQ (Chee et
    al. 2023, "QuIP", equation 4), which equals GPTQ (Frantar et al. 2023), then rounds of grids refitted by least
    squares and of coordinate descent (Behdin et al. 2023, "QuantEase", update 6; Nair and Suggala 2024, "CDQuant").
    Residual binary grids begin with the alternating multi-bit fit of Xu et al. 2018. column_scales follow SmoothQuant
    (Xiao et al. 2023) and AWQ (Lin et al. 2024).

    Args:
        weight: array-like or an Arrow array, at least 1-D, not empty, finite. float32 in C order is read where it lies,
            anything else is converted to it.
        hessian: second moment E[x x^T] of the inputs, [n, n] with n the flattened input axes, as for the weight.
        bit_width: 2, 3, 4 or 8.
        group_size: at least 1, or -1 for one group per output channel.
        grid: "affine", or "residual_binary" (2 bits only): middle +- scale +- residual_scale.
        rounding: "ldlq" rounds with feedback of errors through the hessian and then refines; "nearest" takes nearest
            values, with a hessian on grids fitted by its diagonal; "auto" is "ldlq" where there is a hessian.
        order: of columns for "ldlq": "activation" (by falling diagonal of the hessian) or "natural".
        rounds: of refinement for "ldlq".
        dampening: fraction of the mean diagonal that is added to the hessian's diagonal for "ldlq". Grows where the
            hessian needs it; the report tells.
        fit: of nearest rounding on affine grids: "min_max", or "fitted" (least squares); default "fitted" with a
            hessian, else "min_max". A residual_binary grid is always fitted.
        column_scales: for "ldlq", scale columns to about the same size before rounding and back after, so that one
            large input column does not coarsen its group's grids; costs 32 / rows bits a weight.
        num_threads: 0 for all. Any number gives the same bytes.

    Returns:
        The codes and grids, and a report of how well they fit.

    Raises:
        ShapeMismatchError: an empty weight, or a hessian of another shape.
        QuantizationError: NaN or Inf.
        ConfigurationError: a wrong argument, no real numbers.
    """
    array, matrix = _as_matrix(weight)
    moment = None if hessian is None else _as_hessian(hessian, matrix.shape[1])
    method = _choose(rounding, moment is not None, fit, grid)
    if method == "ldlq":
        values = core.round_matrix(
            matrix, moment, bit_width, group_size, grid, order, rounds, dampening, num_threads, column_scales
        )
    elif method == "min_max":
        values = _min_max(matrix, bit_width, group_size, num_threads)
    else:
        importance = None if moment is None else np.ascontiguousarray(moment.diagonal())
        values = core.round_nearest(matrix, importance, bit_width, group_size, grid, num_threads)
    details = {key: values.pop(key) for key in ("dampening", "diagonal", "float64") if key in values}
    layer = QuantizedLayer(shape=array.shape, bit_width=bit_width, grid=grid, **values)
    report = {"method": method, **details, **_quality(matrix, layer, moment, num_threads)}
    return dataclasses.replace(layer, report=report)


def _as_matrix(weight: Any) -> tuple[FloatArray, FloatArray]:
    """The weight as float32 in its own shape and as [rows, cols]."""
    array = to_float32(weight)
    if array.ndim == 0 or array.size == 0:
        raise ShapeMismatchError(f"the weight has the shape {array.shape}. Give at least one row.")
    return array, array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)


def _as_hessian(hessian: Any, cols: int) -> FloatArray:
    array = to_float32(hessian)
    if array.shape != (cols, cols):
        raise ShapeMismatchError(
            f"the hessian has the shape {array.shape}, but the weight has {cols} input channels. "
            f"Give the second moment of this layer's inputs, ({cols}, {cols})."
        )
    return array


def _choose(rounding: str, has_hessian: bool, fit: str | None, grid: str) -> str:
    """ldlq, min_max or fitted. Raises ConfigurationError."""
    for name, value, allowed in (
        ("rounding", rounding, ("auto", "nearest", "ldlq")),
        ("fit", fit, (None, "min_max", "fitted")),
        ("grid", grid, ("affine", "residual_binary")),
    ):
        if value not in allowed:
            words = ", ".join(str(word) for word in allowed if word is not None)
            raise ConfigurationError(f"{name} is {value!r}. Use one of {words}.", code="configuration")
    if rounding == "ldlq" and not has_hessian:
        raise ConfigurationError("rounding is 'ldlq', which needs a hessian. Give one, or use nearest.")
    if rounding == "ldlq" or (rounding == "auto" and has_hessian):
        return "ldlq"
    if grid == "residual_binary":
        if fit == "min_max":
            raise ConfigurationError("fit is 'min_max', but a residual_binary grid is always fitted. Leave fit out.")
        return "fitted"
    return fit or ("fitted" if has_hessian else "min_max")


def _min_max(matrix: FloatArray, bit_width: int, group_size: int, num_threads: int) -> dict[str, Any]:
    codes, scales, zero_points, group = core.quantize_array(matrix, bit_width, group_size, False, num_threads)
    return {"codes": codes, "scales": scales, "zero_points": zero_points, "group_size": group}


def _figures(prefix: str, sums: tuple[float, float, float, float]) -> dict[str, float]:
    """Cosine and SQNR of sums w*w, w*q, q*q, e*e, as the C++ core defines them for a tensor."""
    ww, wq, qq, ee = sums
    if ee <= 0:  # sums in float32 may cancel to less than nothing
        return {f"{prefix}_cosine": 1.0, f"{prefix}_sqnr_db": 200.0}
    norm = math.sqrt(ww) * math.sqrt(qq) if ww > 0 and qq > 0 else 0.0
    cosine = min(1.0, max(-1.0, wq / norm)) if norm > 0 else 0.0
    return {f"{prefix}_cosine": cosine, f"{prefix}_sqnr_db": 10 * math.log10(ww / ee) if ww > 0 else 0.0}


def _quality(
    matrix: FloatArray, layer: QuantizedLayer, hessian: FloatArray | None, num_threads: int
) -> dict[str, float]:
    values = layer.dequantize().reshape(matrix.shape)
    report = _figures("weight", core.error_sums(matrix.ravel(), values.ravel()))
    if hessian is not None:
        sums = core.output_error(matrix, values, hessian, None, num_threads)
        report["output_error"] = sums[3] / sums[0] if sums[0] > 0 else 0.0
        report |= _figures("output", sums)
    return report
