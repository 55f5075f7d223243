"""Plans that are saved, edited and given back."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, ModelNotFoundError, QuantizedModel
from helpers import digest, write_safetensors

BASE = ArrowQuantV2("base")
Q, FC, BIAS = "blocks.0.attn.to_q.weight", "blocks.0.ff.fc1.weight", "blocks.0.attn.to_q.bias"


def model(path: pathlib.Path, rows: int = 48, **extra: np.ndarray) -> pathlib.Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        Q: rng.standard_normal((rows, 70)).astype(np.float32),
        BIAS: rng.standard_normal(48).astype(np.float32),
        FC: rng.standard_normal((8, 320)).astype(np.float16),
        "pos_embed.weight": rng.standard_normal((16, 64)).astype(np.float32),
        **extra,
    }
    write_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.fixture
def source(tmp_path):
    return model(tmp_path / "m")


@pytest.fixture
def plan(tmp_path, source):
    """A saved plan, and how to edit it: plan(tensor, key=value, ...) gives the file."""
    file = tmp_path / "plan.json"
    BASE.plan(source, config(), save_to=file)

    def edit(tensor: str = "", /, **changes):
        content = json.loads(file.read_text())
        for entry in content["layers"] + content["kept"]:
            if entry["name"] == tensor:
                entry.update(changes)
        file.write_text(json.dumps(content))
        return file

    return edit


def config(**options) -> DiffusionQuantConfig:
    return DiffusionQuantConfig(calibration="none", group_size=64, **options)


def quantize(source, output, file, **options):
    return BASE.quantize_diffusion_model(source, output, config(from_plan=str(file), **options), overwrite=True)


def stored(path) -> dict[str, tuple[int, int]]:
    return {t.name: (t.bits, t.group_size) for t in QuantizedModel(path)}


def test_unedited_it_changes_nothing(tmp_path, source, plan):
    BASE.quantize_diffusion_model(source, tmp_path / "plain", config())
    quantize(source, tmp_path / "q", plan())
    assert digest(tmp_path / "q") == digest(tmp_path / "plain")


def test_what_is_edited_is_what_comes_out(tmp_path, source, plan):
    plan(Q, bits=2, group_size=16, method="fitted")
    plan("pos_embed.weight", bits=8)
    file = plan(FC, keep=True)
    result = quantize(source, tmp_path / "q", file, min_accuracy=0.999)
    assert stored(tmp_path / "q")[Q] == (2, 16)
    assert stored(tmp_path / "q")["pos_embed.weight"] == (8, 64)
    assert stored(tmp_path / "q")[FC][0] == 0
    assert {layer["name"]: layer["method"] for layer in result["layers"]}[Q] == "fitted"
    assert {kept["name"]: kept["reason"] for kept in result["kept"]}[FC] == "the plan keeps it"
    assert result["layers_fallen_back"] == 0  # the plan is stronger than min_accuracy, which is said
    assert any("below min_accuracy" in w and Q in w for w in result["warnings"])


def test_the_result_of_a_run_is_a_plan_too(tmp_path, source):
    result = BASE.quantize_diffusion_model(source, tmp_path / "first", config(layer_bit_widths={Q: 3}))
    (tmp_path / "result.json").write_text(json.dumps(result))
    quantize(source, tmp_path / "q", tmp_path / "result.json")
    assert stored(tmp_path / "q") == stored(tmp_path / "first")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (Q, {"bits": 5}, f"'{Q}': the plan's bits is 5, not 2, 3, 4, 8 or 16"),
        (Q, {"bits": "4"}, f"'{Q}': the plan's bits has the value \"4\""),
        (Q, {"group_size": 48}, f"'{Q}': the plan's group_size is 48"),
        (Q, {"method": "magic"}, f"'{Q}': the plan's method is 'magic'"),
        (Q, {"method": "ldlq"}, f"'{Q}': method is ldlq, which needs activations"),
        (Q, {"bitz": 4}, f"'{Q}': the plan's key 'bitz' is not one"),
        (Q, {"shape": [48, 71]}, f"'{Q}': shape is 48x71 in the plan and 48x70 in the model"),
        (Q, {"name": "blocks.9.weight"}, f"'{Q}': the model's tensor is not in the plan"),
        (BIAS, {"bits": 4}, f"'{BIAS}': bits is 4, but a tensor 48 of float32 cannot be quantized"),
        (BIAS, {"name": Q}, f"'{Q}': the plan's name occurs twice"),
    ],
)
def test_what_cannot_be_is_an_error_with_tensor_and_key(tmp_path, source, plan, name, changes, message):
    file = plan(name, **changes)
    with pytest.raises(ConfigurationError) as raised:
        quantize(source, tmp_path / "q", file)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    assert raised.value.tensor
    assert not (tmp_path / "q").exists()


def test_a_plan_of_another_model(tmp_path, plan):
    more = model(tmp_path / "more", **{"blocks.1.attn.to_q.weight": np.ones((16, 64), np.float32)})
    with pytest.raises(ConfigurationError, match=r"blocks\.1\.attn\.to_q\.weight.*of another model"):
        quantize(more, tmp_path / "q", plan())
    content = json.loads(plan().read_text())
    content["kept"].append({"name": "gone.bias", "component": "", "shape": [3]})
    plan().write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"gone\.bias.*the model has no such tensor"):
        quantize(tmp_path / "m", tmp_path / "q", plan())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": 1, "kept": []}', '{"layers": [1], "kept": []}'])
def test_no_plan_at_all(tmp_path, source, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"p\.json"):
        quantize(source, tmp_path / "q", tmp_path / "p.json")


def test_no_file_and_two_ways_to_choose(tmp_path, source, plan):
    with pytest.raises((ModelNotFoundError, OSError, Exception), match=r"nowhere\.json"):
        quantize(source, tmp_path / "q", tmp_path / "nowhere.json")
    with pytest.raises(ConfigurationError, match="both choose the bits"):
        quantize(source, tmp_path / "q", plan(), enable_mixed_precision=True)


def test_from_the_command_line(tmp_path, source):
    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "arrow_quant_v2.cli.main", "quantize", *arguments, "--mode", "base"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    planned = cli(str(source), "--plan", "--json", "--calibration", "none")
    content = json.loads(planned.stdout)
    next(entry for entry in content["layers"] if entry["name"] == Q)["bits"] = 8
    (tmp_path / "plan.json").write_text(json.dumps(content))
    done = cli(str(source), str(tmp_path / "q"), "--from-plan", str(tmp_path / "plan.json"), "--calibration", "none")
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "q")[Q][0] == 8
    saved = cli(str(source), "--save-plan", str(tmp_path / "saved.json"), "--calibration", "none")
    assert saved.returncode == 0, saved.stderr
    assert json.loads((tmp_path / "saved.json").read_text())["layers"]
    bad = cli(str(source), str(tmp_path / "r"), "--from-plan", str(tmp_path / "q" / "manifest.json"))
    assert bad.returncode == 2
    assert "is no plan" in bad.stderr
