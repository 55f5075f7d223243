"""Parquet models, older and ours, as input of quantize, plan and validate."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    CancelledError,
    CorruptFileError,
    DiffusionQuantConfig,
    QuantizedModel,
    UnsupportedModelError,
    convert,
)
from arrow_quant_v2.own_directory import own_directory
from helpers import digest, write_safetensors
from parquet_files import EXTENDED, PYTHON, RUST, rust_row, write_rows

BASE = ArrowQuantV2("base")
NAME = "blocks.0.attn.to_q.weight"
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (32, 64), dtype=np.uint8)
WEIGHTS = (CODES - np.float32(3.25)) * np.float32(0.5)


def v1(path: pathlib.Path) -> pathlib.Path:
    weight = RNG.standard_normal((32, 64)).astype(np.float16)
    row = {
        "layer_name": NAME,
        "shape": [32, 64],
        "dtype": "torch.float16",
        "data": weight.tobytes(),
        "num_params": 2048,
    }
    bias = {
        **row,
        "layer_name": "blocks.0.attn.to_q.bias",
        "shape": [64],
        "data": weight[0].tobytes(),
        "num_params": 64,
    }
    write_rows(path / "weights.parquet", PYTHON[:5], row, bias)
    (path / "metadata.json").write_text('{"modality": "code"}')
    return path


def python_v2(path: pathlib.Path) -> pathlib.Path:
    scales = np.float32([0.5] * 32).tobytes()
    row = {
        "layer_name": NAME, "shape": [32, 64], "dtype": "torch.float16", "data": CODES.tobytes(), "num_params": 2048,
        "quant_type": "int8", "scales": scales, "zero_points": np.zeros(32, np.float32).tobytes(), "quant_axis": 0,
        "group_size": 0,
    }  # fmt: skip
    write_rows(path / "weights.parquet", PYTHON, row)
    return path


def rust_v2(path: pathlib.Path) -> pathlib.Path:
    write_rows(path / "q.parquet", RUST, rust_row(NAME, CODES))
    return path


def extended(path: pathlib.Path) -> pathlib.Path:
    row = rust_row(NAME, CODES, is_diffusion_model=True, modality="text")
    bias = rust_row("blocks.0.attn.to_q.bias", CODES[0], is_diffusion_model=True, modality="text")
    raw = {"data": WEIGHTS[0].tobytes(), "quant_type": "none", "scales": [], "zero_points": []}
    write_rows(path / "q_weight.parquet", EXTENDED, row)
    write_rows(path / "q_bias.parquet", EXTENDED, {**bias, **raw})
    return path


def ours(path: pathlib.Path) -> pathlib.Path:
    source = path.parent / "float"
    source.mkdir()
    write_safetensors(source / "model.safetensors", {NAME: WEIGHTS, "norm.weight": np.ones(64, np.float32)})
    BASE.quantize(source, path, 8, 64)
    return path


QUANTIZED = [python_v2, rust_v2, extended, ours]


@pytest.mark.parametrize("make", QUANTIZED)
def test_a_quantized_model_is_rounded_again_with_a_warning(tmp_path, make):
    source = make(tmp_path / "m")
    before = {t.name: t for t in QuantizedModel(source)}
    result = BASE.quantize(source, tmp_path / "q", 4, 32)
    assert any("already quantized (1 tensor to 8 bits)" in w for w in result["warnings"])
    assert result["source_kind"] == "parquet"
    after = {t.name: t for t in QuantizedModel(tmp_path / "q")}
    assert after.keys() == before.keys()
    assert (after[NAME].layout, after[NAME].bits) == ("arrow_quant", 4)
    # Half a step of four bits over the range of a group.
    step = np.ptp(before[NAME].dequantize(), axis=1).max() / 15
    assert np.abs(after[NAME].dequantize() - before[NAME].dequantize()).max() <= step * 0.51
    assert result["compression_ratio"] == pytest.approx(
        QuantizedModel(source).parquet_bytes / QuantizedModel(tmp_path / "q").parquet_bytes
    )
    assert {p.name for p in tmp_path.iterdir()} <= {"m", "q", "float"}


@pytest.mark.parametrize("make", QUANTIZED)
@pytest.mark.parametrize("use", ["quantize", "plan"])
def test_nothing_to_gain_is_refused_with_the_remedy(tmp_path, make, use):
    source = make(tmp_path / "m")
    config = DiffusionQuantConfig(bit_width=8)
    act = {
        "plan": lambda: BASE.plan(source, config),
        "quantize": lambda: BASE.quantize_diffusion_model(source, tmp_path / "q", config),
    }[use]
    with pytest.raises(UnsupportedModelError, match=r"already quantized, to 8 bits") as caught:
        act()
    assert ("arrow-quant convert" in caught.value.remedy) == (make is not ours)
    assert caught.value.tensor == NAME
    assert not (tmp_path / "q").exists()


def test_values_that_were_never_quantized_are_quantized_without_a_warning(tmp_path):
    source = v1(tmp_path / "m")
    result = ArrowQuantV2().quantize_diffusion_model(source, tmp_path / "q", calibration="none")
    assert (result["warnings"], result["modality"]) == ([], "code")
    assert [layer["name"] for layer in result["layers"]] == [NAME]
    check = BASE.validate_quality(source, tmp_path / "q", 0.9)
    assert check["passed"]
    assert check["cosine_similarity"] == pytest.approx(result["cosine_similarity"], abs=1e-9)


@pytest.mark.parametrize("make", [v1, *QUANTIZED])
def test_validation_against_a_parquet_model(tmp_path, make):
    source = make(tmp_path / "m")
    result = BASE.quantize(source, tmp_path / "q", 4, 64)
    check = BASE.validate_quality(source, tmp_path / "q")
    assert check["passed"], check
    # ours is expanded to the type of the source, float16 for python_v2, before it is rounded again.
    assert check["cosine_similarity"] == pytest.approx(result["cosine_similarity"], abs=1e-6)
    assert check["compression_ratio"] == pytest.approx(result["compression_ratio"])


@pytest.mark.parametrize("make", [v1, *QUANTIZED])
def test_the_plan_is_what_is_done(tmp_path, make):
    source = make(tmp_path / "m")
    plan = BASE.plan(source)
    result = BASE.quantize(source, tmp_path / "q")
    same = ("name", "shape", "bits", "group_size", "tail", "stored_bytes")
    pick = [[{key: layer[key] for key in same} for layer in r["layers"]] for r in (plan, result)]
    assert pick[0] == pick[1]
    assert [k["name"] for k in plan["kept"]] == [k["name"] for k in result["kept"]]
    assert plan["warnings"] == result["warnings"]


def test_the_modality_comes_from_the_rows(tmp_path):
    result = ArrowQuantV2().quantize_diffusion_model(extended(tmp_path / "m"), tmp_path / "q", calibration="none")
    assert result["modality"] == "text"
    assert json.loads((tmp_path / "q" / "metadata.json").read_text())["modality"] == "text"


def test_two_runs_give_the_same_bytes(tmp_path):
    source = extended(tmp_path / "m")
    for name in ("a", "b"):
        BASE.quantize(source, tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_one_file_stands_for_its_directory(tmp_path):
    source = extended(tmp_path / "m")
    result = BASE.quantize(source / "q_weight.parquet", tmp_path / "q")
    assert len(result["layers"]) + len(result["kept"]) == 2


def test_progress_covers_both_parts_and_stopping_leaves_nothing(tmp_path):
    source = extended(tmp_path / "m")
    seen: list[float] = []
    BASE.quantize(source, tmp_path / "q", progress_callback=lambda _, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[0] < 0.2 < seen[-1] == 1.0
    with pytest.raises(CancelledError):
        BASE.quantize(source, tmp_path / "other", should_stop=lambda: True)
    with pytest.raises(ValueError, match="overwrite"):
        BASE.quantize(source, tmp_path / "q")
    assert {p.name for p in tmp_path.iterdir()} == {"m", "q"}


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    source = rust_v2(tmp_path / "m")
    abandoned, other = tmp_path / ".q.expanded-1", tmp_path / ".other.expanded-1"
    for folder in (abandoned, other):
        folder.mkdir()
        (folder / "rest").write_text("x")
    with own_directory(tmp_path, ".q.expanded-") as used:
        assert not abandoned.exists()
        BASE.quantize(source, tmp_path / "q", 4, 32)
        assert used.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"m", "q", ".other.expanded-1"}


def test_missing_weights_are_an_error_and_leave_nothing(tmp_path):
    row = rust_row("lost", CODES, data=b"", quant_type="none", scales=[], zero_points=[], is_diffusion_model=True)
    write_rows(tmp_path / "m" / "lost.parquet", EXTENDED, row)
    with pytest.raises(CorruptFileError, match="lost"):
        BASE.quantize(tmp_path / "m", tmp_path / "q")
    assert {p.name for p in tmp_path.iterdir()} == {"m"}


def test_a_disk_that_is_too_small_is_told_before(tmp_path, monkeypatch):
    import shutil

    source = extended(tmp_path / "m")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OSError, match="are needed"):
        BASE.quantize(source, tmp_path / "q")
    assert {p.name for p in tmp_path.iterdir()} == {"m"}


def test_convert_keeps_widths_and_refuses_our_own_layout(tmp_path):
    result = convert(extended(tmp_path / "m"), tmp_path / "new")
    assert (result["bit_width"], result["source_kind"]) == (8, "parquet")
    assert result["source_size_mb"] == QuantizedModel(tmp_path / "m").parquet_bytes / 1e6
    with pytest.raises(UnsupportedModelError, match="in this layout already"):
        convert(tmp_path / "new", tmp_path / "again")
    assert {p.name for p in tmp_path.iterdir()} == {"m", "new"}
