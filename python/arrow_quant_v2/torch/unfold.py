"""Inputs of linear and convolution modules as the rows that their weight matrix multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MEASURED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)


def row_width(module: nn.Module) -> int:
    """Columns of the module's weight matrix: the values that one output value is made from, per group."""
    if isinstance(module, nn.Linear):
        return module.in_features
    assert isinstance(module, (*CONVOLUTIONS, *TRANSPOSED))
    kernel = 1
    for size in module.kernel_size:
        kernel *= int(size)
    # A grouped transposed convolution has all input channels in each row, those of other groups as zeros.
    channels = module.in_channels if isinstance(module, TRANSPOSED) else module.in_channels // module.groups
    return channels * kernel


def row_blocks(module: nn.Module) -> int:
    """Inputs that different output channels read: the groups of a grouped convolution."""
    return int(module.groups) if isinstance(module, CONVOLUTIONS) else 1


def output_positions(module: Any, space: Sequence[int]) -> list[int]:
    """Sizes of a convolution's output for an input of the sizes ``space``."""
    dims = len(module.kernel_size)
    transposed = isinstance(module, TRANSPOSED)
    if transposed:
        return [
            (space[d] - 1) * module.stride[d]
            - 2 * module.padding[d]
            + module.dilation[d] * (module.kernel_size[d] - 1)
            + module.output_padding[d]
            + 1
            for d in range(dims)
        ]
    padding = module._reversed_padding_repeated_twice  # (before, after) of the last dimension first
    padded = [space[d] + sum(padding[2 * (dims - 1 - d) : 2 * (dims - d)]) for d in range(dims)]
    return [
        (padded[d] - module.dilation[d] * (module.kernel_size[d] - 1) - 1) // module.stride[d] + 1 for d in range(dims)
    ]


def input_rows(module: nn.Module, x: torch.Tensor, max_values: int) -> list[torch.Tensor]:
    """The rows of one sample or batch, [rows, row_width], one tensor per row block.

    A convolution has a row for every output position; where they hold more than ``max_values`` values together, every
    k-th position is taken.
    """
    if isinstance(module, nn.Linear):
        rows = x.reshape(-1, module.in_features)
        return [_thin(rows, max_values)]
    if isinstance(module, TRANSPOSED):
        return [_transposed_rows(module, x, max_values)]
    assert isinstance(module, CONVOLUTIONS)
    return _convolution_rows(module, x, max_values)


def _thin(rows: torch.Tensor, max_values: int) -> torch.Tensor:
    step = -(-rows.numel() // max_values)
    return rows[::step] if step > 1 else rows


def _windows(x: torch.Tensor, kernel: Any, stride: Any, dilation: Any) -> torch.Tensor:
    """[batch, channels, *space] -> a view [batch, channels, *positions, *kernel]."""
    for d, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + d, gap * (size - 1) + 1, step)
        x = x[..., ::gap]
    return x


def _gather(windows: torch.Tensor, dims: int, max_values: int) -> torch.Tensor:
    """A view [batch, channels, *positions, *kernel] -> [rows, channels, kernel], thinned before it is copied."""
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    windows = windows.permute(order)
    width = windows[(0,) * (1 + dims)].numel()
    positions = windows.shape[: 1 + dims]
    count = positions.numel()
    step = max(1, -(-count * width // max_values))
    index = torch.arange(0, count, step, device=windows.device)
    at = torch.unravel_index(index, positions)
    rows = windows[at]
    return rows.reshape(len(index), rows.shape[1], -1)


def _convolution_rows(module: Any, x: torch.Tensor, max_values: int) -> list[torch.Tensor]:
    dims = len(module.kernel_size)
    if x.dim() == dims + 1:
        x = x[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padding = module._reversed_padding_repeated_twice
    if any(padding):
        x = F.pad(x, padding, mode=mode)
    rows = _gather(_windows(x, module.kernel_size, module.stride, module.dilation), dims, max_values)
    return [block.reshape(len(block), -1) for block in rows.chunk(module.groups, dim=1)]


def _transposed_rows(module: Any, x: torch.Tensor, max_values: int) -> torch.Tensor:
    """A transposed convolution is a convolution of its input with zeros between, by the flipped kernel."""
    dims = len(module.kernel_size)
    if x.dim() == dims + 1:
        x = x[None]
    for d in range(dims):
        x = _insert_zeros(x, 2 + d, module.stride[d])
    padding = []
    for d in reversed(range(dims)):
        edge = module.dilation[d] * (module.kernel_size[d] - 1) - module.padding[d]
        padding += [edge, edge + module.output_padding[d]]
    x = F.pad(x, padding)
    windows = _windows(x, module.kernel_size, (1,) * dims, module.dilation)
    rows = _gather(windows.flip(tuple(range(-dims, 0))), dims, max_values)
    if module.groups == 1:
        return rows.reshape(len(rows), -1)
    blocks = rows.reshape(len(rows), module.groups, -1)
    apart = torch.zeros(len(rows), module.groups, *blocks.shape[1:], dtype=rows.dtype, device=rows.device)
    index = torch.arange(module.groups)
    apart[:, index, index] = blocks
    return apart.reshape(len(rows) * module.groups, -1)


def _insert_zeros(x: torch.Tensor, dim: int, stride: int) -> torch.Tensor:
    if stride == 1 or x.shape[dim] == 0:
        return x
    shape = list(x.shape)
    shape[dim] = (shape[dim] - 1) * stride + 1
    spread = x.new_zeros(shape)
    spread[(slice(None),) * dim + (slice(None, None, stride),)] = x
    return spread
