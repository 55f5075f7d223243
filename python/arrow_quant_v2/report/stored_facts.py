"""What the files of a quantized model say of it and of each tensor."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pyarrow.parquet as pq

from arrow_quant_v2.errors import CorruptFileError, UnsupportedModelError
from arrow_quant_v2.model_file import OUR_LAYOUT, QuantizedModel, StoredTensor, read_json

Facts = dict[str, Any]
Key = tuple[str, str]  # component, name

ELEMENT_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2
}  # fmt: skip
_FIGURES = (
    "cosine", "sqnr_db", "output_cosine", "output_sqnr_db", "dampening", "activations", "spatial", "time_correction",
    "target",
)  # fmt: skip
_RUN = ("version", "bit_width", "group_size", "strategy", "calibration")


def open_quantized(path: pathlib.Path) -> QuantizedModel:
    """The model to report on.

    Raises:
        UnsupportedModelError: Parquet files of which no tensor is quantized. ModelNotFoundError, CorruptFileError.
    """
    model = QuantizedModel(path)
    entries = model.entries
    if not any(entry.quantized or entry.layout == OUR_LAYOUT for entry in entries):
        raise UnsupportedModelError.compose(
            "none of its tensors is quantized", file=str(path), remedy="Give a folder that arrow-quant quantize wrote."
        )
    return model


def quality_rows(model: QuantizedModel) -> dict[Key, Facts]:
    """The quality figures that the files keep of each tensor; none of older layouts.

    Raises CorruptFileError.
    """
    rows: dict[Key, Facts] = {}
    for file in model.files:
        if "report_json" not in pq.read_schema(file).names:
            continue
        columns = pq.read_table(file, columns=["component", "layer_name", "report_json"])
        for component, name, text in zip(*(column.to_pylist() for column in columns.itercolumns()), strict=True):
            rows[(component, name)] = _figures(text, file, name)
    return rows


def _figures(text: str, file: pathlib.Path, name: str) -> Facts:
    try:
        figures = json.loads(text)
    except ValueError:
        figures = None
    if not isinstance(figures, dict):
        raise CorruptFileError.compose(
            "its quality figures are no JSON object", file=str(file), tensor=name, remedy="Copy the model again."
        )
    return figures


def run_facts(path: pathlib.Path, model: QuantizedModel) -> Facts:
    """How the model was made, as far as its folder tells: options as in the result of a run, modality, components."""
    file = path / "metadata.json"
    metadata = read_json(file) if file.is_file() else {}
    info = metadata.get("quantization")
    info = info if isinstance(info, dict) else {}
    modality = metadata.get("modality") or next((entry.modality for entry in model.entries if entry.modality), None)
    return {
        "name": path.resolve().name,
        "modality": modality if isinstance(modality, str) else None,
        "components": sorted({entry.component for entry in model.entries if entry.component}),
        "layout": model.entries[0].layout,
        **{key: info.get(key) for key in _RUN},
    }


def layer_facts(entry: StoredTensor, figures: Facts) -> Facts:
    """A quantized tensor as it is in the report."""
    return {
        **_common(entry, figures),
        "bits": entry.bits,
        "group_size": entry.group_size,
        "grid": entry.grid,
        "method": entry.method,
        "bits_per_weight": 8 * entry.stored_bytes / max(1, math.prod(entry.shape)),
        **{key: figures.get(key) for key in _FIGURES},
        "time_groups": figures.get("time_groups") or [],
        "activation_ranges": None,
        "fallbacks": None,
    }


def kept_facts(entry: StoredTensor, figures: Facts) -> Facts:
    """A tensor that was not quantized as it is in the report."""
    return {**_common(entry, figures), "reason": entry.reason, "fallbacks": None}


def source_bytes(entry: StoredTensor) -> int:
    """Bytes of the tensor in the source, by its dtype there."""
    return math.prod(entry.shape) * ELEMENT_BYTES.get(entry.dtype, 1)


def _common(entry: StoredTensor, figures: Facts) -> Facts:
    return {
        "name": entry.name,
        "component": entry.component,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "role": figures.get("role"),
        "num_params": math.prod(entry.shape),
        "stored_bytes": entry.stored_bytes,
    }
