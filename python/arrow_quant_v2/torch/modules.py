"""Linear and convolution layers whose weights stay packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from arrow_quant_v2._native import core
from arrow_quant_v2.model_file import StoredTensor
from arrow_quant_v2.torch.input_transform import rotate, rotation_signs


class PackedWeight(nn.Module):
    """A quantized weight: packed codes and grids as buffers, values on call.

    On the CPU the C++ kernels expand it; on another device torch operations do, with the same result up to the
    rounding of one multiplication.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    residual_scales: torch.Tensor  # of a residual binary grid, else empty
    column_scales: torch.Tensor  # [cols], or empty

    def __init__(self, stored: StoredTensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.bits = stored.bits
        self.group_size = stored.group_size
        self.shape = stored.shape
        self.quant_axis = stored.quant_axis
        self.rows, self.cols = stored.matrix_shape
        self.rotation_seed = stored.rotation_seed
        self.dtype = dtype
        self.register_buffer("codes", torch.from_numpy(stored.data.copy()))
        self.register_buffer("scales", torch.from_numpy(stored.scales.copy()))
        self.register_buffer("zero_points", torch.from_numpy(stored.zero_points.copy()))
        self.register_buffer("residual_scales", torch.from_numpy(stored.residual_scales.copy()))
        self.register_buffer("column_scales", torch.from_numpy(stored.column_scales.copy()))

    def _apply(self, fn: Any, recurse: bool = True) -> PackedWeight:
        """Move, but keep grids in float32: `.to(float16)` changes the type of the expanded weight only."""
        probe = fn(torch.zeros(1, dtype=self.dtype, device=self.codes.device))
        self.dtype = probe.dtype
        for name in ("codes", "scales", "zero_points", "residual_scales", "column_scales"):
            setattr(self, name, getattr(self, name).to(probe.device))
        return self

    def forward(self) -> torch.Tensor:
        matrix = self.expand_by_kernel() if self.codes.device.type == "cpu" else self.expand_by_torch()
        moved = [self.shape[self.quant_axis], *(d for i, d in enumerate(self.shape) if i != self.quant_axis)]
        return matrix.reshape(moved).movedim(0, self.quant_axis).to(self.dtype)

    def expand_by_kernel(self) -> torch.Tensor:
        """float32 [rows, cols] by the C++ core."""
        values: np.ndarray[Any, np.dtype[np.float32]] = core.dequantize_array(
            self.codes.numpy(),
            self.rows,
            self.cols,
            self.bits,
            self.group_size,
            self.scales.numpy(),
            self.zero_points.numpy(),
            self.residual_scales.numpy(),
            self.column_scales.numpy(),
            self.rotation_seed,
        )
        return torch.from_numpy(values)

    def expand_by_torch(self) -> torch.Tensor:
        """float32 [rows, cols] by torch operations, on any device."""
        codes = self.unpack()
        scales, zeros = self._by_column(self.scales), self._by_column(self.zero_points)
        if self.residual_scales.numel() == 0:
            values = scales * (codes - zeros)
        else:
            first, second = (codes >= 2).to(torch.float32), codes % 2
            values = zeros + scales * (2 * first - 1) + self._by_column(self.residual_scales) * (2 * second - 1)
        if self.rotation_seed is not None:
            values = rotate(values, rotation_signs(self.cols, self.rotation_seed).to(values.device), inverse=True)
        return values * self.column_scales if self.column_scales.numel() else values

    def unpack(self) -> torch.Tensor:
        """Codes as float32 [rows, cols]."""
        count = self.rows * self.cols
        if self.codes.device.type == "cpu":
            codes = torch.from_numpy(core.unpack(self.codes.numpy(), count, self.bits))
            return codes.reshape(self.rows, self.cols).to(torch.float32)
        shifts = torch.arange(8, device=self.codes.device, dtype=torch.uint8)
        bits = (self.codes[:, None] >> shifts) & 1
        bits = bits.flatten()[: count * self.bits].reshape(count, self.bits).to(torch.float32)
        codes = bits @ (2.0 ** torch.arange(self.bits, device=bits.device, dtype=torch.float32))
        return codes.reshape(self.rows, self.cols)

    def _by_column(self, grid: torch.Tensor) -> torch.Tensor:
        """A grid parameter [rows * groups] as [rows, cols]."""
        group = torch.arange(self.cols, device=grid.device) // self.group_size
        return grid.reshape(self.rows, -(-self.cols // self.group_size))[:, group]


class PackedLinear(nn.Module):
    """y = x W^T + b with a packed W."""

    def __init__(self, source: nn.Module, weight: PackedWeight) -> None:
        super().__init__()
        assert isinstance(source, nn.Linear)
        self.in_features = source.in_features
        self.out_features = source.out_features
        self.packed = weight
        self.bias = source.bias

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.packed()
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedConv(nn.Module):
    """A convolution of any rank, transposed or not, that hands its expanded weight to the source's own module."""

    def __init__(self, source: nn.Module, weight: PackedWeight) -> None:
        super().__init__()
        self.packed = weight
        self.bias = source.bias
        # The source keeps padding, stride and groups; its weight becomes a placeholder without memory.
        source.register_parameter("weight", None)
        source.register_parameter("bias", None)
        object.__setattr__(self, "_source", source)

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.packed()
        return weight

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        source: Any = self.__dict__["_source"]
        parameters: dict[str, Any] = {"weight": self.weight, "bias": self.bias}
        arguments = (x,) if output_size is None else (x, output_size)
        result: torch.Tensor = torch.func.functional_call(source, parameters, arguments)
        return result


PACKED_MODULES: dict[type, type] = {
    nn.Linear: PackedLinear,
    nn.Conv1d: PackedConv,
    nn.Conv2d: PackedConv,
    nn.Conv3d: PackedConv,
    nn.ConvTranspose1d: PackedConv,
    nn.ConvTranspose2d: PackedConv,
    nn.ConvTranspose3d: PackedConv,
}


def make_packed(source: nn.Module, weight: PackedWeight) -> nn.Module:
    """The packed counterpart of a linear or convolution module."""
    module: nn.Module = PACKED_MODULES[type(source)](source, weight)
    return module
