"""What a layer with integer activations does to its input before it becomes codes: R (e * (x - shift))."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.model_file import StoredTensor

ROTATION_BLOCK = 64


def rotation_signs(cols: int, seed: int) -> torch.Tensor:
    """Signs of a rotation's columns, float32 [cols]; see block_hadamard.h."""
    return torch.from_numpy(core.rotation_signs(cols, seed))


def rotate(rows: torch.Tensor, signs: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Rows [..., cols] in the basis of rotated weights, or back: signs, then a Walsh-Hadamard transform of every block
    of 64 columns, a tail being cut into falling powers of two."""
    if not inverse:
        rows = rows * signs
    turned = torch.empty_like(rows)
    for begin, count, size in _blocks(rows.shape[-1]):
        part = rows[..., begin : begin + count].reshape(*rows.shape[:-1], -1, size)
        turned[..., begin : begin + count] = (part @ _hadamard(size, rows)).flatten(-2)
    return turned * signs if inverse else turned


def _blocks(cols: int) -> Iterator[tuple[int, int, int]]:
    """First column, columns and block size of runs of equal blocks."""
    begin, size = 0, ROTATION_BLOCK
    while begin < cols:
        count = (cols - begin) // size * size
        if count:
            yield begin, count, size
        begin, size = begin + count, size // 2


def _hadamard(size: int, like: torch.Tensor) -> torch.Tensor:
    """Orthonormal and symmetric, [size, size]."""
    matrix = like.new_ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix * torch.tensor(float(size), device=matrix.device).rsqrt()


class InputTransform(nn.Module):
    """The transform of one layer's input.

    Scales that are the same for all positions of a convolution's kernel are ``by_channel``, and can be applied before
    rows are unfolded where nothing else is done; a shift cannot, since padding is shifted like the rest.

    Args:
        stored: a quantized weight.
        taps: columns of each input channel.
        inputs: groups of a grouped convolution, which have the same transform.
    """

    scales: torch.Tensor  # [cols], or empty
    shift: torch.Tensor  # [cols], or empty
    signs: torch.Tensor  # [cols] of a rotation, or empty

    def __init__(self, stored: StoredTensor, taps: int, inputs: int = 1) -> None:
        super().__init__()
        cols = stored.matrix_shape[1]
        signs = torch.zeros(0) if stored.rotation_seed is None else rotation_signs(cols, stored.rotation_seed)
        self.taps = taps
        self.register_buffer("scales", torch.from_numpy(stored.column_scales.copy()), persistent=False)
        self.register_buffer("shift", torch.from_numpy(stored.shift.copy()), persistent=False)
        self.register_buffer("signs", signs, persistent=False)
        self._per_channel = self._is_by_channel() and (inputs == 1 or self.scales.numel() == 0)

    def _apply(self, fn: Any, recurse: bool = True) -> InputTransform:
        """Move, but stay in float32."""
        device = fn(torch.zeros(1, device=self.scales.device)).device
        for name in ("scales", "shift", "signs"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _is_by_channel(self) -> bool:
        by_tap = self.scales.reshape(-1, self.taps)
        return bool((by_tap == by_tap[:, :1]).all())

    @property
    def by_channel(self) -> torch.Tensor | None:
        """Scales [channels], where every position of a kernel has the same; None where they differ or there are
        none."""
        return self.scales[:: self.taps] if self.scales.numel() and self._per_channel else None

    @property
    def of_columns(self) -> bool:
        """Whether unfolded rows have to be transformed, not channels."""
        return self.shift.numel() > 0 or self.signs.numel() > 0 or not self._per_channel

    def drop_scales(self) -> None:
        """The module before this layer multiplies by them from now on; a shift is of what it then yields."""
        if self.shift.numel():
            self.shift = self.shift * self.scales
        self.scales = self.scales[:0]
        self._per_channel = True

    def channels(self, x: torch.Tensor) -> torch.Tensor:
        """Input [batch, channels, ...] where nothing is done to single columns."""
        scales = self.by_channel
        return x if scales is None else x * scales.reshape(-1, *[1] * (x.dim() - 2))

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [..., cols]."""
        if self.shift.numel():
            rows = rows - self.shift
        if self.scales.numel():
            rows = rows * self.scales
        return rotate(rows, self.signs) if self.signs.numel() else rows
