"""Tensors of a source model, resolved by the core and read through a memory map."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core


@dataclasses.dataclass(frozen=True)
class SourceTensor:
    """Bytes of one tensor, with its torch dtype name and shape.

    ``scales``: of an 8-bit float weight, broadcast to its shape; None for all others. ``kept_dtype``: the type in which
    a quantized model keeps it where that is not ``dtype``.
    """

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32] | None = None
    kept_dtype: str | None = None

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Values of a floating-point tensor in its own shape. Raises ConfigurationError for other types."""
        values: npt.NDArray[np.float32] = core.to_float32(np.asarray(self.data), self.dtype).reshape(self.shape)
        return values if self.scales is None else values * self.scales

    def kept_bytes(self) -> bytes:
        """Bytes that a quantized model has of this tensor when it keeps it."""
        if self.kept_dtype is None:
            return self.data.tobytes()
        return bytes(core.from_float32(self.to_float32(), self.kept_dtype))


class SafetensorsSource:
    """The checkpoint files of a model as the quantizer resolves them."""

    def __init__(self, path: pathlib.Path) -> None:
        plan: list[dict[str, Any]] = json.loads(core.source_tensors(str(path)))
        self._tensors = {(t["component"], t["name"]): t for t in plan}
        self._maps: dict[str, npt.NDArray[np.uint8]] = {}

    def names(self) -> set[tuple[str, str]]:
        """(component, name) of every tensor, without scales that belong to another."""
        return {key for key, t in self._tensors.items() if not t["merged"]}

    @property
    def total_bytes(self) -> int:
        return sum(int(t["num_bytes"]) for t in self._tensors.values())

    def read(self, key: tuple[str, str]) -> SourceTensor:
        """One tensor; its bytes are a view into the mapped file."""
        t = self._tensors[key]
        shape = tuple(t["shape"])
        if "scale" not in t:
            return SourceTensor(t["dtype"], shape, self._bytes(t))
        return SourceTensor(t["dtype"], shape, self._bytes(t), self._scales(t["scale"], shape), "bfloat16")

    def _bytes(self, place: dict[str, Any]) -> npt.NDArray[np.uint8]:
        file = place["file"]
        if file not in self._maps:
            self._maps[file] = np.memmap(file, np.uint8, "r")
        return self._maps[file][place["offset"] : place["offset"] + place["num_bytes"]]

    def _scales(self, place: dict[str, Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        scales: npt.NDArray[np.float32] = core.to_float32(np.asarray(self._bytes(place)), place["dtype"])
        if scales.size == 1:
            return np.broadcast_to(scales.reshape(()), shape)
        rows, columns = (
            np.arange(n) // place[block] for n, block in zip(shape, ("row_block", "column_block"), strict=True)
        )
        return scales.reshape(rows[-1] + 1, columns[-1] + 1)[np.ix_(rows, columns)]
