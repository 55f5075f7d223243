"""Linear and convolution layers with integer activations: the arithmetic of an integer machine, exact in torch."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.errors import UnsupportedModelError
from arrow_quant_v2.model_file import StoredTensor
from arrow_quant_v2.torch.activations import ActivationTable, BlockRanges, encode_rows
from arrow_quant_v2.torch.input_transform import InputTransform
from arrow_quant_v2.torch.modules import PackedConv, PackedLinear, PackedWeight
from arrow_quant_v2.torch.unfold import TRANSPOSED, input_rows, output_positions, row_blocks, row_width

# Widest product in one accumulator. Codes are at most 255 on both sides and 256 * 255 * 255 = 16,646,400 < 2^24, so
# every partial sum is a whole number that float32 holds exactly, in any order of additions: the float32 product of
# whole-number matrices is the int32 one, bit for bit.
MAX_SEGMENT = 256
# Rows in one step: bounds the memory of products. Fewer stay in the cache, but their calls cost more than that gains.
_ROWS = 4096
# Unfolded values of a convolution in memory at once.
_UNFOLDED = 1 << 24


@dataclasses.dataclass(frozen=True)
class Segment:
    """Columns [begin, end) of a weight matrix with one weight group and one block of activations."""

    begin: int
    end: int
    weight_group: int
    block: int


def make_segments(cols: int, group_size: int, block_cols: int) -> list[Segment]:
    """Cut columns at every weight group, every activation block of ``block_cols`` columns, and MAX_SEGMENT."""
    cuts = {*range(0, cols, group_size), *range(0, cols, block_cols), cols}
    edges = sorted(cuts)
    segments = []
    for begin, end in itertools.pairwise(edges):
        for first in range(begin, end, MAX_SEGMENT):
            last = min(first + MAX_SEGMENT, end)
            segments.append(Segment(first, last, first // group_size, first // block_cols))
    return segments


@dataclasses.dataclass(frozen=True)
class Planes:
    """A weight as whole numbers: value = sum over p of factors[p] * planes[p] + offset per weight group.

    ``planes``: float32 [rows, cols] of whole numbers in 0..255, each with ``factors`` [rows, groups]; ``offset``
    [rows, groups]. An affine grid has one plane, its codes; a residual binary one has two, its sign bits.
    """

    planes: tuple[torch.Tensor, ...]
    factors: tuple[torch.Tensor, ...]
    offset: torch.Tensor

    def rows(self, begin: int, end: int) -> Planes:
        return Planes(
            tuple(p[begin:end] for p in self.planes), tuple(f[begin:end] for f in self.factors), self.offset[begin:end]
        )


def planes_of(weight: PackedWeight) -> Planes:
    codes = weight.unpack()
    scales, zeros = weight.scales.reshape(weight.rows, -1), weight.zero_points.reshape(weight.rows, -1)
    if weight.residual_scales.numel() == 0:
        return Planes((codes,), (scales,), -scales * zeros)
    residual = weight.residual_scales.reshape(weight.rows, -1)
    signs = ((codes >= 2).to(torch.float32), codes % 2)
    return Planes(signs, (2 * scales, 2 * residual), zeros - scales - residual)


def segment_products(
    x: torch.Tensor, plane: torch.Tensor, segments: Sequence[Segment], out: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Exact integer products x[:, s] plane[:, s]^T of each segment, float32 [n, rows] of whole numbers.

    Each is in ``out`` [n, rows], until the next.
    """
    for s in segments:
        yield torch.mm(x[:, s.begin : s.end], plane[:, s.begin : s.end].T, out=out)


def integer_matmul(
    x: torch.Tensor,
    weight: Planes,
    segments: Sequence[Segment],
    block_scales: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x W^T + bias for centred activation codes x [n, cols], whole float32 numbers, and ``block_scales`` [blocks].

    Every product of a segment is accumulated exactly, then scaled in float32 and added up in the order of segments.
    """
    rows = weight.offset.shape[0]
    index = torch.tensor([s.weight_group for s in segments], device=x.device)
    scales = block_scales[torch.tensor([s.block for s in segments], device=x.device)]
    factors = [f[:, index].T * scales[:, None] for f in weight.factors]  # [segments, rows] each
    offset = weight.offset[:, index].T * scales[:, None]
    members = x.new_zeros(x.shape[1], len(segments))
    for i, s in enumerate(segments):
        members[s.begin : s.end, i] = 1
    start = x.new_zeros(rows) if bias is None else bias.to(torch.float32)
    y = x.new_empty(len(x), rows)
    product = x.new_empty(min(_ROWS, len(x)), rows)
    for part, sums in zip(torch.split(x, _ROWS), torch.split(y, _ROWS), strict=True):
        torch.addmm(start, part @ members, offset, out=sums)  # sums of codes are exact as well
        _add_products(part, weight.planes, segments, factors, product[: len(part)], sums)
    return y


def _add_products(
    x: torch.Tensor,
    planes: Sequence[torch.Tensor],
    segments: Sequence[Segment],
    factors: Sequence[torch.Tensor],
    product: torch.Tensor,
    y: torch.Tensor,
) -> None:
    for plane, factor in zip(planes, factors, strict=True):
        for part, scale in zip(segment_products(x, plane, segments, product), factor, strict=True):
            y.addcmul_(part, scale)


class _IntegerWeight:
    """What both kinds of layers need of a packed weight and its table; a mixin of nn.Module."""

    packed: PackedWeight
    bias: Any
    table: ActivationTable | None
    input_is_scaled = False  # whether the module before it multiplies by the column scales

    def _prepare(self, stored: StoredTensor, bits: int, channels: int, inputs: int, keep_planes: bool) -> None:
        self.bits = bits
        self.inputs = inputs
        self.taps = self.packed.cols // channels
        self.transform = InputTransform(stored, self.taps, inputs)
        self.table = ActivationTable(stored, bits, channels, inputs) if stored.time_scales.size else None
        self._keep_planes = keep_planes
        self._planes: Planes | None = None
        self._offset: torch.Tensor | None = None
        self._segments: dict[int, list[Segment]] = {}

    def planes(self) -> Planes:
        if self._planes is None or self._planes.offset.device != self.packed.codes.device:
            planes = planes_of(self.packed)
            if not self._keep_planes:
                return planes
            self._planes = planes
        return self._planes

    def forget_planes(self) -> None:
        """To be called when the weight's grid has changed."""
        self._planes = self._offset = None

    def segments(self, block_size: int) -> list[Segment]:
        """Cuts for blocks of that many channels."""
        if block_size not in self._segments:
            self._segments[block_size] = make_segments(self.packed.cols, self.packed.group_size, block_size * self.taps)
        return self._segments[block_size]

    def offset(self) -> torch.Tensor | None:
        """What a shift takes from the outputs, W shift [rows], with the weight as it is stored; None without one."""
        shift = self.transform.shift
        if shift.numel() == 0:
            return None
        if self._offset is None or self._offset.device != shift.device:
            matrix = self.packed.expand_by_kernel() if shift.device.type == "cpu" else self.packed.expand_by_torch()
            self._offset = matrix @ shift
        return self._offset

    def constant(self) -> torch.Tensor | None:
        """What is added to the product of codes, [outputs]: the layer's bias and what a shift takes, or None."""
        bias: torch.Tensor | None = self.bias
        offset = self.offset()
        if offset is None:
            return bias
        if bias is None:
            return offset
        # A grouped transposed convolution has the rows of its weight for each group.
        return bias.to(torch.float32) + offset.repeat(len(bias) // len(offset))

    def take_scaled_input(self) -> None:
        """Leave the multiplication by column scales to the module before. ``weight`` is then what multiplies the input
        that arrives; the scales are in ``folded_scales``."""
        self.input_is_scaled = True
        self.folded_scales = self.packed.column_scales
        self.packed.column_scales = self.packed.column_scales.new_zeros(0)
        self.transform.drop_scales()
        self._offset = None

    def dynamic(self, rows: torch.Tensor, planes: Planes) -> torch.Tensor:
        """Rows in floating point by a range of each row."""
        codes, scales = encode_rows(self.transform.rows(rows), self.bits)
        one = torch.ones(1, device=rows.device)
        return integer_matmul(codes, planes, self.segments(self.packed.cols), one) * scales


class IntegerLinear(_IntegerWeight, PackedLinear):
    """y = x W^T + b with a packed W and x in integer codes."""

    def __init__(self, source: nn.Module, weight: PackedWeight, stored: StoredTensor, bits: int, keep: bool) -> None:
        PackedLinear.__init__(self, source, weight)
        self._prepare(stored, bits, self.in_features, 1, keep)

    @torch.no_grad()  # rounding has no gradient to give
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0] if x.dim() > 1 else 1
        rows = x.reshape(batch, -1, self.in_features)
        planes = self.planes()
        if self.table is None:
            y = self.dynamic(rows.flatten(0, 1), planes)
            constant = self.constant()
            y = y if constant is None else y + constant
        else:
            y = _by_group(self.table, rows, lambda part, group: self._static(part, group, planes))
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def _static(self, rows: torch.Tensor, group: int, planes: Planes) -> torch.Tensor:
        assert self.table is not None
        ranges = self.table.ranges(group)
        codes = self.table.encode(self.transform.rows(rows), ranges, -1).flatten(0, 1)
        y = integer_matmul(codes, planes, self.segments(ranges.block_size), ranges.scales, self.constant())
        return y.reshape(*rows.shape[:-1], self.out_features)


class IntegerConv(_IntegerWeight, PackedConv):
    """A convolution of any rank, transposed or not, of integer codes: rows are unfolded, and zeros around the input
    are the code of 0."""

    def __init__(self, source: nn.Module, weight: PackedWeight, stored: StoredTensor, bits: int, keep: bool) -> None:
        PackedConv.__init__(self, source, weight)
        inputs = row_blocks(source)
        taps = 1
        for size in self._module.kernel_size:
            taps *= int(size)
        self._prepare(stored, bits, row_width(source) // taps, inputs, keep)

    @property
    def _module(self) -> Any:
        return self.__dict__["_source"]

    @torch.no_grad()  # rounding has no gradient to give
    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if output_size is not None:
            raise UnsupportedModelError("output_size of a transposed convolution is not supported with activations.")
        batched = x if x.dim() == len(self._module.kernel_size) + 2 else x[None]
        planes = self.planes()
        if self.table is None:
            y = self._in_parts(batched, lambda part: self._dynamic(part, planes))
        else:
            y = _by_group(
                self.table, batched, lambda part, group: self._in_parts(part, lambda p: self._static(p, group, planes))
            )
        constant = self.constant()
        if constant is not None:
            y = y + constant.reshape(-1, *[1] * (y.dim() - 2))
        return (y if batched is x else y[0]).to(x.dtype)

    def _in_parts(self, x: torch.Tensor, body: Any) -> torch.Tensor:
        positions = 1
        for size in output_positions(self._module, x.shape[2:]):
            positions *= size
        samples = max(1, _UNFOLDED // max(1, positions * self.packed.cols * self.inputs))
        return torch.cat([body(part) for part in torch.split(x, samples)])

    def _static(self, x: torch.Tensor, group: int, planes: Planes) -> torch.Tensor:
        assert self.table is not None
        ranges = [self.table.ranges(group, i) for i in range(self.inputs)]
        if self.transform.of_columns:
            return self._static_by_column(x, planes, ranges)
        parts = zip(self.transform.channels(x).chunk(self.inputs, 1), ranges, strict=True)
        codes = torch.cat([self.table.encode(part, r, 1) for part, r in parts], 1)
        segments = self.segments(ranges[0].block_size)
        return self._join(
            x, planes, codes, lambda rows, part, i: integer_matmul(rows, part, segments, ranges[i].scales)
        )

    def _static_by_column(self, x: torch.Tensor, planes: Planes, ranges: Sequence[BlockRanges]) -> torch.Tensor:
        """Where the columns of a row are transformed apart, rows become codes after they are unfolded."""
        table, segments = self.table, self.segments(ranges[0].block_size)
        assert table is not None

        def multiply(rows: torch.Tensor, part: Planes, i: int) -> torch.Tensor:
            columns = dataclasses.replace(ranges[i], block_size=ranges[i].block_size * self.taps)
            return integer_matmul(table.encode(self.transform.rows(rows), columns, 1), part, segments, ranges[i].scales)

        return self._join(x, planes, x.to(torch.float32), multiply)

    def _dynamic(self, x: torch.Tensor, planes: Planes) -> torch.Tensor:
        return self._join(x, planes, x.to(torch.float32), lambda rows, part, i: self.dynamic(rows, part))

    def _join(self, x: torch.Tensor, planes: Planes, values: torch.Tensor, multiply: Any) -> torch.Tensor:
        """Unfold, multiply the rows of each input by its part of the weight, and put the outputs in their places."""
        count = self.packed.rows // self.inputs
        outputs = [
            multiply(rows, planes.rows(i * count, (i + 1) * count), i)
            for i, rows in enumerate(input_rows(self._module, values, sys.maxsize))
        ]
        positions = output_positions(self._module, x.shape[2:])
        # A grouped transposed convolution has a row for each position and group.
        groups = self._module.groups if isinstance(self._module, TRANSPOSED) else 1
        y = torch.cat(outputs, 1).reshape(len(x), *positions, self.packed.rows * groups)
        return y.movedim(-1, 1)


def _by_group(table: ActivationTable, x: torch.Tensor, body: Any) -> torch.Tensor:
    """``body(part of the batch, time group)`` for each time group in the batch, put back together."""
    groups = table.groups_of(len(x))
    if len(groups) == 1 and groups[0][1] is None:
        result: torch.Tensor = body(x, groups[0][0])
        return result
    whole: torch.Tensor | None = None
    for group, samples in groups:
        assert samples is not None
        samples = samples.to(x.device)
        part = body(x[samples], group)
        if whole is None:
            whole = part.new_empty(len(x), *part.shape[1:])
        whole[samples] = part
    assert whole is not None
    return whole


def make_integer(source: nn.Module, weight: PackedWeight, stored: StoredTensor, bits: int, keep: bool) -> nn.Module:
    """The counterpart of a linear or convolution module with integer activations.

    ``keep``: hold the weight's codes as whole float32 numbers instead of unpacking them in each call.
    """
    kind = IntegerLinear if isinstance(source, nn.Linear) else IntegerConv
    return kind(source, weight, stored, bits, keep)
