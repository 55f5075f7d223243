"""Whole models: quantize, read back, validate, cancel."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    CorruptFileError,
    DiffusionQuantConfig,
    MetadataError,
    ModelNotFoundError,
    QuantizationError,
    QuantizedModel,
    ValidationError,
)
from arrow_quant_v2.safetensors_source import SafetensorsSource
from helpers import digest, write_safetensors, write_sparse_model

BASE = ArrowQuantV2("base")


def small_model(path: pathlib.Path, **extra: np.ndarray) -> pathlib.Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        "blocks.0.attn.to_q.weight": rng.standard_normal((48, 70)).astype(np.float32),
        "blocks.0.attn.to_q.bias": rng.standard_normal(48).astype(np.float32),
        "blocks.0.ff.fc1.weight": rng.standard_normal((8, 4304)).astype(np.float16),
        "blocks.0.norm.weight": np.ones(48, np.float64),
        "step": np.array(7, np.int64),
        "none": np.zeros((2, 0), np.float32),
        **extra,
    }
    write_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256, -1])
@pytest.mark.parametrize("name", ["dit_mnist", "mdlm_code", "ddpm_mnist"])
def test_every_tensor_comes_back(shared_models, tmp_path, name, bits, group):
    source = shared_models / name
    result = BASE.quantize(source, tmp_path / "q", bits, group)
    original = SafetensorsSource(source)
    names = original.names()
    for tensor in QuantizedModel(tmp_path / "q"):
        names.remove((tensor.component, tensor.name))
        before = original.read((tensor.component, tensor.name))
        assert tensor.shape == before.shape
        assert tensor.dtype == before.dtype
        if not tensor.quantized:
            assert tensor.data.tobytes() == before.data.tobytes()
            assert tensor.reason
    assert not names
    check = BASE.validate_quality(source, tmp_path / "q")
    assert check["passed"]
    # Computed once in the core and once from the files, in other orders of summation.
    assert check["cosine_similarity"] == pytest.approx(result["cosine_similarity"], abs=1e-9)
    assert check["bits_per_weight"] == pytest.approx(result["bits_per_weight"])


@pytest.mark.parametrize(("name", "count"), [("dit_mnist", 42), ("mdlm_code", 24)])
def test_block_linears_are_quantized(shared_models, name, count):
    assert len(ArrowQuantV2().plan(shared_models / name)["layers"]) == count


def test_tails_scalars_and_empty_tensors(tmp_path):
    source = small_model(tmp_path / "m")
    result = BASE.quantize(source, tmp_path / "q", 4, 128)
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["blocks.0.ff.fc1.weight"]["tail"] == 4304 % 128
    assert layers["blocks.0.attn.to_q.weight"]["group_size"] == 70
    stored = {t.name: t for t in QuantizedModel(tmp_path / "q")}
    assert stored["step"].shape == ()
    assert stored["none"].shape == (2, 0)
    assert all(kept["reason"] for kept in result["kept"])


def test_same_bytes_for_one_and_two_threads(tmp_path, demo_model):
    for threads in (1, 2):
        config = DiffusionQuantConfig(num_threads=threads)
        ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / str(threads), config, calibration="none")
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_fallback_is_recorded(tmp_path):
    source = small_model(tmp_path / "m")
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.99)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config)
    assert result["layers_fallen_back"] == 2
    assert {(f["from_bits"], f["to_bits"]) for f in result["fallbacks"]} >= {(2, 4)}
    assert all("min_accuracy" in f["cause"] for f in result["fallbacks"])
    assert all(layer["cosine"] >= 0.99 for layer in result["layers"])


def test_an_impossible_threshold_keeps_layers(tmp_path):
    source = small_model(tmp_path / "m")
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", DiffusionQuantConfig(bit_width=2, min_accuracy=1.0))
    assert result["layers"] == []
    assert {f["to_bits"] for f in result["fallbacks"]} == {4, 8, 16}
    assert result["fallback_rate"] == {"min_max": 1.0}


def test_fail_fast_raises_and_leaves_nothing(tmp_path):
    source = small_model(tmp_path / "m")
    config = DiffusionQuantConfig(bit_width=2, min_accuracy=0.999, fail_fast=True)
    with pytest.raises(ValidationError, match="blocks"):
        BASE.quantize_diffusion_model(source, tmp_path / "q", config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite(tmp_path, value):
    bad = np.zeros((16, 16), np.float32)
    bad[3, 4] = value
    source = small_model(tmp_path / "m", **{"blocks.1.attn.to_k.weight": bad})
    with pytest.raises(QuantizationError, match=r"to_k\.weight.*index 52"):
        BASE.quantize(source, tmp_path / "q")
    config = DiffusionQuantConfig(on_nonfinite="keep", min_accuracy=0.0)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config)
    assert [k["name"] for k in result["kept"] if "NaN" in k["reason"]] == ["blocks.1.attn.to_k.weight"]


def test_output_is_not_overwritten(tmp_path):
    source = small_model(tmp_path / "m")
    BASE.quantize(source, tmp_path / "q")
    with pytest.raises(ValueError, match="overwrite"):
        BASE.quantize(source, tmp_path / "q")
    BASE.quantize(source, tmp_path / "q", 8, overwrite=True)
    assert {t.bits for t in QuantizedModel(tmp_path / "q")} == {0, 8}


def test_missing_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        BASE.quantize(tmp_path / "nowhere", tmp_path / "q")


def test_unknown_modality_names_the_option(tmp_path):
    path = tmp_path / "m"
    path.mkdir()
    write_safetensors(path / "model.safetensors", {"a.weight": np.ones((32, 32), np.float32)})
    with pytest.raises(MetadataError, match="modality"):
        ArrowQuantV2().quantize_diffusion_model(path, tmp_path / "q", calibration="none")


def test_truncated_result_is_refused(tmp_path):
    BASE.quantize(small_model(tmp_path / "m"), tmp_path / "q")
    file = tmp_path / "q" / "model.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match=r"model\.parquet"):
        list(QuantizedModel(tmp_path / "q"))


def test_metadata_and_side_files(tmp_path, demo_model):
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", calibration="none")
    assert (tmp_path / "q" / "scheduler" / "scheduler_config.json").exists()
    assert json.loads((tmp_path / "q" / "metadata.json").read_text())["modality"] == "image"
    assert json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]["bit_width"] == 4
    files = json.loads((tmp_path / "q" / "manifest.json").read_text())["files"]
    assert [f["path"] for f in files] == ["diffusion_pytorch_model.parquet"]


def test_progress_and_callback_errors(tmp_path, demo_model, caplog):
    seen: list[float] = []

    def callback(message: str, fraction: float) -> None:
        seen.append(fraction)
        raise RuntimeError("broken")

    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", progress_callback=callback, calibration="none")
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(caplog.records) == 1


def test_keyboard_interrupt_in_callback_stops(tmp_path, demo_model):
    def callback(message: str, fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ArrowQuantV2().quantize_diffusion_model(
            demo_model, tmp_path / "q", progress_callback=callback, calibration="none"
        )
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_within_a_second(tmp_path):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=32768)  # 8 GB
    script = "import sys; from arrow_quant_v2 import ArrowQuantV2; ArrowQuantV2('base').quantize(*sys.argv[1:], 4, 64)"
    run = subprocess.Popen([sys.executable, "-c", script, str(source), str(tmp_path / "q")], stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".q.partial")) and run.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, stderr = run.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr
    # A second for the run to stop, and as much for the interpreter to leave on a busy machine.
    assert time.monotonic() - start < 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arrow_quant_v2.cli.main", *arguments]
    env = {**os.environ, "COLUMNS": "200", "ARROW_QUANT_CALIBRATION": "none"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_command_line(tmp_path, demo_model):
    run = cli("quantize", str(demo_model), str(tmp_path / "q"), "--bits", "4", "--group-size", "64")
    assert run.returncode == 0, run.stderr
    assert "0 of 42 layers fell back" in run.stdout
    assert "100 %" in run.stderr
    assert json.loads(cli("inspect", str(tmp_path / "q"), "--json").stdout)["parquet_bytes"] > 0
    assert cli("validate", str(demo_model), str(tmp_path / "q")).returncode == 0
    assert cli("validate", str(demo_model), str(tmp_path / "q"), "--min-accuracy", "0.9999").returncode == 1


def test_exit_codes(tmp_path, demo_model):
    assert cli("quantize", str(demo_model), str(tmp_path / "q"), "--bits", "5").returncode == 2
    assert cli("quantize", str(demo_model), str(tmp_path / "q"), "--nonsense").returncode == 2
    run = cli("quantize", str(tmp_path / "nowhere"), str(tmp_path / "q"))
    assert run.returncode == 3
    assert "nowhere" in run.stderr
    assert "Traceback" not in run.stderr


def test_plan_writes_nothing(tmp_path, demo_model):
    run = cli("quantize", str(demo_model), str(tmp_path / "q"), "--plan", "--json")
    plan = json.loads(run.stdout)
    assert len(plan["layers"]) == 42
    measured = ("cosine_similarity", "sqnr_db", "quantization_time_s", "peak_memory_mb")
    assert {plan[key] for key in measured} == {None}  # a plan does not know them
    assert {layer[key] for layer in plan["layers"] for key in ("cosine", "sqnr_db", "output_cosine")} == {None}
    assert not (tmp_path / "q").exists()


def test_layer_bit_widths_and_sensitive_layers(tmp_path, demo_model):
    config = DiffusionQuantConfig(
        layer_bit_widths={"transformer_blocks.0.attn1.to_q": 8, r"ff\.net": 2, r"to_v\.weight$": 16},
        skip_sensitive_layers=True,
        sensitive_layer_names=["transformer_blocks.1.attn1.to_k.weight"],
        min_accuracy=0.0,
    )
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", config, calibration="none")
    bits = {t.name: t.bits for t in QuantizedModel(tmp_path / "q")}
    assert bits["transformer_blocks.0.attn1.to_q.weight"] == 8
    assert bits["transformer_blocks.3.ff.net.2.weight"] == 2
    assert bits["transformer_blocks.3.attn1.to_v.weight"] == 0
    assert bits["transformer_blocks.1.attn1.to_k.weight"] == 0
    assert bits["transformer_blocks.2.attn1.to_k.weight"] == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [("equalization", "balance"), ("smoothing", "shift"), ("hadamard", "block"), ("strategy_spatial", "always")],
)
def test_what_needs_activations_is_a_warning_without(tmp_path, demo_model, key, value):
    config = DiffusionQuantConfig(min_accuracy=0.0, **{key: value})
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", config, calibration="none")
    assert any("need activations" in warning for warning in result["warnings"])
    assert all(layer["spatial"] is None for layer in result["layers"])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"])
def test_every_float_type_is_quantized(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    types = {
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
        "F32": torch.float32, "F64": torch.float64,
    }  # fmt: skip
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).to(types[dtype])
    save_file({"blocks.0.attn.to_q.weight": weight}, tmp_path / "m.safetensors")
    BASE.quantize(tmp_path / "m.safetensors", tmp_path / "q", 8, 64)
    (stored,) = QuantizedModel(tmp_path / "q")
    # Half a step of 8 bits over a range of about 8, and the rounding of the scale.
    np.testing.assert_allclose(stored.dequantize(), weight.float().numpy(), atol=0.03)
    assert BASE.validate_quality(tmp_path / "m.safetensors", tmp_path / "q")["passed"]


def test_show_config(demo_model, tmp_path):
    run = cli("quantize", str(demo_model), str(tmp_path / "q"), "--profile", "edge", "--show-config", "--json")
    assert json.loads(run.stdout)["bit_width"] == 2
    assert not (tmp_path / "q").exists()
