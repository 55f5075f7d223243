"""Where the weights of a layer lie on its grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.model_file import StoredTensor

FloatArray = npt.NDArray[np.float32]

MAX_WEIGHTS = 1 << 20  # of a layer; of larger ones rows in even distances
_BINS_PER_CODE = {2: 16, 3: 8, 4: 4, 8: 1}
_MARGIN = 1  # codes on each side of the grid


def grid_histogram(tensor: StoredTensor, original: FloatArray | None) -> dict[str, Any]:
    """Histograms over positions on the grid, in codes: 0 is the lowest level of a weight's group, 2^bits - 1 the
    highest, and between levels positions are interpolated.

    Args:
        tensor: packed, with its values.
        original: float32 in the tensor's shape, or None.

    Returns:
        levels; code_counts [levels], quantized weights at each; edges and counts (float weights between them, those
        beyond the outer edges in the outer bins) and clipped_share (of float weights more than half a step beyond the
        grid), None without an original; weights, how many were counted; median_step of the groups.
    """
    rows, cols = tensor.matrix_shape
    chosen = np.arange(0, rows, max(1, -(-rows * cols // MAX_WEIGHTS)))
    levels = 2**tensor.bits
    grid = _levels(tensor, chosen)
    codes = np.rint(_positions(_matrix(tensor, tensor.dequantize())[chosen], tensor, grid)).astype(np.int64)
    histogram: dict[str, Any] = {
        "levels": levels,
        "code_counts": np.bincount(codes.clip(0, levels - 1).ravel(), minlength=levels).tolist(),
        "edges": None, "counts": None, "clipped_share": None,
        "weights": int(codes.size),
        "median_step": float(np.median((grid[-1] - grid[0]) / (levels - 1))),
    }  # fmt: skip
    if original is not None:
        at = _positions(_matrix(tensor, original)[chosen], tensor, grid)
        histogram["clipped_share"] = float(np.mean((at < -0.5) | (at > levels - 0.5)))
        bins = _BINS_PER_CODE.get(tensor.bits, 1)
        edges = np.linspace(-_MARGIN, levels - 1 + _MARGIN, (levels - 1 + 2 * _MARGIN) * bins + 1)
        counts, _ = np.histogram(at.clip(edges[0], edges[-1]), edges)
        histogram.update(edges=edges.tolist(), counts=counts.tolist())
    return histogram


def _matrix(tensor: StoredTensor, values: FloatArray) -> FloatArray:
    return np.moveaxis(values, tensor.quant_axis, 0).reshape(tensor.matrix_shape)


def _levels(tensor: StoredTensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Values of the grid's levels in ascending order [levels or 2, rows, groups]; of an affine grid the outer two."""
    shape = (tensor.matrix_shape[0], -1)
    scales, zeros = (a.reshape(shape)[rows].astype(np.float64) for a in (tensor.scales, tensor.zero_points))
    if tensor.residual_scales.size:
        residual = tensor.residual_scales.reshape(shape)[rows].astype(np.float64)
        return np.sort(np.stack([zeros + s * scales + r * residual for s in (-1, 1) for r in (-1, 1)]), axis=0)
    return np.stack([-scales * zeros, scales * (2**tensor.bits - 1 - zeros)])


def _positions(values: FloatArray, tensor: StoredTensor, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Positions of weights [rows, cols] between levels, in codes."""
    columns = np.arange(values.shape[1])
    group = columns // max(1, tensor.group_size)
    plain = values.astype(np.float64)
    if tensor.column_scales.size:
        plain = plain / tensor.column_scales
    if tensor.rotation_seed is not None:
        plain = core.rotate_rows(plain.astype(np.float32), tensor.rotation_seed).astype(np.float64)
    if len(levels) == 2:
        steps = np.maximum((levels[1] - levels[0]) / (2**tensor.bits - 1), np.finfo(np.float32).tiny)
        position: npt.NDArray[np.float64] = (plain - levels[0][:, group]) / steps[:, group]
        return position
    gaps = np.maximum(np.diff(levels, axis=0), np.finfo(np.float32).tiny)
    spread = levels[:, :, group]
    segment = np.zeros(plain.shape, np.int64)
    for level in spread[1:-1]:
        segment += plain >= level
    pick = (segment, *np.indices(plain.shape))
    inside: npt.NDArray[np.float64] = segment + (plain - spread[:-1][pick]) / gaps[:, :, group][pick]
    return inside
