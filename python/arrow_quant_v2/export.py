"""Write a quantized model in other layouts: safetensors, or Parquet for older readers."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.model_file import OUR_LAYOUT, QuantizedModel, StoredTensor, read_json

FLOAT_DTYPES = ("float16", "bfloat16", "float32")
_OWN_FILES = {"manifest.json"}


def export_safetensors(
    quantized: str | os.PathLike[str] | QuantizedModel,
    output: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    overwrite: bool = False,
    msb_first: bool = False,
    progress_callback: Callable[[str, float], None] | None = None,
) -> list[pathlib.Path]:
    """Expand a quantized model into safetensors files, one for each Parquet file, with an index where there are more.

    Args:
        quantized: a model in our layout or an older one, or an opened one.
        output: a directory that does not exist or is empty, unless ``overwrite``.
        dtype: of expanded weights: "float16", "bfloat16", "float32"; default the source's own. Kept tensors keep their
            bytes.
        msb_first: see QuantizedModel.
        progress_callback: called as (tensor, fraction in [0, 1]) before each tensor; what it raises ends the export.

    Returns:
        The files of weights. One file's tensors are in memory at a time.

    Raises:
        ConfigurationError: another dtype, or an output that may not be replaced.
        ModelNotFoundError: there is no quantized model.
        CorruptFileError: a damaged file.
    """
    if dtype is not None and dtype not in FLOAT_DTYPES:
        raise ConfigurationError(f"dtype is {dtype!r}. Use float16, bfloat16 or float32.", code="configuration")
    model = quantized if isinstance(quantized, QuantizedModel) else QuantizedModel(quantized, msb_first=msb_first)
    refuse_output_over_input(model.path, pathlib.Path(output))
    with staged(pathlib.Path(output), overwrite) as folder:
        _copy_side_files(model.path, folder)
        written = _write_shards(model, folder, dtype, progress_callback)
    return [pathlib.Path(output) / file for file in written]


def export_v2_extended(
    quantized: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the older Parquet V2 Extended: one file per tensor, one byte per weight, for readers that know no packing.

    Args:
        quantized: a model in our layout or an older one.
        output: a directory that does not exist or is empty, unless ``overwrite``.
        overwrite: replace a model that is there.

    Returns:
        files, bytes, and max_error: the largest change of a weight. Each slice along axis 0 has 256 levels, so a
        weight moves by at most 1/510 of its slice's range.
    """
    model = QuantizedModel(quantized)
    total = {"files": 0, "bytes": 0, "max_error": 0.0}
    refuse_output_over_input(model.path, pathlib.Path(output))
    with staged(pathlib.Path(output), overwrite) as folder:
        _copy_side_files(model.path, folder)
        writer = core.CompatWriter(str(folder))
        for tensor in model:
            weights = _as_float32(tensor)
            name = f"{tensor.component}.{tensor.name}" if tensor.component else tensor.name
            _, size, error = writer.write(name, list(tensor.shape), weights, tensor.quantized, tensor.modality)
            total["files"] += 1
            total["bytes"] += size
            total["max_error"] = max(total["max_error"], error)
    return total


def refuse_existing(target: pathlib.Path, overwrite: bool) -> None:
    """Raise ConfigurationError where something would be overwritten that must not be."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        problem, remedy = "the output exists and is not empty", "Choose another output or use --overwrite."
    elif not any(file.suffix in (".parquet", ".safetensors") for at in ("*", "*/*") for file in target.glob(at)):
        problem, remedy = (
            "the output holds no model, so it is not replaced",
            "Choose another output, or empty it yourself.",
        )
    else:
        return
    raise ConfigurationError.compose(problem, file=str(target), remedy=remedy)


def refuse_output_over_input(source: pathlib.Path, target: pathlib.Path) -> None:
    """Raise ConfigurationError where the output would take the place of what is read."""
    if source.resolve().is_relative_to(target.resolve()):
        raise ConfigurationError.compose(
            f"the output would replace the input '{source}'", file=str(target), remedy="Choose another output."
        )


@contextmanager
def staged(target: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """A hidden directory beside the target that takes its place when the block ends well."""
    target = target.absolute()
    refuse_existing(target, overwrite)
    staging = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy_side_files(source: pathlib.Path, target: pathlib.Path) -> None:
    """Everything that holds no weights; configurations lose what says that the weights are quantized."""
    if source.is_file():
        return
    for file in sorted(source.rglob("*")):
        relative = file.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not file.is_file() or hidden or file.suffix in (".parquet", ".bin") or file.name in _OWN_FILES:
            continue
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        if file.name in ("config.json", "metadata.json"):
            dropped = ("quantization_config", "quantization", "format")
            values = {key: value for key, value in read_json(file).items() if key not in dropped}
            destination.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(file, destination)


def shards_of(model: QuantizedModel) -> dict[pathlib.Path, list[int]]:
    """A safetensors file for each Parquet file; older layouts, with a file for each tensor, become one."""
    groups: dict[pathlib.Path, list[int]] = {}
    for index, entry in enumerate(model.entries):
        stem = model.file_of(index).stem if entry.layout == OUR_LAYOUT else "model"
        groups.setdefault(pathlib.Path(entry.component) / f"{stem}.safetensors", []).append(index)
    return groups


def _write_shards(
    model: QuantizedModel,
    folder: pathlib.Path,
    dtype: str | None,
    progress: Callable[[str, float], None] | None,
) -> list[pathlib.Path]:
    groups = shards_of(model)
    entries = model.entries
    order = [index for indices in groups.values() for index in indices]
    place = {index: at for at, index in enumerate(order)}

    def begin(index: int) -> None:
        if progress is not None:
            progress(entries[index].name, place[index] / len(order))

    for relative, indices in groups.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        _write_safetensors(model, indices, folder / relative, dtype, begin)
    for directory in {relative.parent for relative in groups}:
        shards = [relative for relative in groups if relative.parent == directory]
        if len(shards) > 1:
            _write_index(model, groups, shards, folder / directory)
    return list(groups)


def _write_index(
    model: QuantizedModel, groups: dict[pathlib.Path, list[int]], shards: list[pathlib.Path], folder: pathlib.Path
) -> None:
    entries = model.entries
    weight_map = {entries[index].name: shard.name for shard in shards for index in groups[shard]}
    total = sum((folder / shard.name).stat().st_size for shard in shards)
    name = shards[0].name.split("-00")[0] + ".safetensors.index.json"
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / name).write_text(text + "\n", encoding="utf-8")


# Names of element types in a safetensors header, by torch's names.
_SAFETENSORS_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float16": "F16",
    "bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex64": "C64",
}  # fmt: skip


def _write_safetensors(
    model: QuantizedModel, indices: list[int], path: pathlib.Path, dtype: str | None, begin: Callable[[int], None]
) -> None:
    """One file, tensor by tensor: the library's writer wants all of a file in memory and knows no bfloat16 arrays."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = path.with_suffix(".body")
    offset = 0
    with body.open("wb") as file:
        for index in indices:
            begin(index)
            tensor = model.load(index)
            name, data = _serialized(tensor, dtype)
            file.write(data)
            header[tensor.name] = {
                "dtype": _SAFETENSORS_NAMES[name],
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + len(data)],
            }
            offset += len(data)
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, body.open("rb") as values:
        file.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(values, file, 1 << 24)
    body.unlink()


def expanded_dtype(tensor: StoredTensor) -> str:
    """The type in which a quantized tensor is expanded: the source's own where it can hold the values."""
    return tensor.dtype if tensor.dtype in FLOAT_DTYPES else "float32"


def safetensors_name(dtype: str) -> str:
    """torch's name of an element type as a safetensors header has it."""
    return _SAFETENSORS_NAMES[dtype]


def _serialized(tensor: StoredTensor, dtype: str | None) -> tuple[str, bytes]:
    """Element type and little-endian bytes of a tensor's values."""
    if not tensor.quantized:
        return tensor.dtype, tensor.data.tobytes()
    target = dtype or expanded_dtype(tensor)
    return target, core.from_float32(tensor.dequantize(), target)


def _as_float32(tensor: StoredTensor) -> Any:
    if tensor.quantized:
        return tensor.dequantize()
    if tensor.dtype in (*FLOAT_DTYPES, "float64", "float8_e4m3fn", "float8_e5m2"):
        return core.to_float32(tensor.data, tensor.dtype)
    raise ConfigurationError(
        f"tensor '{tensor.name}' has the dtype {tensor.dtype}, which the older layout cannot hold.", tensor=tensor.name
    )
