"""Weights as numpy arrays, whatever they came as, without copies where the memory layout allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from arrow_quant_v2.errors import ConfigurationError, QuantizationError, ShapeMismatchError

AnyArray = npt.NDArray[Any]


def to_float32(weight: Any, tensor: str = "") -> npt.NDArray[np.float32]:
    """A weight as a C-contiguous float32 array, itself or a view where it is one already.

    Args:
        weight: array-like of real numbers, or an Arrow array: see from_arrow.
        tensor: its name, for errors.

    Raises:
        ConfigurationError: no numbers. ShapeMismatchError: rows of different lengths. QuantizationError: Arrow nulls.
    """
    array = from_arrow(weight, tensor) if _is_arrow(weight) else _from_array_like(weight, tensor)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ConfigurationError.compose(
            f"the weight has the type {array.dtype}", tensor=tensor, remedy="Give real numbers."
        )
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    # Beyond float32's range is infinity, which is then reported as such.
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32, order="C")


def from_arrow(array: Any, tensor: str = "") -> AnyArray:
    """An Arrow array as a numpy array: a view of its buffer, unless it is chunked.

    Numbers give [n]; fixed-size lists [n, size] (nested ones more axes), tensors of an extension array [n, *shape];
    lists of equal length [n, length]. Objects of other libraries come through ``__arrow_c_array__``.
    """
    if not isinstance(array, pa.Array | pa.ChunkedArray):
        array = pa.array(array)
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if array.null_count:
        index = array.is_null().to_numpy(zero_copy_only=False).argmax()
        raise QuantizationError.compose(f"null at index {index}", tensor=tensor, remedy="Fill the nulls.")
    if isinstance(array, pa.FixedShapeTensorArray):
        values: AnyArray = array.to_numpy_ndarray()
        return values
    if pa.types.is_fixed_size_list(array.type):
        items = from_arrow(array.flatten(), tensor)
        return items.reshape(len(array), array.type.list_size, *items.shape[1:])
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _equal_lists(array, tensor)
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        raise ConfigurationError.compose(f"the weight has the type {array.type}", tensor=tensor, remedy="Give numbers.")
    numbers: AnyArray = array.to_numpy(zero_copy_only=True)
    return numbers


def rows_of(table: Any) -> Iterator[tuple[str, AnyArray]]:
    """(name, weight) of each row of a table: columns ``weights`` (lists of numbers), and where they are there
    ``layer_name`` (default "weight_0", ...) and ``shape``.

    Raises:
        ConfigurationError: there is no column ``weights``. ShapeMismatchError: no rows, or a shape that does not fit.
    """
    table = as_table(table)
    if "weights" not in table.column_names:
        raise ConfigurationError(
            f"the table has the columns {table.column_names}, but no 'weights'. Give lists of numbers under that name."
        )
    if table.num_rows == 0:
        raise ShapeMismatchError("the table has no rows. Give at least one weight.")
    index = 0
    for batch in table.to_batches():
        names = batch.column("layer_name").to_pylist() if "layer_name" in table.column_names else None
        shapes = batch.column("shape").to_pylist() if "shape" in table.column_names else None
        for i, item in enumerate(batch.column("weights")):
            name = str(names[i]) if names else f"weight_{index}"
            values = from_arrow(item.values if item.is_valid else pa.nulls(1, pa.float32()), name)
            yield name, _reshaped(values, shapes[i] if shapes else None, name)
            index += 1


def as_table(table: Any) -> pa.Table:
    """A table, a record batch, or what gives one through ``__arrow_c_stream__`` or ``__arrow_c_array__``."""
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
        return pa.table(table)
    raise ConfigurationError(f"a {type(table).__name__} is no Arrow table. Give a pyarrow.Table or a RecordBatch.")


def is_table(value: Any) -> bool:
    """Whether an Arrow object has named columns."""
    return isinstance(value, pa.Table | pa.RecordBatch) or (
        hasattr(value, "__arrow_c_stream__") and not isinstance(value, pa.ChunkedArray | np.ndarray)
    )


def _is_arrow(value: Any) -> bool:
    return isinstance(value, pa.Array | pa.ChunkedArray) or hasattr(value, "__arrow_c_array__")


def _from_array_like(weight: Any, tensor: str) -> AnyArray:
    try:
        return np.asarray(weight)
    except (TypeError, ValueError) as error:
        raise ConfigurationError.compose(
            f"the weight cannot be made an array: {error}", tensor=tensor, remedy="Give numbers in equal rows."
        ) from error


def _equal_lists(array: Any, tensor: str) -> AnyArray:
    lengths = np.diff(array.offsets.to_numpy())
    if lengths.size and (lengths != lengths[0]).any():
        raise ShapeMismatchError.compose(
            f"the rows have between {lengths.min()} and {lengths.max()} columns",
            tensor=tensor,
            remedy="Give rows of one length, or a table with a row for each weight.",
        )
    items = from_arrow(array.flatten(), tensor)
    return items.reshape(len(array), int(lengths[0]) if lengths.size else 0, *items.shape[1:])


def _reshaped(values: AnyArray, shape: list[int] | None, tensor: str) -> AnyArray:
    if shape is None:
        return values
    try:
        if min(shape, default=0) < 0:
            raise ValueError
        return values.reshape(shape)
    except (TypeError, ValueError):
        raise ShapeMismatchError.compose(
            f"{values.size} values do not fit the shape {shape}", tensor=tensor, remedy="Give as many as the shape has."
        ) from None
