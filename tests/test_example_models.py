"""The models in examples/models: they quantize, load, run and calibrate themselves; the programs that made them run."""

from __future__ import annotations

import gzip
import json
import pathlib
import runpy
import sys
import wave

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel

torch = pytest.importorskip("torch")

from arrow_quant_v2.torch import load_quantized, synthetic  # noqa: E402
from arrow_quant_v2.torch.calibrate import load_float_model  # noqa: E402

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
MODELS = EXAMPLES / "models"
SHAPES = {"unet_digits": (2, 1, 16, 16), "unet1d_voice": (2, 1, 4096)}
MODALITIES = {"unet_digits": "image", "unet1d_voice": "audio"}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(synthetic, "TRAJECTORY_STEPS", 3)


def relative_error(want, got):
    return float((want - got).square().sum() / want.square().sum())


@torch.no_grad()
def predicted(model, name):
    x = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(1))
    return model(x, torch.tensor([900, 100])).sample


@pytest.mark.parametrize("name", SHAPES)
def test_model_quantizes_loads_and_runs(name, tmp_path):
    want = predicted(load_float_model(MODELS / name), name)
    errors = {}
    for bits in (8, 4):
        config = DiffusionQuantConfig(bit_width=bits, group_size=64, min_accuracy=0.0, calibration="none")
        result = ArrowQuantV2().quantize_diffusion_model(MODELS / name, tmp_path / str(bits), config)
        assert result["modality"] == MODALITIES[name]
        errors[bits] = relative_error(want, predicted(load_quantized(tmp_path / str(bits), dtype=torch.float32), name))
    assert errors[8] < 1e-3
    assert errors[8] < errors[4] < 0.1


@pytest.mark.parametrize("name", SHAPES)
def test_model_calibrates_on_its_own_sampling(name, tmp_path):
    options = {"calibration": "synthetic", "calibration_samples": 2, "min_accuracy": 0.0}
    result = ArrowQuantV2().quantize_diffusion_model(MODELS / name, tmp_path / "q", DiffusionQuantConfig(**options))
    assert result["calibration"] == "synthetic"


@pytest.mark.parametrize("name", SHAPES)
def test_model_is_small_and_has_a_card(name):
    assert sum(path.stat().st_size for path in (MODELS / name).rglob("*") if path.is_file()) < 4_000_000
    card = (MODELS / name / "README.md").read_text()
    assert "CC BY" in card
    assert "examples/train/train_" in card


def write_digits(path):
    rows = np.concatenate((np.random.default_rng(0).integers(0, 17, (5, 64)), np.arange(5)[:, None]), 1)
    with gzip.open(path, "wt") as file:
        np.savetxt(file, rows, delimiter=",", fmt="%d")


def write_sounds(folder):
    folder.mkdir()
    for number in range(2):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((8000 * np.sin(np.arange(5000) * (0.1 + number))).astype("<i2").tobytes())


@pytest.mark.parametrize(
    ("program", "write", "name"),
    [("train_unet.py", write_digits, "unet_digits"), ("train_audio.py", write_sounds, "unet1d_voice")],
)
def test_training_makes_a_model(program, write, name, tmp_path, monkeypatch, capsys):
    data, made, threads = tmp_path / "digits.csv.gz", tmp_path / "made", torch.get_num_threads()
    write(data)
    arguments = ["--quick", "--data", str(data), "--out", str(made), "--threads", str(threads)]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    runpy.run_path(str(EXAMPLES / "train" / program), run_name="__main__")
    assert "loss" in capsys.readouterr().out
    assert predicted(load_float_model(made), name).shape == SHAPES[name]
    assert json.loads((made / "config.json").read_text()) == json.loads((MODELS / name / "config.json").read_text())


def test_transposed_convolutions_are_told_by_the_class_of_the_model(tmp_path):
    """Their names say nothing; output channels are on the second axis."""
    config = DiffusionQuantConfig(bit_width=8, group_size=64, min_accuracy=0.0, calibration="none")
    ArrowQuantV2().quantize_diffusion_model(MODELS / "unet1d_voice", tmp_path / "q", config)
    axes = {t.name: t.quant_axis for t in QuantizedModel(tmp_path / "q").entries if t.quantized}
    assert any("upsample.conv" in name for name in axes)
    assert {name for name, axis in axes.items() if axis == 1} == {name for name in axes if "upsample.conv" in name}
