"""Files of the older Parquet layouts, for tests."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RUST = [
    ("layer_name", pa.string()), ("shape", pa.list_(pa.uint64())), ("dtype", pa.string()), ("data", pa.large_binary()),
    ("num_params", pa.uint64()), ("quant_type", pa.string()), ("scales", pa.list_(pa.float32())),
    ("zero_points", pa.list_(pa.float32())), ("quant_axis", pa.uint64()), ("group_size", pa.uint64()),
]  # fmt: skip
EXTENDED = [
    *RUST, ("is_diffusion_model", pa.bool_()), ("modality", pa.string()), ("time_aware_quant_json", pa.string()),
    ("spatial_quant_json", pa.string()),
]  # fmt: skip
PYTHON = [
    ("layer_name", pa.string()), ("shape", pa.list_(pa.int32())), ("dtype", pa.string()), ("data", pa.binary()),
    ("num_params", pa.int64()), ("quant_type", pa.string()), ("scales", pa.binary()), ("zero_points", pa.binary()),
    ("quant_axis", pa.int32()), ("group_size", pa.int32()),
]  # fmt: skip


def write_rows(path: pathlib.Path, fields: list[Any], *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(fields)), path)


def rust_row(name: str, codes: np.ndarray, **columns: Any) -> dict[str, Any]:
    return {
        "layer_name": name, "shape": list(codes.shape), "dtype": "float32", "data": codes.tobytes(),
        "num_params": codes.size, "quant_type": "int8", "scales": [0.5], "zero_points": [3.25], **columns,
    }  # fmt: skip
