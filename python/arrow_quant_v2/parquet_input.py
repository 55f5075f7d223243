"""Parquet models as input of quantization: older layouts, and models that are quantized already.

The core reads safetensors only. Its copy of a Parquet model is written beside the output and removed afterwards.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ResourceError, UnsupportedModelError
from arrow_quant_v2.export import expanded_dtype, export_safetensors, safetensors_name, shards_of
from arrow_quant_v2.model_file import OUR_LAYOUT, QuantizedModel, StoredTensor, read_json
from arrow_quant_v2.own_directory import own_directory
from arrow_quant_v2.safetensors_source import SourceTensor

_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


def open_parquet_input(path: pathlib.Path, config: DiffusionQuantConfig | None = None) -> QuantizedModel | None:
    """The model at ``path`` when its weights are Parquet files and nothing else; None for every other input.

    One file stands for its directory, as older layouts have a file for each layer.
    """
    if path.suffix == ".parquet" and path.is_file():
        return QuantizedModel(path.parent)
    if not path.is_dir() or not any(path.rglob("*.parquet")):
        return None
    components = list(config.components) if config is not None else []
    variant = config.variant if config is not None else None
    if core.source_kind(str(path), components, variant) != "parquet":
        return None
    return QuantizedModel(path)


def prepare(model: QuantizedModel, config: DiffusionQuantConfig) -> tuple[DiffusionQuantConfig, list[str]]:
    """The configuration that quantizes what the model had quantized, and warnings about rounding twice.

    Raises:
        UnsupportedModelError: no tensor has more bits than are asked for, so that nothing could be gained.
    """
    quantized = [entry for entry in model.entries if entry.quantized]
    if config.modality is None:
        config = config.with_overrides(modality=modality_of(model))
    if not quantized:
        return config, []
    widest = max(quantized, key=lambda entry: entry.bits)
    if widest.bits <= config.bit_width:
        raise UnsupportedModelError.compose(
            f"the model is already quantized, to {widest.bits} bits; rounding it to {config.bit_width} bits would only "
            "add error",
            file=str(model.path),
            tensor=widest.name,
            remedy=(
                "Use it as it is, ask for fewer bits, or quantize the original float model."
                if widest.layout == OUR_LAYOUT
                else "Use arrow-quant convert to bring it into this layout at its own width, ask for fewer bits, or "
                "quantize the original float model."
            ),
        )
    config = config.with_overrides(
        quantize_patterns=[*config.quantize_patterns, *name_patterns(e.name for e in quantized)]
    )
    counts = sorted(Counter(entry.bits for entry in quantized).items(), reverse=True)
    text = ", ".join(f"{count} tensor{'s' if count > 1 else ''} to {bits} bits" for bits, count in counts)
    return config, [
        f"the input is already quantized ({text}); it was expanded and rounded again, so both errors are in the "
        "result, while the figures tell of the second rounding only. Quantize the original float model where there is "
        "one."
    ]


@contextmanager
def expanded_model(
    model: QuantizedModel,
    output: pathlib.Path,
    dtype: str | None = None,
    progress_callback: Callable[[str, float], None] | None = None,
) -> Iterator[pathlib.Path]:
    """The model as safetensors in a hidden directory beside ``output``, for the time of the context.

    Raises:
        ResourceError: the disk has no room for it.
    """
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    needed = sum(math.prod(e.shape) * _BYTES.get(dtype or _plain_dtype(e), 1) for e in model.entries)
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ResourceError.compose(
            f"{needed / 1e6:.0f} MB are needed to expand {model.path}, {free / 1e6:.0f} MB are free",
            file=str(parent),
            remedy="Free space, or choose another output.",
        )
    with own_directory(parent, f".{output.name}.expanded-") as temporary:
        files = export_safetensors(model, temporary / "model", dtype, progress_callback=progress_callback)
        # The fingerprint of the source holds the files' times: two runs over one model must give the same bytes.
        newest = max(file.stat().st_mtime_ns for file in model.files)
        for file in files:
            os.utime(file, ns=(newest, newest))
        yield temporary / "model"


@contextmanager
def headers_of(model: QuantizedModel) -> Iterator[pathlib.Path]:
    """The model as safetensors whose values are holes in the files: enough for a plan, and nothing is read."""
    with tempfile.TemporaryDirectory(prefix="arrow-quant-plan-") as name:
        folder = pathlib.Path(name)
        for config in model.path.rglob("*.json") if model.path.is_dir() else []:
            if config.name in ("config.json", "metadata.json", "model_index.json"):
                target = folder / config.relative_to(model.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                values = {k: v for k, v in read_json(config).items() if k != "quantization_config"}
                target.write_text(json.dumps(values), "utf-8")
        groups = shards_of(model)
        for directory in {file.parent for file in groups}:
            indices = [index for file, some in groups.items() if file.parent == directory for index in some]
            (folder / directory).mkdir(parents=True, exist_ok=True)
            _write_hollow([model.entries[i] for i in indices], folder / directory / "model.safetensors")
        yield folder


def modality_of(model: QuantizedModel) -> str | None:
    """What the rows say, when it is one of the four."""
    named = next((entry.modality for entry in model.entries if entry.modality), None)
    return named if named in ("text", "code", "image", "audio") else None


def name_patterns(names: Iterable[str]) -> list[str]:
    """Regular expressions that fit just these names."""
    special = set("\\^$.|?*+()[]{}")
    return ["^" + "".join("\\" + c if c in special else c for c in name) + "$" for name in names]


def _plain_dtype(entry: StoredTensor) -> str:
    return expanded_dtype(entry) if entry.quantized else entry.dtype


def _write_hollow(entries: list[StoredTensor], path: pathlib.Path) -> None:
    header = {}
    offset = 0
    for entry in entries:
        dtype = _plain_dtype(entry)
        size = math.prod(entry.shape) * _BYTES.get(dtype, 1)
        header[entry.name] = {
            "dtype": safetensors_name(dtype), "shape": list(entry.shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header, ensure_ascii=False).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def as_parquet_result(result: dict[str, Any], model: QuantizedModel, warnings: list[str]) -> dict[str, Any]:
    """The result with the Parquet model as the source, instead of its expanded copy."""
    own = result["model_size_mb"]
    source = model.parquet_bytes / 1e6
    result.update(
        source_kind="parquet",
        source_size_mb=source,
        compression_ratio=source / own if own else 0.0,
        warnings=[*warnings, *result["warnings"]],
    )
    return result


class ParquetSource:
    """The tensors of a Parquet model as SafetensorsSource gives them; quantized ones expanded."""

    def __init__(self, model: QuantizedModel) -> None:
        self._model = model
        self._places = {(entry.component, entry.name): i for i, entry in enumerate(model.entries)}

    def names(self) -> set[tuple[str, str]]:
        """(component, name) of every tensor."""
        return set(self._places)

    @property
    def total_bytes(self) -> int:
        return self._model.parquet_bytes

    def read(self, key: tuple[str, str]) -> SourceTensor:
        """One tensor."""
        tensor = self._model.load(self._places[key])
        if not tensor.quantized:
            return SourceTensor(tensor.dtype, tensor.shape, tensor.data)
        values = np.ascontiguousarray(tensor.dequantize()).reshape(-1).view(np.uint8)
        return SourceTensor("float32", tensor.shape, values, kept_dtype=expanded_dtype(tensor))
