"""Static ranges of a layer's input: which one holds at a time, and the integer codes of a tensor in it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.errors import ShapeMismatchError
from arrow_quant_v2.model_file import StoredTensor
from arrow_quant_v2.torch.time_state import groups_at

ACTIVATION_BITS = {"int8": 8, "int6": 6, "int4": 4}
_STORED_LEVELS = 255


@dataclasses.dataclass(frozen=True)
class BlockRanges:
    """Codes of one input in one time group: ``scales`` and ``zero_points`` [blocks], float32, zero points whole, of
    blocks of ``block_size`` channels."""

    block_size: int
    scales: torch.Tensor
    zero_points: torch.Tensor


class ActivationTable(nn.Module):
    """The static ranges of a layer's input at a width of 8, 6 or 4 bits.

    A code q of 0 .. 2^bits - 1 stands for scale * (q - zero_point). Ranges are stored for 8 bits; those of fewer bits
    span the same range.

    Args:
        stored: a quantized weight with time_scales.
        bits: of the codes.
        channels: input channels of each of ``inputs``, the groups of a grouped convolution.
    """

    scales: torch.Tensor
    zero_points: torch.Tensor

    def __init__(self, stored: StoredTensor, bits: int, channels: int, inputs: int) -> None:
        super().__init__()
        self.bits = bits
        self.levels = 2**bits - 1
        self.boundaries = torch.tensor(stored.time_boundaries[1:-1], dtype=torch.float64)
        self.block_sizes = stored.time_block_sizes
        self.inputs = inputs
        counts = [inputs * -(-channels // size) for size in self.block_sizes]
        self._begins = [0, *itertools.accumulate(counts)]
        if self._begins[-1] != stored.time_scales.size:
            raise ShapeMismatchError(
                f"tensor '{stored.name}': {stored.time_scales.size} activation scales where {channels} channels of "
                f"{inputs} inputs need {self._begins[-1]}"
            )
        scales = torch.from_numpy(stored.time_scales.copy()).double() * _STORED_LEVELS / self.levels
        zeros = torch.from_numpy(stored.time_zero_points.copy()).double() * self.levels / _STORED_LEVELS
        self.register_buffer("scales", scales.float(), persistent=False)
        self.register_buffer("zero_points", zeros.round().float(), persistent=False)
        self.name = stored.name

    def _apply(self, fn: Any, recurse: bool = True) -> ActivationTable:
        """Move, but stay in float32."""
        device = fn(torch.zeros(1, device=self.scales.device)).device
        self.scales, self.zero_points = self.scales.to(device), self.zero_points.to(device)
        return self

    def ranges(self, group: int, given: int = 0) -> BlockRanges:
        """Of one time group and one input."""
        begin, end = self._begins[group], self._begins[group + 1]
        blocks = (end - begin) // self.inputs
        at = slice(begin + given * blocks, begin + (given + 1) * blocks)
        return BlockRanges(self.block_sizes[group], self.scales[at], self.zero_points[at])

    def groups_of(self, batch: int) -> list[tuple[int, torch.Tensor | None]]:
        """Time groups in a batch by the current time, each with its samples (None: all of them).

        Raises:
            ConfigurationError: nothing told the time, or the times do not fit the batch.
        """
        if len(self.block_sizes) == 1:
            return [(0, None)]
        groups = groups_at(self.boundaries, batch, self.name)
        if len(groups) == 1:
            return [(int(groups[0]), None)]
        return [(group, (groups == group).nonzero()[:, 0]) for group in torch.unique(groups).tolist()]

    def encode(self, x: torch.Tensor, ranges: BlockRanges, axis: int) -> torch.Tensor:
        """Codes less their zero points, whole float32 numbers in [-levels, levels], of ``x`` with channels on
        ``axis``."""
        channels = x.shape[axis]
        shape = [channels if d == axis % x.dim() else 1 for d in range(x.dim())]
        scales = ranges.scales.repeat_interleave(ranges.block_size)[:channels].reshape(shape)
        zeros = ranges.zero_points.repeat_interleave(ranges.block_size)[:channels].reshape(shape)
        steps = (x.to(torch.float32) / scales).round_()
        return torch.clamp(steps, min=-zeros, max=self.levels - zeros, out=steps)


def encode_rows(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dynamic codes of layers without static ranges, a range per row that holds 0.

    Returns codes less their zero points [rows, cols] and scales [rows, 1], float32.
    """
    levels = 2**bits - 1
    x = x.to(torch.float32)
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    scales = ((high - low) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    zeros = (-low / scales).round_()
    steps = (x / scales).round_()
    return torch.minimum(torch.maximum(steps, -zeros), levels - zeros), scales
