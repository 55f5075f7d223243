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
    """Bytes of one tensor, with its torch dtype name and shape."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    def to_float32(self) -> npt.NDArray[np.float32]:
        """Values of a floating-point tensor in its own shape. Raises ConfigurationError for other types."""
        values: npt.NDArray[np.float32] = core.to_float32(np.asarray(self.data), self.dtype)
        return values.reshape(self.shape)


class SafetensorsSource:
    """The checkpoint files of a model as the quantizer resolves them."""

    def __init__(self, path: pathlib.Path) -> None:
        plan: list[dict[str, Any]] = json.loads(core.source_tensors(str(path)))
        self._tensors = {(t["component"], t["name"]): t for t in plan}
        self._maps: dict[str, npt.NDArray[np.uint8]] = {}

    def names(self) -> set[tuple[str, str]]:
        """(component, name) of every tensor."""
        return set(self._tensors)

    @property
    def total_bytes(self) -> int:
        return sum(int(t["num_bytes"]) for t in self._tensors.values())

    def read(self, key: tuple[str, str]) -> SourceTensor:
        """One tensor; its bytes are a view into the mapped file."""
        t = self._tensors[key]
        file = t["file"]
        if file not in self._maps:
            self._maps[file] = np.memmap(file, np.uint8, "r")
        data = self._maps[file][t["offset"] : t["offset"] + t["num_bytes"]]
        return SourceTensor(t["dtype"], tuple(t["shape"]), data)
