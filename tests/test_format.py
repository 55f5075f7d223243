"""docs/format.md: a reader of pyarrow and numpy alone gives what ours gives, and files are as it says."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel, quantize_layer
from arrow_quant_v2._native import core
from helpers import write_safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "format.md"
BASE = ArrowQuantV2("base")
KEPT = {
    "float32": np.float32, "float16": np.float16, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2, "int64": np.int64, "bool": np.bool_,
}  # fmt: skip


def reader():
    spec = importlib.util.spec_from_file_location("read_with_pyarrow", ROOT / "examples" / "read_with_pyarrow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def every_byte(dtype: type) -> np.ndarray:
    """All values of an 8-bit type; of the others, values of all sizes."""
    if np.dtype(dtype).itemsize == 1 and dtype is not np.bool_:
        return np.arange(256, dtype=np.uint8).view(dtype)
    values = np.random.default_rng(0).standard_normal(256) * np.logspace(-3, 3, 256)
    return values.astype(dtype)


def source(path: pathlib.Path) -> pathlib.Path:
    """Linear layers with and without a short last group, convolutions, experts, and kept tensors of every type."""
    path.mkdir()
    rng = np.random.default_rng(0)
    shapes = {
        "blocks.0.attn.to_q.weight": (48, 70), "blocks.0.ff.fc1.weight": (24, 128),
        "blocks.0.conv.weight": (16, 8, 3, 3), "blocks.0.upsample.conv_transpose.weight": (16, 24, 4),
        "blocks.0.mlp.experts.gate_up_proj": (3, 32, 64),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {f"kept.{name}.bias": every_byte(dtype) for name, dtype in KEPT.items()}
    tensors |= {"step": np.array(7, np.int64), "none": np.zeros((2, 0), np.float32)}
    write_safetensors(path / "model.safetensors", tensors)
    return path


def equal_to_ours(folder: pathlib.Path) -> None:
    tensors = reader().read(folder)
    model = QuantizedModel(folder)
    assert set(tensors) == {(stored.component, stored.name) for stored in model.entries}
    for stored in model:
        values = tensors[stored.component, stored.name]
        expected = stored.dequantize() if stored.quantized else stored.data.view(KEPT[stored.dtype])
        if stored.dtype == "bfloat16" or "float8" in stored.dtype:
            expected = expected.astype(np.float32)
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected.reshape(stored.shape), err_msg=stored.name)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, 64, -1])
def test_another_reader_gives_the_same_values(tmp_path, bits, group):
    BASE.quantize(source(tmp_path / "m"), tmp_path / "q", bits, group)
    equal_to_ours(tmp_path / "q")
    kinds = {(t.dtype, t.quantized) for t in QuantizedModel(tmp_path / "q").entries}
    assert kinds >= {(name, False) for name in KEPT}


@pytest.mark.parametrize("grid", ["affine", "residual_binary"])
@pytest.mark.parametrize("column_scales", [False, True])
def test_of_grids_and_column_scales_too(tmp_path, grid, column_scales):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 70)) * np.logspace(0, 2, 70)
    layer = quantize_layer(
        rng.standard_normal((48, 70)), inputs.T @ inputs / 200, 2, 32, grid, column_scales=column_scales
    )
    core.write_layer(
        str(tmp_path / "l.parquet"), "l", [48, 70], 2, layer.group_size, grid, layer.codes, layer.scales.ravel(),
        layer.zero_points.ravel(), layer.residual_scales.ravel(), layer.column_scales,
    )  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [{"path": "l.parquet"}]}))
    np.testing.assert_array_equal(reader().read(tmp_path)["", "l"], layer.dequantize())
    assert (layer.column_scales.size > 0) is column_scales


def test_of_tensors_in_several_parts(tmp_path):
    """A quantized and a kept tensor above 16 MiB are cut into parts of whole rows."""
    weight = np.tile(np.random.default_rng(0).standard_normal((1, 4100)).astype(np.float32), (4100, 1))
    large = {"blocks.0.attn.to_q.weight": weight, "embed_tokens.weight": weight[:2050].astype(np.float16)}
    write_safetensors(tmp_path / "m.safetensors", large)
    BASE.quantize(tmp_path / "m.safetensors", tmp_path / "q", 8, -1)
    (file,) = (tmp_path / "q").glob("*.parquet")
    assert pq.read_metadata(file).num_rows > 2
    equal_to_ours(tmp_path / "q")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, demo_model):
    """Both grids, column scales, and time-aware tables of inputs and outputs."""
    config = DiffusionQuantConfig(
        bit_width=2, group_size=64, min_accuracy=0.0, calibration_samples=2, grid="residual_binary",
        layer_bit_widths={r"attn1\.to_q": 4, r"ff\.net": 3}, num_time_groups=2, strategy_time_aware="always",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("calibrated") / "q"
    ArrowQuantV2().quantize_diffusion_model(demo_model, folder, config)
    return folder


def test_of_a_calibrated_model_too(calibrated):
    equal_to_ours(calibrated)
    entries = list(QuantizedModel(calibrated))
    assert {t.grid for t in entries if t.quantized} == {"affine", "residual_binary"}
    assert any(t.column_scales.size for t in entries)
    assert any(t.time_scales.size for t in entries)


def test_of_a_rotated_model_too(tmp_path, demo_model):
    config = DiffusionQuantConfig(
        bit_width=3, group_size=64, min_accuracy=0.0, calibration_samples=2, hadamard="block", equalization="balance",
        activation_bits=8,
    )  # fmt: skip
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", config)
    equal_to_ours(tmp_path / "q")
    rotated = [t for t in QuantizedModel(tmp_path / "q") if t.rotation_seed is not None]
    assert rotated
    assert any(t.column_scales.size for t in rotated)
    assert json.loads((tmp_path / "q" / "manifest.json").read_text())["format_version"] == 2


def test_columns_are_as_documented(calibrated):
    """The table of columns in the page is the schema of the file."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| (yes|no) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (file,) = calibrated.glob("*.parquet")
    schema = pq.read_schema(file)
    assert rows == [(field.name, type_name(field.type), "yes" if field.nullable else "no") for field in schema]


def type_name(kind: pa.DataType) -> str:
    names = {"large_binary": "large binary", "string": "text", "float": "float32", "double": "float64"}
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return names.get(str(kind), str(kind))


def test_the_manifest_is_as_documented(calibrated):
    manifest = json.loads((calibrated / "manifest.json").read_text())
    keys = ["format", "format_version", "product_version", "fingerprints", "files", "extra"]
    assert list(manifest) == keys
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in keys)
    assert (manifest["format"], manifest["format_version"]) == ("arrow-quant", 1)
    assert {entry["path"] for entry in manifest["files"]} == {p.name for p in calibrated.glob("*.parquet")}
    for entry in manifest["files"]:
        data = (calibrated / entry["path"]).read_bytes()
        assert (len(data), f"xxh64:{xxhash.xxh64_hexdigest(data)}") == (entry["bytes"], entry["checksum"])
    info = json.loads((calibrated / "config.json").read_text())["quantization_config"]
    assert json.loads((calibrated / "metadata.json").read_text())["quantization"] == info
    assert manifest["extra"] == {"format": "parquet_v2_extended", "quantization": info}
    assert all(f"`{key}`" in text for key in info)


def test_tables_of_time_groups_have_the_documented_lengths(calibrated):
    """A time group of a layer has one range for each block of its input channels."""
    for stored in QuantizedModel(calibrated):
        if not stored.time_scales.size or len(stored.shape) != 2:
            continue
        channels = stored.shape[1]
        assert len(stored.time_boundaries) == len(stored.time_block_sizes) + 1
        assert stored.time_scales.size == sum(-(-channels // size) for size in stored.time_block_sizes)
        assert stored.time_zero_points.min() >= 0
        assert stored.time_zero_points.max() <= 255


def test_of_a_pipeline_too(tmp_path, monkeypatch):
    """Parts lie in folders of their own, under one manifest; what is no denoiser is copied."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from tiny_models import tiny_pipeline

    config = DiffusionQuantConfig(modality="image", calibration="none", min_accuracy=0.0)
    ArrowQuantV2().quantize_diffusion_model(tiny_pipeline(tmp_path / "p"), tmp_path / "q", config)
    equal_to_ours(tmp_path / "q")
    assert {component for component, _ in reader().read(tmp_path / "q")} == {"unet"}
    assert (tmp_path / "q" / "model_index.json").read_bytes() == (tmp_path / "p" / "model_index.json").read_bytes()
    assert json.loads((tmp_path / "q" / "unet" / "config.json").read_text())["quantization_config"]
    (entry,) = json.loads((tmp_path / "q" / "manifest.json").read_text())["files"]
    assert entry["path"] == "unet/diffusion_pytorch_model.parquet"
