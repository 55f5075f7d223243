"""What scripts rely on: JSON, exit codes, the memory of --plan."""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_quant_v2.cli.main import app
from helpers import PRINT_PEAK_KB
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

# Calibration draws samples from the model, which is another test's subject.
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "ARROW_QUANT_CALIBRATION": "none"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arrow_quant_v2.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def write_v1(path: pathlib.Path) -> None:
    row = {
        "layer_name": "blocks.0.attn.weight", "shape": [8, 16], "dtype": "float32", "num_params": 128,
        "data": np.arange(128, dtype=np.float32).tobytes(),
    }  # fmt: skip
    path.mkdir()
    pq.write_table(pa.Table.from_pylist([row]), path / "model.parquet")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, demo_model: pathlib.Path) -> pathlib.Path:
    """A directory with the demo model in INT4 (q) and a model of an older layout (old)."""
    path = tmp_path_factory.mktemp("cli")
    made = run("quantize", demo_model, path / "q", "--bits", "4", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["quantized_path"] == str(path / "q")
    write_v1(path / "old")
    return path


# Arguments of every command; quantize is run by the fixture, calibrate, demo and evaluate need PyTorch.
JSON_RUNS = {
    "quantize": ("quantize", "MODEL", "WORK/none", "--plan", "--json"),
    "inspect": ("inspect", "WORK/q", "--json"),
    "convert": ("convert", "WORK/old", "WORK/converted", "--bits", "8", "--json"),
    "export": ("export", "WORK/q", "WORK/exported", "--json"),
    "validate": ("validate", "MODEL", "WORK/q", "--json"),
    "report": ("report", "WORK/q", "--out", "WORK/report.html", "--json"),
}


@pytest.mark.parametrize("name", sorted(set(get_command(app).commands) - {"demo", "calibrate", "evaluate"}))
def test_every_command_prints_json_alone(name: str, work: pathlib.Path, demo_model: pathlib.Path) -> None:
    arguments = [a.replace("WORK", str(work)).replace("MODEL", str(demo_model)) for a in JSON_RUNS[name]]
    made = run(*arguments)
    assert made.returncode == 0, made.stderr
    assert isinstance(json.loads(made.stdout), dict)


@pytest.mark.parametrize(
    ("figure", "files"),
    [
        ("psnr_db", {"pictures": "digits.png"}),
        ("log_spectral_distance_db", {"pictures": "spectrograms.png", "sounds": ["float.wav", "int8.wav"]}),
    ],
)
def test_demo_prints_json_alone(
    figure: str, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Without drawing digits, which takes half a minute: `make demo` does."""
    made = [{"bit_width": 8, figure: 30.0}]

    def run_demo(model: pathlib.Path, output: pathlib.Path, console: Console, quick: bool) -> list[dict[str, Any]]:
        console.print("drawing")
        return made

    module = types.ModuleType("arrow_quant_v2.torch.demo")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arrow_quant_v2.torch", types.ModuleType("arrow_quant_v2.torch"))
    monkeypatch.setitem(sys.modules, "arrow_quant_v2.torch.demo", module)
    printed = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--json"]).stdout
    paths = json.loads(printed.replace(str(tmp_path) + "/", ""))
    assert paths == {"models": made, **files}


def test_help_lists_the_exit_codes() -> None:
    made = run("--help")
    text = " ".join(made.stdout.split())
    assert made.returncode == 0
    for code in ("0 fine", "1 quality", "2 wrong usage", "3 bad input"):
        assert code in text


def test_exit_1_for_quality(work: pathlib.Path, demo_model: pathlib.Path) -> None:
    assert run("validate", demo_model, work / "q", "--min-accuracy", "0.9999").returncode == 1
    two_bits = ("--bits", "2", "--min-accuracy", "0.99", "--overwrite")
    assert run("quantize", demo_model, work / "strict", *two_bits, "--strict").returncode == 1
    assert run("quantize", demo_model, work / "strict", *two_bits).returncode == 0


def test_exit_2_for_usage(work: pathlib.Path, demo_model: pathlib.Path) -> None:
    for wrong in (["--bits", "5"], ["--bits", "four"], ["--nonsense"], ["--profile", "huge"], ["--keep", "("]):
        made = run("quantize", demo_model, work / "none", *wrong)
        assert made.returncode == 2, made.stderr
        assert "Traceback" not in made.stderr
    assert run("nonsense").returncode == 2


def test_exit_3_for_input(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"PK\x03\x04" + b"x" * 40)
    for command in (
        ("quantize", tmp_path / "bad.safetensors", work / "none", "--modality", "image"),
        ("quantize", tmp_path / "nowhere", work / "none"),
        ("inspect", tmp_path / "nowhere"),
        ("validate", tmp_path / "nowhere", work / "q"),
        ("report", tmp_path / "nowhere"),
        ("export", tmp_path / "nowhere", work / "none"),
        ("convert", tmp_path / "bad.safetensors", work / "none"),
    ):
        made = run(*command)
        assert made.returncode == 3, (command, made.stderr)
        assert made.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in made.stderr


def write_sparse_model(path: pathlib.Path, layers: int, rows: int, cols: int) -> int:
    """A bfloat16 model whose data are a hole in the file; returns its size or skips the test."""
    size = rows * cols * 2
    header = {
        f"blocks.{i}.attn.to_q.weight": {
            "dtype": "BF16", "shape": [rows, cols], "data_offsets": [i * size, (i + 1) * size]
        }
        for i in range(layers)
    }  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + layers * size)
    if path.stat().st_blocks * 512 > 1_000_000:
        pytest.skip("the file system has no sparse files")
    return path.stat().st_size


def test_plan_of_two_gigabytes_takes_little_memory(tmp_path: pathlib.Path) -> None:
    """--plan reads headers only: 64 layers of 4096 x 4096, 2.1 GB, within 200 MB, Python and Arrow included."""
    model = tmp_path / "model.safetensors"
    assert write_sparse_model(model, 64, 4096, 4096) > 2_000_000_000
    program = (
        "import sys\nfrom arrow_quant_v2.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        + PRINT_PEAK_KB.format(file="sys.stderr")
    )
    arguments = ["quantize", str(model), str(tmp_path / "q"), "--modality", "image", "--plan", "--json"]
    made = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert len(json.loads(made.stdout)["layers"]) == 64
    assert int(made.stderr.split()[-1]) * 1024 < 200_000_000
    assert not (tmp_path / "q").exists()
