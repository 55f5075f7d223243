"""The command as a person or a script uses it."""

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
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, export_safetensors
from helpers import write_safetensors, write_sparse_model

NAME = "blocks.0.attn.to_q.weight"


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arrow_quant_v2.cli.main", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "80", "ARROW_QUANT_CALIBRATION": "none", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m"
    path.mkdir()
    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    write_safetensors(path / "model.safetensors", {NAME: weight, "odd[0].[/bold].weight": weight})
    (path / "metadata.json").write_text('{"modality": "image"}')
    return path


def test_every_command_prints_json(tmp_path, model):
    quantized, plain, old, new = (tmp_path / name for name in ("q", "plain", "old", "new"))
    commands = [
        ("quantize", model, "--plan"), ("quantize", model, quantized), ("inspect", quantized),
        ("validate", model, quantized), ("export", quantized, plain),
        ("export", quantized, old, "--format", "v2-extended"), ("convert", old, new), ("quantize", "--show-config"),
    ]  # fmt: skip
    for command in commands:
        run = cli(*command, "--json")
        assert run.returncode == 0, run.stderr
        assert isinstance(json.loads(run.stdout), dict), command
        assert run.stderr == "", command


def test_errors_are_json_too(tmp_path):
    run = cli("quantize", tmp_path / "nowhere", tmp_path / "q", "--json")
    error = json.loads(run.stdout)["error"]
    assert run.returncode == 3
    assert (error["code"], error["file"]) == ("model_not_found", str(tmp_path / "nowhere"))
    assert error["message"] in run.stderr


def test_a_plan_needs_no_output(model):
    run = cli("quantize", model, "--plan", COLUMNS="200")
    assert run.returncode == 0
    assert "modality image (metadata.json" in run.stdout
    assert cli("quantize", model).returncode == 2
    assert cli("quantize").returncode == 2


def test_brackets_are_no_markup(tmp_path, model):
    run = cli("quantize", model, tmp_path / "q", "--keep", "[/y]z", COLUMNS="300")
    assert run.returncode == 0, run.stderr
    assert "pattern '[/y]z' fits no tensor" in run.stdout
    assert "odd[0].[/bold].weight" in cli("inspect", tmp_path / "q", COLUMNS="300").stdout


def test_a_sentence_is_one_line_in_a_log(tmp_path, model):
    run = cli("quantize", model, tmp_path / "q", "--bits", "2", "--min-accuracy", "0.95")
    steps = [line for line in run.stdout.splitlines() if line.startswith("fell back")]
    assert len(steps) == 2
    assert all("below min_accuracy" in line for line in steps)


def test_options_without_a_meaning_are_refused(tmp_path, model):
    assert cli("quantize", model, tmp_path / "q").returncode == 0
    run = cli("export", tmp_path / "q", tmp_path / "old", "--format", "v2-extended", "--dtype", "float16")
    assert (run.returncode, "--dtype" in run.stderr) == (2, True)


def tree(path: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_overwrite_replaces_models_only_and_never_the_input(tmp_path, model):
    base = ArrowQuantV2("base")
    base.quantize(model, tmp_path / "q")
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(ConfigurationError, match="holds no model"):
        base.quantize(model, papers, overwrite=True)
    with pytest.raises(ConfigurationError, match="holds no model"):
        export_safetensors(tmp_path / "q", papers, overwrite=True)
    for target in (model, model / "..", tmp_path / "m" / "."):
        with pytest.raises(ConfigurationError, match="replace the input"):
            base.quantize(model, target, overwrite=True)
    with pytest.raises(ConfigurationError, match="replace the input"):
        base.quantize(model / "model.safetensors", model, overwrite=True)
    with pytest.raises(ConfigurationError, match="replace the input"):
        export_safetensors(tmp_path / "q", tmp_path / "q", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(tmp_path, number, code):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=16384)
    command = [sys.executable, "-m", "arrow_quant_v2.cli.main", "quantize", source, tmp_path / "q", "--mode", "base"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while not list(tmp_path.glob(".q.partial")) and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(number)
    assert run.returncode == code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_validation_of_another_model(tmp_path, model):
    ArrowQuantV2("base").quantize(model, tmp_path / "q")
    other = tmp_path / "other"
    other.mkdir()
    write_safetensors(other / "model.safetensors", {NAME: np.ones((8, 8), np.float32)})
    run = cli("validate", other, tmp_path / "q")
    assert run.returncode == 3
    assert NAME in run.stderr
    assert cli("validate", model, tmp_path / "q", "--min-accuracy", "7").returncode == 2
