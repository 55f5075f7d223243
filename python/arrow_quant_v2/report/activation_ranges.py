"""The static ranges of a layer's input over time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from arrow_quant_v2.model_file import StoredTensor

LAST_CODE = 255


def ranges_over_time(tensor: StoredTensor) -> dict[str, Any] | None:
    """The range of each time group: from the lowest to the highest value that its 8-bit codes stand for, over all
    blocks of channels.

    Returns:
        boundaries (times, one more than groups), low and high; None where the tensor has no ranges.
    """
    if not tensor.time_scales.size:
        return None
    counts = _entries_per_group(tensor)
    if sum(counts) != tensor.time_scales.size:
        return None
    scales = tensor.time_scales.astype(np.float64)
    zeros = np.rint(tensor.time_zero_points.astype(np.float64))
    low, high = -scales * zeros, scales * (LAST_CODE - zeros)
    parts = [slice(begin, end) for begin, end in itertools.pairwise([0, *itertools.accumulate(counts)])]
    return {
        "boundaries": list(tensor.time_boundaries),
        "low": [float(low[part].min()) for part in parts],
        "high": [float(high[part].max()) for part in parts],
    }


def _entries_per_group(tensor: StoredTensor) -> list[int]:
    """Scales of each time group: inputs of a grouped convolution times blocks of its channels."""
    moved = [tensor.shape[tensor.quant_axis], *(d for i, d in enumerate(tensor.shape) if i != tensor.quant_axis)]
    channels = moved[tensor.row_rank] if tensor.row_rank < len(moved) else 1
    blocks = [-(-channels // size) for size in tensor.time_block_sizes]
    inputs = tensor.time_scales.size // max(1, sum(blocks))
    return [inputs * count for count in blocks]
