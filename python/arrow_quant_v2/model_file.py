"""Read quantized models: Parquet V2 Extended with packed codes, and the older layouts."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import CorruptFileError, ModelNotFoundError

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

OUR_LAYOUT = "arrow_quant"

_log = logging.getLogger("arrow_quant_v2")


def _no_floats() -> FloatArray:
    return np.zeros(0, np.float32)


def _no_bytes() -> ByteArray:
    return np.zeros(0, np.uint8)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a quantized model.

    Quantized: ``data`` are codes packed LSB-first over the matrix [rows, cols] (``quant_axis`` moved to the front,
    the first ``row_rank`` axes are rows), value = scale * (code - zero_point), one scale and zero point per row and
    ``group_size`` columns. Grid "residual_binary" has 2 bits: value = zero_point +- scale +- residual_scale, plus where
    bit 1 and bit 0 of the code are set; ``residual_scales`` is empty for "affine". Where there is a ``rotation_seed``
    rows are then turned back, and where ``column_scales`` [cols] is not empty, values are multiplied by their column's.
    Kept: ``data`` are raw little-endian values of ``dtype``
    and ``bits`` is 0. A quantized tensor of an older ``layout`` has its values in ``expanded`` instead.

    ``time_scales`` and ``time_zero_points`` are static ranges of the layer's input in 8-bit codes, in the order (time
    group, input of a grouped convolution, block of ``time_block_sizes[group]`` input channels); group i holds times in
    [time_boundaries[i], time_boundaries[i + 1]). All are empty where the model was quantized without activations. They
    are for the input x as the codes of the weight see it, rotated column_scales * (x - ``shift``), shift [cols] or
    empty. ``equalization_producer`` names the module that yields x and can take the scales.

    ``time_gamma`` (or empty: ones) and ``time_beta`` correct the outputs of the quantized weight, y = gamma * (Q x) +
    beta, in the order (time group, output channel), with time groups by ``correction_boundaries``; empty: none.
    """

    name: str
    component: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    group_size: int
    grid: str
    quant_axis: int
    row_rank: int
    method: str
    reason: str
    layout: str
    stored_bytes: int
    modality: str | None = None
    data: ByteArray = dataclasses.field(default_factory=_no_bytes, repr=False)
    scales: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    zero_points: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    residual_scales: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    column_scales: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    rotation_seed: int | None = None
    shift: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    equalization_producer: str | None = None
    time_boundaries: tuple[float, ...] = ()
    time_block_sizes: tuple[int, ...] = ()
    time_scales: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    time_zero_points: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    correction_boundaries: tuple[float, ...] = ()
    time_gamma: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    time_beta: FloatArray = dataclasses.field(default_factory=_no_floats, repr=False)
    expanded: FloatArray | None = dataclasses.field(default=None, repr=False)

    @property
    def quantized(self) -> bool:
        return self.bits > 0

    @property
    def packed(self) -> bool:
        """Whether ``data``, ``scales`` and ``zero_points`` hold the weights."""
        return self.quantized and self.expanded is None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix view."""
        moved = [self.shape[self.quant_axis], *(d for i, d in enumerate(self.shape) if i != self.quant_axis)]
        return math.prod(moved[: self.row_rank]), math.prod(moved[self.row_rank :])

    def dequantize(self) -> FloatArray:
        """Values of a quantized tensor, float32, in the tensor's own shape."""
        if self.expanded is not None:
            return self.expanded.reshape(self.shape)
        rows, cols = self.matrix_shape
        matrix: FloatArray = core.dequantize_array(
            self.data,
            rows,
            cols,
            self.bits,
            self.group_size,
            self.scales,
            self.zero_points,
            self.residual_scales,
            self.column_scales,
            self.rotation_seed,
        )
        if self.quant_axis == 0:
            return matrix.reshape(self.shape)
        moved = [self.shape[self.quant_axis], *(d for i, d in enumerate(self.shape) if i != self.quant_axis)]
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), 0, self.quant_axis))


class QuantizedModel:
    """The tensors of a directory of Parquet files, in our layout or an older one, read one at a time.

    Iterating loads each tensor; ``entries`` describes them without reading values.

    Args:
        path: a directory (components of a pipeline in subdirectories) or one Parquet file.
        msb_first: for 2-bit files of tools that put the first code into the high bits of a byte.

    Raises:
        ModelNotFoundError: nothing is at ``path``, or no Parquet file.
        CorruptFileError: a file is damaged, or another than the manifest says.
        ShapeMismatchError: of a tensor, between its columns.
        UnsupportedModelError: a newer format version, or an unknown packing or grid.
    """

    def __init__(self, path: str | os.PathLike[str], *, msb_first: bool = False) -> None:
        self.path = pathlib.Path(path)
        self._msb_first = msb_first
        if not self.path.exists():
            raise ModelNotFoundError(f"{path}: no such directory", code="model_not_found", file=str(path))
        folders = [self.path] if self.path.is_file() else _folders_with_parquet(self.path)
        if not folders:
            raise ModelNotFoundError(
                f"{path}: no Parquet files. Give a directory that arrow-quant quantize wrote.",
                code="model_not_found",
                file=str(path),
            )
        if (self.path / "manifest.json").is_file():
            problems = core.verify_manifest(str(self.path), False)
            if problems:
                raise CorruptFileError(f"{path}: {problems[0]} Copy the model again.", file=str(path))
        self._models = [core.ParquetModel.open(str(folder)) for folder in folders]
        self._entries: list[tuple[Any, int, dict[str, Any]]] = [
            (model, index, entry) for model in self._models for index, entry in enumerate(_listing(model))
        ]

    @property
    def entries(self) -> list[StoredTensor]:
        """Every tensor without its values."""
        return [_stored(entry) for _, _, entry in self._entries]

    @property
    def files(self) -> list[pathlib.Path]:
        """The Parquet files that hold tensors."""
        return sorted({pathlib.Path(entry["file"]) for _, _, entry in self._entries})

    @property
    def parquet_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def file_of(self, index: int) -> pathlib.Path:
        """The file of the tensor at a place in ``entries``."""
        return pathlib.Path(self._entries[index][2]["file"])

    def load(self, index: int) -> StoredTensor:
        """One tensor with its values, by its place in ``entries``."""
        model, at, entry = self._entries[index]
        if entry["layout"] == OUR_LAYOUT:
            values = model.load(at)
            return dataclasses.replace(_stored(entry), **values)
        return self._load_legacy(model, at, entry)

    def _load_legacy(self, model: Any, at: int, entry: dict[str, Any]) -> StoredTensor:
        values = model.load_legacy(at, self._msb_first)
        for warning in values["warnings"]:
            _log.warning("%s: %s", entry["name"], warning)
        stored = _stored(entry)
        if "weights" in values:
            return dataclasses.replace(stored, expanded=values["weights"])
        return dataclasses.replace(stored, bits=0, dtype=values["dtype"], data=values["data"])

    def __iter__(self) -> Iterator[StoredTensor]:
        for index in range(len(self._entries)):
            yield self.load(index)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object. Raises CorruptFileError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path}: cannot be read as JSON: {error}", file=str(path)) from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{path}: is not a JSON object", file=str(path))
    return value


def _folders_with_parquet(path: pathlib.Path) -> list[pathlib.Path]:
    """The directory and those of its components that hold Parquet files."""
    folders = [path, *sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))]
    return [f for f in folders if any(not p.name.startswith(".") for p in f.glob("*.parquet"))]


def _listing(model: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(model.tensors_json())
    return entries


def _stored(entry: dict[str, Any]) -> StoredTensor:
    return StoredTensor(
        name=entry["name"],
        component=entry["component"],
        shape=tuple(entry["shape"]),
        dtype=entry["dtype"].removeprefix("torch."),
        bits=entry["bits"],
        group_size=entry["group_size"] or 0,
        grid=entry["grid"],
        quant_axis=entry["quant_axis"] or 0,
        row_rank=entry["row_rank"],
        method=entry["method"],
        reason=entry["reason"],
        layout=entry["layout"],
        stored_bytes=entry["stored_bytes"],
        modality=entry["modality"],
    )
