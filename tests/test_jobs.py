"""Many models from one file."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import yaml
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, ModelNotFoundError, QuantizedModel
from arrow_quant_v2.jobs import load_jobs, run_jobs
from helpers import digest, write_safetensors


@pytest.fixture
def source(tmp_path):
    (tmp_path / "m").mkdir()
    rng = np.random.default_rng(0)
    weights = {f"blocks.{i}.attn.to_q.weight": rng.standard_normal((64, 64)).astype(np.float32) for i in range(3)}
    write_safetensors(tmp_path / "m" / "model.safetensors", weights)
    return tmp_path / "m"


def write(tmp_path, jobs, name="jobs.yaml") -> pathlib.Path:
    (tmp_path / name).write_text(json.dumps(jobs) if name.endswith(".json") else yaml.safe_dump(jobs))
    return tmp_path / name


def job(source, output, **options):
    return {"model": str(source), "output": str(output), "mode": "base", "calibration": "none", **options}


@pytest.mark.parametrize("name", ["jobs.yaml", "jobs.json"])
def test_a_dozen_give_the_bytes_of_single_runs(tmp_path, source, name):
    bits = [2, 3, 4, 8] * 3
    file = write(tmp_path, [job(source, tmp_path / f"q{i}", bit_width=b) for i, b in enumerate(bits)], name)
    defaults = DiffusionQuantConfig(group_size=32, min_accuracy=0.0)
    fractions: list[float] = []
    outcomes = run_jobs(load_jobs(file, defaults), at_once=12, progress_callback=lambda _, f: fractions.append(f))
    assert [outcome.error for outcome in outcomes] == [None] * 12
    assert fractions[-1] == 1.0
    for i, b in enumerate(bits):
        config = DiffusionQuantConfig(bit_width=b, group_size=32, min_accuracy=0.0, calibration="none")
        ArrowQuantV2("base").quantize_diffusion_model(source, tmp_path / "one", config, overwrite=True)
        assert digest(tmp_path / f"q{i}") == digest(tmp_path / "one")


def test_an_error_ends_its_own_job_only(tmp_path, source):
    jobs = [job(source, tmp_path / "a"), job(tmp_path / "nowhere", tmp_path / "b"), job(source, tmp_path / "c")]
    first, second, third = run_jobs(load_jobs(write(tmp_path, jobs)), at_once=2)
    assert isinstance(second.error, ModelNotFoundError)
    assert second.result is None
    for outcome in (first, third):
        assert outcome.result is not None
        assert len(list(QuantizedModel(outcome.job.output))) == 3


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ({"model": "a"}, "is no list of jobs"),
        ([], "is no list of jobs"),
        (["a"], "job 1: is 'a', no mapping"),
        ([{"model": "a"}], "job 1: output is missing"),
        ([{"model": "a", "output": "b"}, {"model": "a", "output": "./b"}], "job 2: its output b is that of job 1"),
        ([{"model": "a", "output": "b", "bit_with": 4}], "job 1: .*bit_width"),
        ([{"model": "a", "output": "b", "bit_width": 5}], "job 1: bit_width is 5"),
        ([{"model": "a", "output": "b", "mode": "fast"}], "job 1: mode is 'fast'"),
        ([{"model": "a", "output": "b", "overwrite": 1}], "job 1: overwrite is 1"),
    ],
)
def test_a_bad_file_is_refused_before_any_work(tmp_path, jobs, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        load_jobs(write(tmp_path, jobs))
    assert "jobs.yaml" in str(raised.value)


def test_no_file_and_no_yaml(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"none\.yaml"):
        load_jobs(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("- {")
    with pytest.raises(ConfigurationError, match=r"bad\.yaml"):
        load_jobs(tmp_path / "bad.yaml")


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arrow_quant_v2.cli.main", "quantize", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_sums_up_and_exits_with_the_largest_code(tmp_path, source):
    good = job(source, tmp_path / "a", min_accuracy=0.0)
    file = write(tmp_path, [good, job(tmp_path / "nowhere", tmp_path / "b")])
    run = cli("--jobs", str(file), "--bits", "8", "--json")
    assert run.returncode == 3
    printed = json.loads(run.stdout)
    assert printed["failed"] == 1
    assert printed["jobs"][0]["result"]["bit_width"] == 8
    assert printed["jobs"][1]["error"]["code"] == "model_not_found"
    text = cli("--jobs", str(write(tmp_path, [good])), "--overwrite")
    assert text.returncode == 0, text.stderr
    assert "1 of 1 jobs done, 0 failed" in text.stdout
    quality = job(source, tmp_path / "c", bit_width=2, min_accuracy=0.99, strict=True)
    assert cli("--jobs", str(write(tmp_path, [quality]))).returncode == 1
    assert cli("--jobs", str(file), str(source)).returncode == 2
