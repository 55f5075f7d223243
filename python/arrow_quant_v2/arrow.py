"""Quantize Arrow tables: Arrow in, Arrow out, the values copied neither way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from arrow_quant_v2.arrays import as_table, is_table
from arrow_quant_v2.batch import quantize_batch
from arrow_quant_v2.errors import ConfigurationError, ShapeMismatchError
from arrow_quant_v2.layer import QuantizedLayer

QUANTIZED_SCHEMA = pa.schema(
    [
        ("layer_name", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("bit_width", pa.int32()),
        ("group_size", pa.int64()),
        ("quantized_data", pa.large_binary()),
        ("scales", pa.list_(pa.float32())),
        ("zero_points", pa.list_(pa.float32())),
    ]
)
WEIGHTS_SCHEMA = pa.schema(
    [
        ("layer_name", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("weights", pa.large_list(pa.float32())),
    ]
)


def quantize_arrow(
    weights: Any, bit_width: int = 4, group_size: int = 128, fit: str = "min_max", *, num_threads: int = 0
) -> pa.Table:
    """Nearest rounding of Arrow weights; see quantize_layer.

    Args:
        weights: a table or record batch with the column ``weights`` (a list of numbers in each row) and where wanted
            ``layer_name`` and ``shape``; or one weight: an array of numbers, of fixed-size lists (a matrix), of
            tensors, of lists of one length. Objects of other libraries are taken through the Arrow C Data Interface.
            float32 buffers are read where they lie; chunked single arrays are joined first.
        bit_width: 2, 3, 4 or 8.
        group_size: at least 1, or -1 for one group per output channel.
        fit: "min_max" or "fitted".
        num_threads: 0 for all.

    Returns:
        A table with a row and a chunk for each weight: layer_name, shape, bit_width, group_size, quantized_data (codes,
        LSB-first bit stream over the flattened matrix), scales and zero_points (row-major [rows, groups]). Its buffers
        are those that the core wrote.

    Raises:
        ConfigurationError: no Arrow data, a column is missing, a wrong argument.
        ShapeMismatchError: no rows, a shape that does not fit.
        QuantizationError: NaN, Inf, nulls.
    """
    if not is_table(weights):
        if not (isinstance(weights, pa.Array | pa.ChunkedArray) or hasattr(weights, "__arrow_c_array__")):
            raise ConfigurationError(
                f"a {type(weights).__name__} is no Arrow data. Give a table or an array, or use quantize_layer."
            )
        weights = {"weight_0": weights}
    result = quantize_batch(weights, bit_width, group_size, fit, num_threads=num_threads)
    batches = [_row_of(name, layer) for name, layer in result.layers.items()]
    return pa.Table.from_batches(batches, schema=QUANTIZED_SCHEMA)


def dequantize_arrow(table: Any) -> pa.Table:
    """Values of what quantize_arrow made: layer_name, shape and weights (float32), a row and a chunk for each weight.

    Raises:
        ConfigurationError: no Arrow table, a column is missing.
        ShapeMismatchError: codes, scales and shape do not fit.
    """
    table = as_table(table)
    missing = [name for name in QUANTIZED_SCHEMA.names if name not in table.column_names]
    if missing:
        raise ConfigurationError(f"the table lacks the columns {missing}. Give the result of quantize_arrow.")
    try:
        table = table.select(QUANTIZED_SCHEMA.names).cast(QUANTIZED_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(f"the table has columns of other types: {error}. See quantize_arrow.") from error
    batches = []
    for batch in table.to_batches():
        for i in range(batch.num_rows):
            row = {name: batch.column(name)[i] for name in QUANTIZED_SCHEMA.names}
            layer = _layer_of(row, _cell(batch.column("quantized_data"), i))
            batches.append(_weights_row(row["layer_name"].as_py(), layer))
    return pa.Table.from_batches(batches, schema=WEIGHTS_SCHEMA)


def _row_of(name: str, layer: QuantizedLayer) -> pa.RecordBatch:
    size = np.array([0, layer.codes.size], np.int64)
    data = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(size), pa.py_buffer(layer.codes)])
    columns = [
        pa.array([name]),
        pa.array([list(layer.shape)], pa.list_(pa.int64())),
        pa.array([layer.bit_width], pa.int32()),
        pa.array([layer.group_size], pa.int64()),
        data,
        _one_list(pa.ListArray, layer.scales, np.int32),
        _one_list(pa.ListArray, layer.zero_points, np.int32),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=QUANTIZED_SCHEMA)


def _weights_row(name: str, layer: QuantizedLayer) -> pa.RecordBatch:
    columns = [
        pa.array([name]),
        pa.array([list(layer.shape)], pa.list_(pa.int64())),
        _one_list(pa.LargeListArray, layer.dequantize(), np.int64),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=WEIGHTS_SCHEMA)


def _one_list(kind: Any, values: np.ndarray[Any, Any], offset_type: type) -> pa.Array:
    """A list array of one row over the memory of ``values``."""
    return kind.from_arrays(pa.array(np.array([0, values.size], offset_type)), pa.array(values.reshape(-1)))


def _cell(array: pa.Array, i: int) -> np.ndarray[Any, Any]:
    """The bytes of one row of a large binary array, where they lie; a scalar of it would be a copy."""
    _, offsets, data = array.buffers()
    begin, end = np.frombuffer(offsets, np.int64)[array.offset + i : array.offset + i + 2]
    return np.frombuffer(data, np.uint8)[begin:end] if data is not None else np.zeros(0, np.uint8)


def _layer_of(row: dict[str, Any], codes: np.ndarray[Any, Any]) -> QuantizedLayer:
    name = row["layer_name"].as_py()
    absent = [column for column, value in row.items() if not value.is_valid]
    if absent:
        raise ShapeMismatchError.compose(f"the columns {absent} are null", tensor=str(name), remedy="Fill them.")
    shape = tuple(row["shape"].as_py())
    scales, zero_points = (row[column].values.to_numpy() for column in ("scales", "zero_points"))
    group_size = row["group_size"].as_py()
    rows = shape[0] if len(shape) > 1 else 1
    if rows < 1 or group_size < 1 or scales.size == 0 or scales.size % rows or scales.shape != zero_points.shape:
        raise ShapeMismatchError.compose(
            f"{scales.size} scales and {zero_points.size} zero points for groups of {group_size} do not fit the shape "
            f"{list(shape)}",
            tensor=str(name),
            remedy="Give a row of quantize_arrow.",
        )
    return QuantizedLayer(
        shape,
        row["bit_width"].as_py(),
        group_size,
        codes,
        scales.reshape(rows, -1),
        zero_points.reshape(rows, -1),
    )
