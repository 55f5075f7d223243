"""Read quantized models: Parquet V2 Extended with packed codes."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import CorruptFileError, ModelNotFoundError, ShapeMismatchError, UnsupportedModelError

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

# Element types of kept tensors by torch name; bfloat16 and float8 have no numpy type and stay bytes.
ELEMENT_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a quantized model.

    Quantized: ``data`` are codes packed LSB-first over the matrix [rows, cols] (``quant_axis`` moved to the front,
    the first ``row_rank`` axes are rows), value = scale * (code - zero_point), one scale and zero point per row and
    ``group_size`` columns. Kept: ``data`` are the source's bytes and ``bits`` is 0.
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
    data: ByteArray
    scales: FloatArray
    zero_points: FloatArray

    @property
    def quantized(self) -> bool:
        return self.bits > 0

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix view."""
        moved = [self.shape[self.quant_axis], *(d for i, d in enumerate(self.shape) if i != self.quant_axis)]
        return math.prod(moved[: self.row_rank]), math.prod(moved[self.row_rank :])

    def dequantize(self) -> FloatArray:
        """Values of a quantized tensor, float32, in the tensor's own shape."""
        rows, cols = self.matrix_shape
        matrix: FloatArray = core.dequantize_array(
            self.data, rows, cols, self.bits, self.group_size, self.scales, self.zero_points
        )
        if self.quant_axis == 0:
            return matrix.reshape(self.shape)
        moved = [self.shape[self.quant_axis], *(d for i, d in enumerate(self.shape) if i != self.quant_axis)]
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), 0, self.quant_axis))


class QuantizedModel:
    """The tensors of a directory of Parquet V2 Extended files, read one at a time.

    Raises ModelNotFoundError, CorruptFileError, ShapeMismatchError, UnsupportedModelError.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)
        if not self.path.is_dir():
            raise ModelNotFoundError(f"{path}: no such directory", code="model_not_found", file=str(path))
        self.files = sorted(p for p in self.path.rglob("*.parquet") if not p.name.startswith("."))
        if not self.files:
            raise ModelNotFoundError(
                f"{path}: no Parquet files. Give a directory that arrow-quant quantize wrote.",
                code="model_not_found",
                file=str(path),
            )
        self._check_manifest()

    def _check_manifest(self) -> None:
        """A directory whose files are fewer or other than the manifest lists is incomplete."""
        manifest = self.path / "manifest.json"
        if not manifest.exists():
            return
        for entry in read_json(manifest).get("files", []):
            file = self.path / entry["path"]
            if not file.exists() or file.stat().st_size != entry["bytes"]:
                raise CorruptFileError(
                    f"{file}: is missing or has another size than manifest.json says. Copy the model again.",
                    code="corrupt_file",
                    file=str(file),
                )

    def __iter__(self) -> Iterator[StoredTensor]:
        for file in self.files:
            yield from _read_file(file)

    @property
    def parquet_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object. Raises CorruptFileError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"{path}: cannot be read as JSON: {error}", file=str(path)) from error
    if not isinstance(value, dict):
        raise CorruptFileError(f"{path}: is not a JSON object", file=str(path))
    return value


def _read_file(file: pathlib.Path) -> Iterator[StoredTensor]:
    try:
        parquet = pq.ParquetFile(file)
        names = set(parquet.schema_arrow.names)
        if not {"layer_name", "data", "bits", "packing", "grid"} <= names:
            raise UnsupportedModelError(
                f"{file}: is not a file that this program wrote: columns bits, packing and grid are missing.",
                code="unsupported",
                file=str(file),
            )
        parts: list[dict[str, Any]] = []
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, use_threads=False)
            for row in range(table.num_rows):
                parts.append(_row(table, row))
                if _is_complete(parts):
                    yield _join(file, parts)
                    parts = []
        if parts:
            raise CorruptFileError(f"{file}: tensor '{parts[0]['layer_name']}': parts are missing", file=str(file))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (CorruptFileError, UnsupportedModelError, ShapeMismatchError)):
            raise
        raise CorruptFileError(f"{file}: cannot be read as Parquet: {error}", file=str(file)) from error


def _floats(column: pa.ChunkedArray, row: int) -> FloatArray:
    scalar = column[row]
    if not scalar.is_valid:
        return np.zeros(0, np.float32)
    return np.asarray(scalar.values.to_numpy(zero_copy_only=False), np.float32)


def _row(table: pa.Table, row: int) -> dict[str, Any]:
    plain = ("layer_name", "component", "shape", "dtype", "bits", "group_size", "grid", "quant_axis", "row_rank")
    values = {name: table[name][row].as_py() for name in (*plain, "method", "reason", "row_begin", "row_count")}
    buffer = table["data"][row].as_buffer()
    values["data"] = np.frombuffer(buffer, np.uint8) if buffer is not None and buffer.size else np.zeros(0, np.uint8)
    values["scales"] = _floats(table["scales"], row)
    values["zero_points"] = _floats(table["zero_points"], row)
    return values


def _rows_of(part: dict[str, Any]) -> int:
    shape = part["shape"]
    axis = part["quant_axis"] or 0
    if not shape:
        return 1
    moved = [shape[axis], *(d for i, d in enumerate(shape) if i != axis)]
    return math.prod(moved[: part["row_rank"]]) if part["bits"] else int(shape[0])


def _is_complete(parts: list[dict[str, Any]]) -> bool:
    last = parts[-1]
    whole: bool = last["row_begin"] == 0 and last["row_count"] == 0
    return whole or bool(last["row_begin"] + last["row_count"] >= _rows_of(last))


def _join(file: pathlib.Path, parts: list[dict[str, Any]]) -> StoredTensor:
    first = parts[0]

    def joined(key: str) -> Any:
        return first[key] if len(parts) == 1 else np.concatenate([part[key] for part in parts])

    tensor = StoredTensor(
        name=first["layer_name"],
        component=first["component"] or "",
        shape=tuple(first["shape"]),
        dtype=first["dtype"],
        bits=first["bits"],
        group_size=first["group_size"] or 0,
        grid=first["grid"],
        quant_axis=first["quant_axis"] or 0,
        row_rank=first["row_rank"],
        method=first["method"],
        reason=first["reason"] or "",
        data=joined("data"),
        scales=joined("scales"),
        zero_points=joined("zero_points"),
    )
    _check(file, tensor)
    return tensor


def _check(file: pathlib.Path, tensor: StoredTensor) -> None:
    where = f"{file}: tensor '{tensor.name}'"
    if tensor.quantized:
        if tensor.grid != "affine" or tensor.bits not in (2, 3, 4, 8) or tensor.group_size < 1:
            raise UnsupportedModelError(
                f"{where}: grid {tensor.grid}, {tensor.bits} bits, group {tensor.group_size}", file=str(file)
            )
        rows, cols = tensor.matrix_shape
        groups = -(-cols // tensor.group_size)
        expected = ((rows * cols * tensor.bits + 7) // 8, rows * groups, rows * groups)
        found = (tensor.data.size, tensor.scales.size, tensor.zero_points.size)
    else:
        element = ELEMENT_BYTES.get(tensor.dtype)
        if element is None:
            raise UnsupportedModelError(f"{where}: dtype {tensor.dtype}", file=str(file))
        expected = (math.prod(tensor.shape) * element, 0, 0)
        found = (tensor.data.size, 0, 0)
    if expected != found:
        raise ShapeMismatchError(
            f"{where}: has {found} bytes, scales and zero points where {expected} belong to its shape. "
            "Copy the model again.",
            code="shape_mismatch",
            file=str(file),
            tensor=tensor.name,
        )
