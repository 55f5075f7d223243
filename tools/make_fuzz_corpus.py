"""Write the seeds of the fuzz targets: small valid inputs of every kind, and one for each way of being malformed.

usage: make_fuzz_corpus.py [TARGET_DIR]     default tests/fuzz_corpus

Each target has a folder of its own. Files are named after their content, so that a second run changes nothing.
What fuzzing found (found_*) is left alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent


def entry(name: str = "a", dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def safetensors(header: Any, data: int = 8) -> bytes:
    """Length field, header (an object or text) and that many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"x" * data


def header_seeds() -> Iterable[bytes]:
    """Safetensors files: the attacks of header_test.cc, and what is valid."""
    yield from (b"", b"1234567", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    yield from (b"PK\x03\x04" + b"x" * 40, b"GGUF\x03\0\0\0" + b"x" * 40, b"<!DOCTYPE html><html>no</html>")
    for length in (2**64 - 1, 2**63, 100_000_001, 100_000_000, 3):
        yield struct.pack("<Q", length) + b"{}"
    for text in (b'{"\xff":1}', b"hello", b"", b'{"a":{', b"{}\0{}", b'{"\\ud800":{}}', b"[]", b"1", b"null", b" {}"):
        yield safetensors(text, 0)
    yield safetensors(b"[" * 200, 0)
    yield safetensors(b'{"a":{"extra":' + b"[" * 20 + b"]" * 20 + b"}}", 0)
    yield safetensors(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}')
    yield safetensors(b'{"__metadata__":{},"__metadata__":{}}', 0)
    for value in (1, [], None, {"shape": [2], "data_offsets": [0, 8]}):
        yield safetensors({"a": value})
    for dtype in ("F128", 3, "F4", "F8_E8M0", "BF16", "F8_E4M3", "BOOL", "C64"):
        yield safetensors(entry(dtype=dtype))
    shapes = (2, None, [-2], [2.0], ["2"], [[2]], [1] * 65, [2**32, 2**32], [2**61], [2**64 - 1], [10**20])
    for shape in (*shapes, [0, 2**63 - 1, 2**63 - 1]):
        yield safetensors(entry(shape=shape))
    for offsets in ((8, 0), (-8, 0), (0, 8.0), (8,), (0, 8, 8), {}, (0, 12), (0, 2**64 - 1), (4, 12)):
        yield safetensors(entry(offsets=offsets))
    yield safetensors({**entry(), **entry("b", offsets=(4, 12))}, 12)
    yield safetensors({**entry(), **entry("b", shape=[], offsets=(8, 12))}, 12)
    yield safetensors({**entry(), **entry("b", shape=[0], offsets=(8, 8)), "__metadata__": {"format": "pt"}})
    for metadata in ([], "pt", {"a": 1}, {"a": {}}, None):
        yield safetensors({"__metadata__": metadata}, 0)


def index_seeds() -> Iterable[bytes]:
    """Indexes beside a.safetensors (tensors a, b) and c.safetensors (tensor c), and names of weight files."""
    good = {"a": "a.safetensors", "b": "a.safetensors", "c": "c.safetensors"}
    maps: list[Any] = [
        good, {}, [], {"a": 1}, {"a": ""}, {"a": "../a.safetensors"}, {"a": "x/../../a.safetensors"},
        {"a": "..\\a.safetensors"}, {"a": "/etc/passwd"}, {"a": "C:\\a.safetensors"}, {"a": "a.safetensors\0"},
        {"a": "pytorch_model.bin"}, {"a": "a.safetensors"}, {**good, "d": "c.safetensors"}, {"c": "./c.safetensors"},
        {"c": "missing.safetensors"}, {"c": "."},
    ]  # fmt: skip
    for weight_map in maps:
        yield json.dumps({"metadata": {"total_size": 16, "modality": "audio"}, "weight_map": weight_map}).encode()
    yield from (b"", b"{}", b"[]", b"null", b'{"weight_map":', b'{"weight_map":{"a":"a","a":"a"}}', b"\xff")
    yield b"[" * 200
    yield b"version https://git-lfs.github.com/spec/v1\n"
    yield from (b"model.safetensors", b"model.fp16-00001-of-00002.safetensors", b"model.safetensors.index.fp16.json")
    yield from (b"model-00003-of-00002.safetensors", b"a-of-b.safetensors", b".safetensors", b"-00001-of-00001.bin")


def config_values() -> list[dict[str, Any]]:
    """Configurations that are valid, out of range, of another type and contradictory."""
    return [
        {}, {"bit_width": 4, "group_size": 64, "deployment_profile": "edge"}, {"bit_width": "4"}, {"bit_width": 2**64},
        {"bit_width": None}, {"bitwidth": 4}, {"group_size": 100}, {"min_accuracy": 1.5}, {"modality": "audio"},
        {"keep_patterns": ["norm", "attn\\.to_[qkv]"]}, {"keep_patterns": ["a(b"]}, {"keep_patterns": ["(a)\\1"]},
        {"keep_patterns": ["(a?){90}"]}, {"keep_patterns": ["(" * 300]}, {"keep_patterns": "norm"},
        {"quantize_patterns": ["[a-z]{1,3}$"]}, {"transposed_patterns": ["(?=a)|^b*?"]},
        {"layer_bit_widths": {"z.*": 8, "a.*": 2, "m": 16}}, {"layer_bit_widths": {"a": 5}},
        {"layer_bit_widths": {"[": 4}}, {"time_weighting": [0, 1, 2.5], "num_time_groups": 3},
        {"time_weighting": [1, 2]}, {"time_weighting": "uniform"}, {"rounding": "ldlq", "calibration": "none"},
        {"grid": "residual_binary", "bit_width": 2}, {"thermodynamic": {"boundary_smoothing": {"window_size": 7}}},
        {"thermodynamic.validation.enabled": True}, {"thermodynamic": True}, {"target_size_mb": None},
        {"components": ["unet", "transformer"], "variant": "fp16", "on_nonfinite": "keep", "fit": "fitted"},
        {"skip_sensitive_layers": True, "sensitive_layer_names": ["a.b"], "sensitive_layer_patterns": ["c$"]},
    ]  # fmt: skip


def config_seeds() -> Iterable[bytes]:
    """JSON texts of configurations."""
    yield from (json.dumps(value).encode() for value in config_values())
    yield from (b"", b"[]", b"{", b'{"seed": NaN}', b'{"variant": "\xff"}', b'{"seed": 1, "seed": 2}')
    yield b'{"variant": "\\ud800"}'
    yield b'{"seed": ' + b"[" * 100
    yield b'{"diffusion": false, "overwrite": true, "bit_width": 8}'


def yaml_seeds() -> Iterable[bytes]:
    """YAML texts of configurations; what the loader refuses is taken from test_config_sources.py."""
    # JSON is YAML, so its cases are YAML's, too.
    yield from (json.dumps(value).encode() for value in config_values())
    yield from (
        b"bit_width: 4\ngroup_size: 64\nkeep_patterns:\n  - norm\n", b"# nothing\n", b"\xef\xbb\xbfbit_width: 8\n",
        b"seed: \x00\n", b'variant: "\\ud800"\n', b"a: &x 1\nb: *x\n", b"seed: !!python/object:os.system x\n",
        b"seed: 1\nseed: 2\n", b"- a\n- b\n", b"seed: 1\n---\nseed: 2\n", b"? [a, b]\n: 1\n", b"seed: 0x10\n",
        b"min_accuracy: .5\n", b"min_accuracy: 1e-4\n", b"min_accuracy: .nan\n", b"modality: yes\n", b"<<: {a: 1}\n",
        b"seed: {" + b"a: {" * 40, b"variant: |\n  text\n  more\n", b"variant: >-\n  text\n",
        b"%YAML 1.2\n---\nseed: 1\n",
        b"thermodynamic:\n  validation:\n    enabled: true\n", b"seed: !!int '12'\n", b"\tseed: 1\n", b"seed: 'a\n",
        ("a" * 99 + "\u20ac: 1\n").encode(),
    )  # fmt: skip


LAYOUT_V1 = [
    ("layer_name", pa.string()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string()), ("data", pa.binary()),
    ("num_params", pa.int64()),
]  # fmt: skip
LAYOUT_PYTHON = [
    *LAYOUT_V1, ("quant_type", pa.string()), ("scales", pa.binary()), ("zero_points", pa.binary()),
    ("quant_axis", pa.int32()), ("group_size", pa.int32()),
]  # fmt: skip
LAYOUT_RUST = [
    *LAYOUT_V1, ("quant_type", pa.string()), ("scales", pa.list_(pa.float32())),
    ("zero_points", pa.list_(pa.float32())), ("quant_axis", pa.uint64()), ("group_size", pa.uint64()),
]  # fmt: skip
LAYOUT_EXTENDED = [
    *LAYOUT_RUST, ("is_diffusion_model", pa.bool_()), ("modality", pa.string()),
    ("time_aware_quant_json", pa.string()), ("spatial_quant_json", pa.string()),
]  # fmt: skip
LAYOUT_OURS = [
    *LAYOUT_EXTENDED, ("bits", pa.int32()), ("packing", pa.string()), ("grid", pa.string()),
    ("zero_point_kind", pa.string()), ("row_rank", pa.int32()), ("row_begin", pa.uint64()),
    ("row_count", pa.uint64()), ("residual_scales", pa.list_(pa.float32())), ("method", pa.string()),
    ("reason", pa.string()), ("component", pa.string()), ("report_json", pa.string()),
]  # fmt: skip


def parquet(fields: list[tuple[str, pa.DataType]], *rows: dict[str, Any], **options: Any) -> bytes:
    """A Parquet file of the rows; plain pages without statistics, so that mutations reach the cells."""
    sink = io.BytesIO()
    settings = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(fields)), sink, **{**settings, **options})
    return sink.getvalue()


def row(name: str = "a", **cells: Any) -> dict[str, Any]:
    """A raw float32 tensor of 2 x 2, with the given cells instead."""
    base = {"layer_name": name, "shape": [2, 2], "dtype": "float32", "data": bytes(16), "num_params": 4}
    return {**base, **cells}


def our_row(**cells: Any) -> dict[str, Any]:
    """A row of our layout: 2 x 4 weights of 4 bits, group size 4."""
    ours = {
        "shape": [2, 4], "num_params": 8, "data": b"\x10\x32\x54\x76", "quant_type": "int4", "bits": 4,
        "packing": "lsb", "grid": "affine", "zero_point_kind": "float", "row_rank": 1, "row_begin": 0, "row_count": 2,
        "scales": [1.0, 2.0], "zero_points": [0.0, 1.0], "quant_axis": 0, "group_size": 4, "method": "min_max",
        "reason": "", "component": "", "report_json": "{}", "is_diffusion_model": True, "residual_scales": [],
    }  # fmt: skip
    return row(**{**ours, **cells})


def parquet_seeds() -> Iterable[bytes]:
    """Models of all layouts, valid and malformed."""
    codes = {"data": b"\x01\x02\x03\x00", "quant_type": "int4", "group_size": 2, "quant_axis": 0}
    listed = {**codes, "scales": [1.0, 2.0], "zero_points": [0.0, 1.0]}
    packed = {**codes, "scales": struct.pack("<2f", 1, 2), "zero_points": struct.pack("<2f", 0, 1)}
    whole = parquet(LAYOUT_V1, row(), row("b"))
    yield whole
    yield from (whole[:-20], whole[:100], b"PAR1", b"PAR1" + bytes(8) + b"PAR1", b"version https://git-lfs")
    yield parquet(LAYOUT_V1, row(shape=[2, 3]), compression="zstd")
    yield parquet(LAYOUT_V1, row(data=b""))
    yield parquet(LAYOUT_PYTHON, row(**packed), write_page_checksum=True)
    yield parquet(LAYOUT_PYTHON, row(**{**packed, "scales": b"abc"}))
    yield parquet(LAYOUT_RUST, row(**{**listed, "data": b"\x21\x03"}), use_dictionary=True)
    yield parquet(LAYOUT_EXTENDED, row(**listed, time_aware_quant_json='{"num_time_groups": 2}'))
    yield parquet(LAYOUT_EXTENDED, row(**{**listed, "scales": [1.0, None]}))
    yield parquet(LAYOUT_OURS, our_row())
    yield parquet(LAYOUT_OURS, our_row(bits=5))
    parts = [our_row(shape=[9, 4], num_params=36, row_begin=8, row_count=1, data=b"\x10\x32", scales=[1.0],
                     zero_points=[0.0])]  # fmt: skip
    parts.append(our_row(shape=[9, 4], num_params=36, row_count=8, data=bytes(16), scales=[1.0] * 8,
                         zero_points=[0.0] * 8))  # fmt: skip
    yield parquet(LAYOUT_OURS, *parts, row_group_size=1)


def row_seeds() -> Iterable[bytes]:
    """Inputs of the row target mean nothing by themselves; these are long enough for every column."""
    yield from (b"", bytes(2000), bytes(range(256)) * 8, b"\xff" * 2000)


SEEDS = {
    "header": header_seeds,
    "checkpoint": index_seeds,
    "config": config_seeds,
    "yaml": yaml_seeds,
    "model_reader": parquet_seeds,
    "record_row": row_seeds,
}


def main(arguments: list[str]) -> int:
    """Write the seeds of all targets."""
    target = Path(arguments[0]) if arguments else ROOT / "tests" / "fuzz_corpus"
    for name, seeds in SEEDS.items():
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed_*"):
            old.unlink()
        for seed in seeds():
            (folder / f"seed_{hashlib.sha256(seed).hexdigest()[:12]}").write_bytes(seed)
        files = list(folder.iterdir())
        print(f"{name}: {len(files)} files, {sum(file.stat().st_size for file in files)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
