"""What the checks share: making models, running the program, and telling what happened."""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from arrow_quant_v2 import ArrowQuantError, ArrowQuantV2, DiffusionQuantConfig, QuantizedModel

Arrays = dict[str, np.ndarray[Any, Any]]

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "bool": "BOOL", "int32": "I32",
}  # fmt: skip


class Wrong(Exception):
    """What happened is not what is right; the message says what happened."""


class NotHere(Exception):
    """This machine cannot show it; the message says why."""


def expect(condition: object, happened: str) -> None:
    """Raise Wrong(happened) unless the condition holds."""
    if not condition:
        raise Wrong(happened)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    """Normal values, the same in every run."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def safetensors_bytes(tensors: Arrays, metadata: Any = ...) -> bytes:
    """A safetensors file; ``metadata`` as JSON value of __metadata__, none when left out."""
    header: dict[str, Any] = {} if metadata is ... else {"__metadata__": metadata}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(a).tobytes() for a in tensors.values())


def make_model(
    folder: pathlib.Path, tensors: Arrays, config: Any = None, file: str = "model.safetensors"
) -> pathlib.Path:
    """A directory with one checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(safetensors_bytes(tensors))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return folder


def make_sparse(folder: pathlib.Path, rows: int, columns: int) -> pathlib.Path:
    """One float32 weight of zeros that takes no space on the disk."""
    folder.mkdir()
    size = rows * columns * 4
    entry = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}
    text = json.dumps({"blocks.0.attn.to_q.weight": entry}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    return folder


def quantize(source: pathlib.Path, output: pathlib.Path, **options: Any) -> dict[str, Any]:
    """Run without a threshold and without diffusion logic, unless the options say otherwise."""
    config = DiffusionQuantConfig(**{"min_accuracy": 0.0, **options})
    return ArrowQuantV2("base").quantize_diffusion_model(source, output, config)


def plan(source: pathlib.Path, **options: Any) -> dict[str, Any]:
    """The plan of quantize()."""
    return ArrowQuantV2("base").plan(source, DiffusionQuantConfig(**{"min_accuracy": 0.0, **options}))


def stored(path: pathlib.Path) -> dict[str, Any]:
    """The tensors of a quantized model by name."""
    return {tensor.name: tensor for tensor in QuantizedModel(path)}


def layers(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in result["layers"]}


def kept(result: dict[str, Any]) -> dict[str, str]:
    """Name and reason of what is kept."""
    return {entry["name"]: entry["reason"] for entry in result["kept"]}


def refused(act: Callable[[], Any], code: str, *words: str, folder: pathlib.Path) -> str:
    """The message of the error that must come, without the temporary folder's name."""
    try:
        act()
    except ArrowQuantError as error:
        message = str(error).replace(f"{folder}/", "").replace(str(folder), "the directory")
        expect(error.code == code, f"{error.code}: {message}")
        missing = [word for word in words if word not in message]
        expect(not missing, f"{error.code}: {message} (does not name {', '.join(missing)})")
        expect(not list(folder.glob(".*")), f"{error.code}, but temporary files are left")
        return f"{error.code}: {message}"
    raise Wrong("accepted without an error")


def command(
    *arguments: object, environment: dict[str, str] | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run arrow-quant."""
    line = [sys.executable, "-m", "arrow_quant_v2.cli.main", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", **(environment or {})}
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False, **how)
