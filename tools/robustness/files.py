"""Files: what is in them, how they are laid out, what is wrong with them."""

from __future__ import annotations

import json
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, export_safetensors

from robustness.observe import (
    command,
    expect,
    kept,
    layers,
    make_model,
    normal,
    plan,
    quantize,
    refused,
    safetensors_bytes,
    stored,
)

NAME = "blocks.0.attn.to_q.weight"
OTHER = "blocks.1.attn.to_q.weight"


def mixed_types(folder: pathlib.Path) -> str:
    floats = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, np.float16, np.float32, np.float64]
    tensors: dict[str, np.ndarray[Any, Any]] = {
        f"blocks.{i}.attn.to_q.weight": normal(16, 64, dtype=dtype) for i, dtype in enumerate(floats)
    }
    tensors["ids"] = np.arange(1024).reshape(16, 64)
    tensors["mask"] = np.ones((16, 64), np.bool_)
    quantize(make_model(folder / "m", tensors), folder / "q", bit_width=8, group_size=64)
    after = stored(folder / "q")
    for name, array in tensors.items():
        tensor = after[name]
        if name in ("ids", "mask"):
            expect(tensor.data.tobytes() == array.tobytes(), f"{name} is changed")
        else:
            # Half a step of 8 bits over the range of normal values, about 7.
            error = np.abs(tensor.dequantize() - array.astype(np.float32)).max()
            expect(tensor.quantized and error < 0.02, f"{name}: error {error}")
    return "six floating-point types quantized, I64 and BOOL passed through byte by byte"


def float8_scales(folder: pathlib.Path, ending: str, shape: str) -> str:
    size = tuple(int(d) for d in shape.split("x") if d)
    weight = (normal(256, 192) * 40).astype(ml_dtypes.float8_e4m3fn)
    scale = np.random.default_rng(1).uniform(0.01, 0.1, size).astype(np.float32)
    name = NAME.replace("weight", ending)
    result = quantize(make_model(folder / "m", {NAME: weight, name: scale}), folder / "q", bit_width=8, group_size=64)
    expect([m["name"] for m in result["merged"]] == [name], f"merged: {result['merged']}")
    rows, columns = (scale.reshape(-1, 1), 1) if scale.ndim < 2 or scale.shape[1] == 1 else (scale, 128)
    full = np.kron(rows, np.ones((256 // rows.shape[0], 192 if columns == 1 else columns)))[:, :192]
    error = np.abs(stored(folder / "q")[NAME].dequantize() - weight.astype(np.float32) * full).max()
    expect(error < 0.1, f"error {error}")
    return "the scale is applied and listed as merged; values come back within half a step"


def float8_ambiguous(folder: pathlib.Path) -> str:
    tensors = {NAME: normal(64, 64, dtype=ml_dtypes.float8_e4m3fn), NAME + "_scale": np.ones((3, 5), np.float32)}
    source = make_model(folder / "m", tensors)
    return refused(lambda: quantize(source, folder / "q"), "unsupported", NAME, "_scale", folder=folder)


def already_quantized(folder: pathlib.Path) -> str:
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    source = make_model(folder / "m", {NAME: normal(64, 64)}, config)
    return refused(lambda: quantize(source, folder / "q"), "unsupported", "already quantized", "gptq", folder=folder)


def odd_shapes(folder: pathlib.Path) -> str:
    tensors = {"a": np.zeros(0, np.float32), "b": np.zeros((2, 0), np.float16), "c": np.array(7.5, np.float32)}
    quantize(make_model(folder / "m", {NAME: normal(16, 64), **tensors}), folder / "q")
    after = stored(folder / "q")
    export_safetensors(folder / "q", folder / "plain")
    quantize(folder / "plain", folder / "again")
    for name, array in tensors.items():
        for tensor in (after[name], stored(folder / "again")[name]):
            expect(tensor.shape == array.shape and tensor.data.tobytes() == array.tobytes(), f"{name}: {tensor.shape}")
    return "preserved in the output, by export, and when that is quantized again"


def _header(text: str | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data + body


def _entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


MALFORMED: dict[str, Callable[[], bytes]] = {
    "length": lambda: _header("{}", length=2**64 - 1),
    "cap": lambda: _header("{}", length=100_000_001),
    "reversed": lambda: _header(f'{{"a":{_entry([1], 4, 0)}}}', bytes(4)),
    "overlap": lambda: _header(f'{{"a":{_entry([2], 0, 8)},"b":{_entry([2], 4, 12)}}}', bytes(12)),
    "hole": lambda: _header(f'{{"a":{_entry([1], 0, 4)},"b":{_entry([1], 8, 12)}}}', bytes(12)),
    "span": lambda: _header(f'{{"a":{_entry([3], 0, 8)}}}', bytes(8)),
    "dtype": lambda: _header(f'{{"a":{_entry([1], 0, 4, "F33")}}}', bytes(4)),
    "overflow": lambda: _header(f'{{"a":{_entry([2**33, 2**33], 0, 4)}}}', bytes(4)),
    "duplicate": lambda: _header(f'{{"a":{_entry([1], 0, 4)},"a":{_entry([1], 0, 4)}}}', bytes(4)),
    "negative": lambda: _header(f'{{"a":{_entry([-1], 0, 4)}}}', bytes(4)),
    "utf8": lambda: _header(b'{"\xff\xfe":' + _entry([1], 0, 4).encode() + b"}", bytes(4)),
    "array": lambda: _header("[]"),
    "truncated": lambda: _header(f'{{"a":{_entry([4], 0, 16)}}}', bytes(8)),
    "trailing": lambda: _header(f'{{"a":{_entry([1], 0, 4)}}}', bytes(8)),
    "empty": lambda: b"",
    "short": lambda: b"\x01\x02",
}


def malformed(folder: pathlib.Path, kind: str) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(MALFORMED[kind]())
    code = "unsupported" if kind == "dtype" else "corrupt_file"
    return refused(lambda: quantize(file, folder / "q"), code, file.name, folder=folder)


def lfs_pointer(folder: pathlib.Path) -> str:
    file = folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234\n")
    return refused(lambda: quantize(file, folder / "q"), "corrupt_file", "git lfs pull", folder=folder)


def header_metadata(folder: pathlib.Path) -> str:
    for name, value in (("missing", ...), ("empty", {}), ("null", None)):
        file = folder / f"{name}.safetensors"
        file.write_bytes(safetensors_bytes({NAME: normal(16, 64)}, value))
        result = quantize(file, folder / name)
        expect(NAME in layers(result), f"{name}: not quantized")
        (exported,) = export_safetensors(folder / name, folder / f"{name}-plain")
        text = exported.read_bytes()[8:200].decode(errors="replace")
        expect('"format": "pt"' in text, f"exported with {text[:40]}")
    return "all three read; exported files say format=pt"


def tied(folder: pathlib.Path) -> str:
    weight = normal(32, 64)
    tensors = {"model.embed_tokens.weight": weight, "lm_head.weight": weight, NAME: weight, OTHER: weight}
    quantize(make_model(folder / "m", tensors), folder / "q")
    after = stored(folder / "q")
    expect(after.keys() == tensors.keys(), f"left: {list(after)}")
    expect(after[NAME].data.tobytes() == after[OTHER].data.tobytes(), "equal weights have different codes")
    return "all four names survive; equal weights have equal codes"


def _shards(folder: pathlib.Path, weight_map: dict[str, str] | None = None) -> pathlib.Path:
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, name in zip(files, (NAME, OTHER), strict=True):
        make_model(folder, {name: normal(16, 64)}, file=file)
    index = {"metadata": {}, "weight_map": {NAME: files[0], OTHER: files[1]} if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def missing_shard(folder: pathlib.Path) -> str:
    source = _shards(folder / "m")
    (source / "model-00002-of-00002.safetensors").unlink()
    return refused(lambda: quantize(source, folder / "q"), "corrupt_file", "model-00002-of-00002", folder=folder)


def indexed_but_absent(folder: pathlib.Path) -> str:
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    source = _shards(folder / "m", {NAME: first, OTHER: second, "ghost.weight": second})
    return refused(lambda: quantize(source, folder / "q"), "corrupt_file", "ghost.weight", folder=folder)


def present_but_not_indexed(folder: pathlib.Path) -> str:
    source = _shards(folder / "m")
    make_model(source, {OTHER: normal(16, 64), "stray.weight": normal(16, 64)}, file="model-00002-of-00002.safetensors")
    return refused(lambda: quantize(source, folder / "q"), "corrupt_file", "stray.weight", folder=folder)


def two_checkpoints(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {NAME: normal(16, 64)}, file="a.safetensors")
    make_model(source, {NAME: normal(16, 64)}, file="b.safetensors")
    return refused(lambda: quantize(source, folder / "q"), "invalid_argument", "a", "b", folder=folder)


def variants(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {NAME: normal(16, 64)}, file="diffusion_pytorch_model.safetensors")
    half = normal(16, 64, dtype=np.float16)
    make_model(source, {NAME: half}, file="diffusion_pytorch_model.fp16.safetensors")
    plain = layers(quantize(source, folder / "plain", variant=""))[NAME]["dtype"]
    result = quantize(source, folder / "fp16", variant="fp16")
    expect((plain, layers(result)[NAME]["dtype"]) == ("float32", "float16"), "the variant does not choose")
    expect(any("left out" in warning for warning in result["warnings"]), "the other is not mentioned")
    message = refused(lambda: quantize(source, folder / "q"), "invalid_argument", "fp16", folder=folder)
    return f"--variant chooses and the other is listed as left out; without it: {message}"


def pickles(folder: pathlib.Path) -> str:
    source = folder / "m"
    source.mkdir()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04never loaded")
    message = refused(lambda: quantize(source, folder / "q"), "unsupported", "safe_serialization", folder=folder)
    for name in ("model.ckpt", "model.pt"):
        (folder / name).write_bytes(b"\x80\x04never loaded")
        refused(
            lambda file=folder / name: quantize(file, folder / "q"), "unsupported", "safe_serialization", folder=folder
        )
    return message


def _pipeline(root: pathlib.Path) -> pathlib.Path:
    parts = {
        "transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"], "text_encoder": ["transformers", "UMT5EncoderModel"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }  # fmt: skip
    for part in ("transformer", "transformer_2", "vae"):
        file = "diffusion_pytorch_model.safetensors"
        make_model(root / part, {NAME: normal(16, 64)}, {"_class_name": parts[part][1]}, file)
    make_model(root / "text_encoder", {NAME: normal(16, 64)}, {"architectures": ["UMT5EncoderModel"]})
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text("{}")
    (root / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", **parts}))
    return root


def pipeline(folder: pathlib.Path) -> str:
    source = _pipeline(folder / "m")
    result = quantize(source, folder / "q")
    done = sorted(layer["component"] for layer in result["layers"])
    expect(done == ["transformer", "transformer_2"], f"quantized: {done}")
    for file in (
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ):
        expect((folder / "q" / file).read_bytes() == (source / file).read_bytes(), f"{file} is not copied")
    chosen = quantize(source, folder / "one", components=["text_encoder"])
    expect([layer["component"] for layer in chosen["layers"]] == ["text_encoder"], "--components does not choose")
    message = refused(
        lambda: quantize(source, folder / "no", components=["unet"]), "configuration", "transformer_2", folder=folder
    )
    return f"both denoisers quantized, the other parts copied; --components chooses; a wrong one: {message}"


def snapshot(folder: pathlib.Path) -> str:
    make_model(folder / "blobs", {NAME: normal(16, 64)}, file="0123abcd")
    source = folder / "snapshots"
    source.mkdir()
    (source / "model.safetensors").symlink_to(os.path.join("..", "blobs", "0123abcd"))
    expect(NAME in layers(quantize(source, folder / "q")), "not followed")
    (folder / "blobs" / "0123abcd").unlink()
    message = refused(
        lambda: quantize(source / "model.safetensors", folder / "p"), "model_not_found", "0123abcd", folder=folder
    )
    refused(lambda: quantize(source, folder / "p"), "model_not_found", "model.safetensors", folder=folder)
    return f"followed; dangling: {message}"


def names_beyond_ascii(folder: pathlib.Path) -> str:
    source = make_model(folder / "größe 1", {NAME: normal(16, 64)}, {"note": "Übung 数"})
    run = command("quantize", source, folder / "aus gabe", "--mode", "base", "--json", environment={"LC_ALL": "C"})
    expect(run.returncode == 0, run.stderr.strip())
    config = json.loads((folder / "aus gabe" / "config.json").read_text(encoding="utf-8"))
    expect(config["note"] == "Übung 数", f"config.json says {config['note']!r}")
    return "read and written, also under LC_ALL=C; the text of config.json is unchanged"


def older_parquet(folder: pathlib.Path) -> str:
    codes = np.random.default_rng(0).integers(0, 256, (32, 64), dtype=np.uint8)
    row = {
        "layer_name": NAME, "shape": [32, 64], "dtype": "float32", "data": codes.tobytes(), "num_params": 2048,
        "quant_type": "int8", "scales": [0.5], "zero_points": [3.25], "is_diffusion_model": True, "modality": "text",
    }  # fmt: skip
    types = {
        "shape": pa.list_(pa.uint64()), "data": pa.large_binary(), "num_params": pa.uint64(),
        "scales": pa.list_(pa.float32()), "zero_points": pa.list_(pa.float32()),
    }  # fmt: skip
    schema = pa.schema([(k, types.get(k, pa.bool_() if k[:2] == "is" else pa.string())) for k in row])
    (folder / "m").mkdir()
    pq.write_table(pa.Table.from_pylist([row], schema), folder / "m" / "x.parquet")
    result = ArrowQuantV2().quantize_diffusion_model(
        folder / "m", folder / "q", DiffusionQuantConfig(bit_width=4, min_accuracy=0.0)
    )
    expect(result["warnings"] and result["modality"] == "text", f"warnings: {result['warnings']}")
    message = refused(
        lambda: quantize(folder / "m", folder / "8", bit_width=8), "unsupported", "convert", folder=folder
    )
    return f"rounded again, with a warning: {result['warnings'][0]} At 8 bits: {message}"


def unknown_modality(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {"a.weight": normal(16, 64)})
    return refused(
        lambda: ArrowQuantV2().quantize_diffusion_model(source, folder / "q"), "metadata", "modality", folder=folder
    )


def no_model(folder: pathlib.Path) -> str:
    message = refused(lambda: quantize(folder / "nowhere", folder / "q"), "model_not_found", "nowhere", folder=folder)
    (folder / "empty").mkdir()
    other = refused(lambda: plan(folder / "empty"), "model_not_found", "empty", folder=folder)
    return f"{message} An empty directory: {other}"


def nothing_dropped(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {NAME: normal(16, 64), "norm.weight": normal(64)}, {"a": 1})
    for name in ("tokenizer.json", "README.md"):
        (source / name).write_text("{}")
    result = quantize(source, folder / "q")
    expect((folder / "q" / "tokenizer.json").exists(), "tokenizer.json is not copied")
    expect(stored(folder / "q").keys() == {NAME, "norm.weight"} and kept(result), "a tensor is lost")
    return "every tensor is in the output, every other file copied"
