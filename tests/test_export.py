"""Export to safetensors and to the older Parquet, and the older Parquet layouts as input."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from arrow_quant_v2 import (
    ArrowQuantError,
    ArrowQuantV2,
    CorruptFileError,
    QuantizedModel,
    convert,
    export_safetensors,
    export_v2_extended,
)
from arrow_quant_v2.safetensors_source import SafetensorsSource
from helpers import write_safetensors
from parquet_files import EXTENDED, PYTHON, RUST, rust_row, write_rows

BASE = ArrowQuantV2("base")


def values(path: pathlib.Path) -> dict[str, np.ndarray]:
    source = SafetensorsSource(path)
    return {name: source.read((component, name)).to_float32() for component, name in source.names()}


@pytest.fixture
def quantized(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "größe und raum"
    source.mkdir()
    tensors = {
        "blocks.0.attn.to_q.weight": rng.standard_normal((24, 40)).astype(np.float32),
        "blocks.0.attn.to_q.bias": rng.standard_normal(24).astype(np.float16),
    }
    write_safetensors(source / "model.safetensors", tensors)
    (source / "config.json").write_text('{"note": "größer"}', encoding="utf-8")
    BASE.quantize(source, tmp_path / "q", 4, 16)
    return tmp_path / "q"


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_export_safetensors(quantized, tmp_path, dtype):
    (file,) = export_safetensors(quantized, tmp_path / "plain", dtype)
    assert file == tmp_path / "plain" / "model.safetensors"
    exported = values(tmp_path / "plain")
    stored = {t.name: t for t in QuantizedModel(quantized)}
    want = stored["blocks.0.attn.to_q.weight"].dequantize()
    # bfloat16 keeps 8 significant bits, float16 11, float32 all.
    tolerance = {None: 0, "float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(exported["blocks.0.attn.to_q.weight"], want, rtol=tolerance)
    assert exported["blocks.0.attn.to_q.bias"].shape == (24,)
    config = json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))
    assert config == {"note": "größer"}


def test_exported_file_opens_with_the_safetensors_library(quantized, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    (file,) = export_safetensors(quantized, tmp_path / "plain", "float32")
    assert numpy.load_file(file).keys() == {"blocks.0.attn.to_q.weight", "blocks.0.attn.to_q.bias"}


def test_shards_are_exported_as_shards(tmp_path):
    source = tmp_path / "m"
    source.mkdir()
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for i, file in enumerate(names):
        write_safetensors(source / file, {f"blocks.{i}.attn.to_q.weight": np.ones((16, 16), np.float32)})
    weight_map = {f"blocks.{i}.attn.to_q.weight": file for i, file in enumerate(names)}
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    BASE.quantize(source, tmp_path / "q")
    assert {p.name for p in (tmp_path / "q").glob("*.parquet")} == {n.replace("safetensors", "parquet") for n in names}
    files = export_safetensors(tmp_path / "q", tmp_path / "plain")
    assert {f.name for f in files} == set(names)
    assert json.loads((tmp_path / "plain" / index.name).read_text())["weight_map"] == weight_map
    assert values(tmp_path / "plain").keys() == weight_map.keys()


def test_export_for_older_readers(quantized, tmp_path):
    result = export_v2_extended(quantized, tmp_path / "old")
    assert result["files"] == 2
    file = tmp_path / "old" / "blocks_0_attn_to_q_weight.parquet"
    row = pq.read_table(file).to_pylist()[0]
    assert row["quant_type"] == "int8"
    assert len(row["data"]) == row["num_params"] == 960
    # The older reader's rule: rows of group_size share a scale; weight = (code - zero_point) * scale.
    codes = np.frombuffer(row["data"], np.uint8).reshape(24, 40).astype(np.float64)
    scales = np.repeat(row["scales"], row["group_size"])[:, None]
    zeros = np.repeat(row["zero_points"], row["group_size"])[:, None]
    want = {t.name: t for t in QuantizedModel(quantized)}["blocks.0.attn.to_q.weight"].dequantize()
    assert np.abs((codes - zeros) * scales - want).max() <= result["max_error"] + 1e-6
    assert result["max_error"] <= np.ptp(want, axis=1).max() / 509
    again = {t.name: t for t in QuantizedModel(tmp_path / "old")}
    assert again["blocks.0.attn.to_q.weight"].layout == "v2_extended"
    np.testing.assert_allclose(
        again["blocks.0.attn.to_q.weight"].dequantize(), (codes - zeros) * scales, rtol=1e-5, atol=1e-6
    )


def only(path: pathlib.Path) -> np.ndarray:
    (tensor,) = QuantizedModel(path)
    assert tensor.quantized
    return tensor.dequantize()


def test_v1_raw_values(tmp_path):
    weight = np.arange(6, dtype=np.float16).reshape(2, 3)
    row = {"layer_name": "a", "shape": [2, 3], "dtype": "torch.float16", "data": weight.tobytes(), "num_params": 6}
    write_rows(tmp_path / "m" / "weights.parquet", PYTHON[:5], row)
    (tensor,) = QuantizedModel(tmp_path / "m")
    assert (tensor.layout, tensor.dtype, tensor.shape) == ("v1", "float16", (2, 3))
    assert tensor.data.tobytes() == weight.tobytes()


def test_python_v2_int2_is_packed_low_bits_first(tmp_path):
    codes = np.array([[-2, -1, 0, 1], [1, 0, -1, -2]])
    unsigned = (codes.ravel() + 2).astype(np.uint8)
    data = bytes(sum(int(c) << (2 * i) for i, c in enumerate(unsigned[k : k + 4])) for k in (0, 4))
    row = {
        "layer_name": "a", "shape": [2, 4], "dtype": "torch.float16", "data": data, "num_params": 8,
        "quant_type": "int2", "scales": np.float32([0.25]).tobytes(), "zero_points": np.float32([0]).tobytes(),
        "quant_axis": -1, "group_size": 0,
    }  # fmt: skip
    write_rows(tmp_path / "m" / "weights.parquet", PYTHON, row)
    np.testing.assert_array_equal(only(tmp_path / "m"), codes * np.float32(0.25))


def test_rust_v2_per_tensor(tmp_path):
    codes = np.arange(8, dtype=np.uint8).reshape(2, 4)
    write_rows(tmp_path / "m" / "fc.parquet", RUST, rust_row("fc", codes))
    np.testing.assert_array_equal(only(tmp_path / "m"), (codes - np.float32(3.25)) * np.float32(0.5))


def test_extended_spatial_row_groups(tmp_path):
    codes = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    spatial = '{"enabled":true,"channel_equalization":false,"activation_smoothing":false,"equalization_scales":[]}'
    row = rust_row("a.b", codes, scales=[1.0, 2.0], zero_points=[0.0, 1.5], group_size=2, is_diffusion_model=True)
    write_rows(tmp_path / "m" / "a_b.parquet", EXTENDED, {**row, "modality": "image", "spatial_quant_json": spatial})
    want = np.concatenate([codes[:2].astype(np.float32), (codes[2:] - np.float32(1.5)) * 2])
    np.testing.assert_array_equal(only(tmp_path / "m"), want)


def test_extended_time_groups_are_positions(tmp_path):
    codes = np.arange(10, dtype=np.uint8).reshape(2, 5)
    groups = [
        {"time_range": [i * 100, i * 100 + 100], "scale": 1.0, "zero_point": 0.0, "group_size": 64} for i in (0, 1)
    ]
    time = json.dumps({"enabled": True, "num_time_groups": 2, "time_group_params": groups})
    row = rust_row("a", codes, scales=[1.0, 10.0], zero_points=[0.0, 1.0], is_diffusion_model=True, modality="text")
    write_rows(tmp_path / "m" / "a.parquet", EXTENDED, {**row, "time_aware_quant_json": time})
    want = codes.astype(np.float32).ravel()
    want[5:] = (want[5:] - 1) * 10
    np.testing.assert_array_equal(only(tmp_path / "m").ravel(), want)


def test_empty_data_is_an_error_unless_a_bin_file_has_it(tmp_path):
    row = rust_row("a", np.zeros((2, 3), np.uint8), data=b"", quant_type="none", scales=[], zero_points=[])
    write_rows(tmp_path / "m" / "a.parquet", EXTENDED, {**row, "is_diffusion_model": True})
    with pytest.raises(CorruptFileError, match="a"):
        list(QuantizedModel(tmp_path / "m"))
    weight = np.arange(6, dtype=np.float32)
    (tmp_path / "m" / "a.bin").write_bytes(weight.tobytes())
    (tensor,) = QuantizedModel(tmp_path / "m")
    assert tensor.data.tobytes() == weight.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"data": b"123"}, {"num_params": 9}, {"shape": [3, 3]}, {"quant_type": "int16"}, {"scales": [float("nan")]},
        {"time_aware_quant_json": "{"}, {"scales": [1.0, 2.0, 3.0], "zero_points": [0.0, 0.0, 0.0]},
    ],
)  # fmt: skip
def test_malformed_rows_are_typed_errors(tmp_path, change):
    row = {**rust_row("layer", np.zeros((2, 4), np.uint8)), "is_diffusion_model": True, **change}
    write_rows(tmp_path / "m" / "a.parquet", EXTENDED, row)
    with pytest.raises(ArrowQuantError, match=r"layer|a\.parquet"):
        list(QuantizedModel(tmp_path / "m"))


def test_convert(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (32, 64), dtype=np.uint8)
    row = rust_row("blocks.0.attn.to_q.weight", codes, is_diffusion_model=True, modality="text")
    write_rows(tmp_path / "m" / "x.parquet", EXTENDED, row)
    result = convert(tmp_path / "m", tmp_path / "new")
    assert result["modality"] == "text"
    (tensor,) = QuantizedModel(tmp_path / "new")
    assert (tensor.layout, tensor.bits, tensor.name) == ("arrow_quant", 8, "blocks.0.attn.to_q.weight")
    want = (codes - np.float32(3.25)) * np.float32(0.5)
    # Half a step of eight bits over the range of 127.5.
    assert np.abs(tensor.dequantize() - want).max() <= 0.26
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "new"]
