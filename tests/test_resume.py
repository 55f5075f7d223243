"""Runs that are killed, stopped or refused by the system, and the runs that continue them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, CancelledError, ConfigurationError, DiffusionQuantConfig, ResourceError
from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import model_fingerprint
from helpers import digest, write_safetensors, write_sparse_model

BASE = ArrowQuantV2("base")
SHARDS, LAYERS = 3, 5


def write_model(folder: pathlib.Path, rows: int = 1024, scale: float = 1.0) -> pathlib.Path:
    """Three shards of five layers and a norm each; about half a second of work, so that there is a middle."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    weight_map = {}
    for shard in range(SHARDS):
        tensors = {
            f"blocks.{shard}.{i}.attn.to_q.weight": scale * rng.standard_normal((rows, 2048)).astype(np.float32)
            for i in range(LAYERS)
        }
        tensors[f"blocks.{shard}.norm.weight"] = np.ones(48, np.float32)
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        write_safetensors(folder / name, tensors)
        weight_map.update(dict.fromkeys(tensors, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_model(tmp_path_factory.mktemp("resume") / "m")


@pytest.fixture(scope="module")
def undisturbed(source: pathlib.Path) -> str:
    BASE.quantize(source, source.parent / "undisturbed")
    return digest(source.parent / "undisturbed")


def staging(output: pathlib.Path) -> pathlib.Path:
    return output.parent / f".{output.name}.partial"


def finished_files(output: pathlib.Path) -> int:
    return len(list(staging(output).glob("progress/*.done")))


def has_work(output: pathlib.Path, spooled: int = 2**21) -> bool:
    """Whether a file is finished, or so many bytes of tensors."""
    with contextlib.suppress(FileNotFoundError):
        spools = staging(output).glob("progress/*.spool")
        return finished_files(output) > 0 or any(file.stat().st_size > spooled for file in spools)
    return True  # a file was finished between the two looks


def interrupt(source: pathlib.Path, output: pathlib.Path, *arguments: Any, **options: Any) -> None:
    """Stop a run when its first file is finished."""
    with pytest.raises(CancelledError):
        BASE.quantize(source, output, *arguments, should_stop=lambda: finished_files(output) > 0, **options)
    assert not output.exists()
    assert finished_files(output) > 0


def in_the_middle(output: pathlib.Path, act: Callable[[], object]) -> Callable[[], bool]:
    """A should_stop that never stops, and acts once in the middle of the run."""
    acted = False

    def ask() -> bool:
        nonlocal acted
        if not acted and has_work(output):
            acted = True
            act()
        return False

    return ask


def command(source: pathlib.Path, output: pathlib.Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "arrow_quant_v2.cli.main", "quantize", str(source), str(output), "--mode", "base",
        "--group-size", "128", "--min-accuracy", "0", "--json", *options,
    ]  # fmt: skip


def cli(source: pathlib.Path, output: pathlib.Path, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ARROW_QUANT_CALIBRATION": "none"}
    return subprocess.run(
        command(source, output, *options), capture_output=True, text=True, check=False, env=environment, **more
    )


def has_lock(output: pathlib.Path, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return f"process {pid} " in (staging(output) / "lock").read_text()
    return False


def run_and_kill(source: pathlib.Path, output: pathlib.Path, threads: int, seconds: float) -> bool:
    """Kill a run some time after its begin; whether it was still there."""
    environment = {**os.environ, "ARROW_QUANT_CALIBRATION": "none"}
    line = command(source, output, "--threads", str(threads))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True) as run:
        while run.poll() is None and not has_lock(output, run.pid):
            time.sleep(0.001)
        try:
            printed, _ = run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            return True
        assert run.returncode == 0, printed
        return False


def test_killed_at_any_moment_and_continued_to_the_same_bytes(tmp_path, source, undisturbed):
    start = time.monotonic()
    BASE.quantize(source, tmp_path / "timed")
    longest = 1.2 * (time.monotonic() - start)
    moments = random.Random(7)
    output = tmp_path / "q"
    kills, runs, left_work = 0, 0, 0
    while kills < 20 or not output.exists():
        # The number of threads changes from run to run, also between those of one output.
        seconds = moments.uniform(0, longest) if kills < 20 else 600
        killed = run_and_kill(source, output, 1 + runs % 2, seconds)
        runs, kills = runs + 1, kills + killed
        assert runs < 100, f"only {kills} runs were killed"
        left_work += killed and has_work(output)
        if output.exists():
            assert digest(output) == undisturbed
            if kills < 20:
                shutil.rmtree(output)
                shutil.rmtree(staging(output), ignore_errors=True)  # of a run that was killed at its very end
    assert left_work > 0


def test_a_single_file_continues_at_the_tensor(tmp_path):
    rng = np.random.default_rng(1)
    weights = {f"blocks.{i}.attn.to_q.weight": rng.standard_normal((512, 2048)).astype(np.float32) for i in range(40)}
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", weights)
    whole = BASE.quantize(tmp_path / "m", tmp_path / "whole")

    with pytest.raises(CancelledError):
        BASE.quantize(tmp_path / "m", tmp_path / "q", should_stop=lambda: has_work(tmp_path / "q"))
    (spool,) = staging(tmp_path / "q").glob("progress/*.spool")
    with spool.open("ab") as file:
        file.write(b"\x07" * 1000)  # what a crash of the machine may leave
    result = BASE.quantize(tmp_path / "m", tmp_path / "q")
    assert 0 < result["resumed_tensors"] < 40
    assert digest(tmp_path / "q") == digest(tmp_path / "whole")
    timing = ("quantized_path", "resumed_tensors", "quantization_time_s", "peak_memory_mb", "calibration_time_s")
    assert {k: v for k, v in result.items() if k not in timing} == {k: v for k, v in whole.items() if k not in timing}
    assert whole["resumed_tensors"] == 0


def test_a_finished_file_that_is_damaged_is_made_again(tmp_path, source, undisturbed):
    interrupt(source, tmp_path / "q")
    file = next((staging(tmp_path / "q") / "output").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    BASE.quantize(source, tmp_path / "q")
    assert digest(tmp_path / "q") == undisturbed


def test_another_configuration_is_refused_and_named(tmp_path, source):
    interrupt(source, tmp_path / "q")
    with pytest.raises(ConfigurationError, match="bit_width was 4 and is 8, group_size was 128 and is 64") as caught:
        BASE.quantize(source, tmp_path / "q", 8, 64)
    assert "--overwrite" in caught.value.remedy
    run = cli(source, tmp_path / "q", "--bits", "8")
    assert run.returncode == 2
    assert "bit_width was 4 and is 8" in run.stderr
    anew = BASE.quantize(source, tmp_path / "q", 8, 64, overwrite=True)
    assert anew["resumed_tensors"] == 0
    BASE.quantize(source, tmp_path / "alone", 8, 64)
    assert digest(tmp_path / "q") == digest(tmp_path / "alone")
    assert not staging(tmp_path / "q").exists()


def test_overwrite_begins_anew_unless_the_run_was_begun_with_it(tmp_path, source, undisturbed):
    output = tmp_path / "q"
    interrupt(source, output)
    assert BASE.quantize(source, output, overwrite=True)["resumed_tensors"] == 0
    BASE.quantize(source, output, 8, overwrite=True)
    with pytest.raises(CancelledError):
        BASE.quantize(source, output, overwrite=True, should_stop=lambda: finished_files(output) > 0)
    before = digest(output)
    assert BASE.quantize(source, output, overwrite=True)["resumed_tensors"] > 0
    assert before != digest(output) == undisturbed


def test_no_resume_begins_anew(tmp_path, source, undisturbed):
    interrupt(source, tmp_path / "q")
    assert BASE.quantize(source, tmp_path / "q", resume=False)["resumed_tensors"] == 0
    assert digest(tmp_path / "q") == undisturbed


def test_another_source_version_or_calibration_is_refused(tmp_path):
    source = write_model(tmp_path / "m")
    interrupt(source, tmp_path / "q")
    journal = staging(tmp_path / "q") / "run.json"
    text = journal.read_text()
    for part, before, message in (
        ("program", "0.0.1", r"the program's version was 0\.0\.1 and is"),
        ("calibration", "activations xxh64:00", "the calibration has changed"),
    ):
        key = json.loads(json.loads(text)["key"])
        journal.write_text(json.dumps({"key": json.dumps({**key, part: before}), "overwrite": False}))
        with pytest.raises(ConfigurationError, match=message):
            BASE.quantize(source, tmp_path / "q")
    journal.write_text(text)
    shard = source / "model-00003-of-00003.safetensors"
    os.utime(shard, ns=(1, 1))
    with pytest.raises(ConfigurationError, match="the source has changed"):
        BASE.quantize(source, tmp_path / "q")


def test_a_resumed_run_says_so(tmp_path, source):
    interrupt(source, tmp_path / "q")
    line = command(source, tmp_path / "q")
    line.remove("--json")
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert re.search(r"continued an interrupted run: \d+ tensors were finished already", run.stdout)


def test_a_lock_that_nobody_released_leaves_nothing(tmp_path):
    """As when a signal raises between taking it and the block that releases it."""
    lock = core.RunLock(str(tmp_path / "q"))
    assert [path.name for path in tmp_path.iterdir()] == [".q.partial"]
    del lock
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_one_output_is_refused_at_once(tmp_path, source):
    lock = core.RunLock(str(tmp_path / "q"))
    run = cli(source, tmp_path / "q")
    assert run.returncode == 2
    assert f"the same output is being written by process {os.getpid()} on " in run.stderr
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_stops_nobody(tmp_path, source, undisturbed):
    script = (
        "import os, signal, sys; from arrow_quant_v2._native import core; lock = core.RunLock(sys.argv[1]); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "q")], check=False)
    assert (staging(tmp_path / "q") / "lock").exists()
    BASE.quantize(source, tmp_path / "q")
    assert digest(tmp_path / "q") == undisturbed
    assert not staging(tmp_path / "q").exists()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_in_the_middle(tmp_path, source, undisturbed):
    before = digest(source)
    with small_disk(tmp_path / "disk", "60m") as disk:

        def fill() -> None:
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(2**16)):
                    pass

        with pytest.raises(ResourceError, match="no space left") as caught:
            BASE.quantize(source, disk / "q", should_stop=in_the_middle(disk / "q", fill))
        assert "the same command continues" in caught.value.remedy
        assert not (disk / "q").exists()
        (disk / "filler").unlink()
        assert BASE.quantize(source, disk / "q")["resumed_tensors"] > 0
        assert digest(disk / "q") == undisturbed
    assert digest(source) == before


def test_a_limit_of_file_size(tmp_path, source, undisturbed):
    limit = 3_000_000  # less than one output file
    run = cli(
        source, tmp_path / "q", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )  # fmt: skip
    assert run.returncode == 3
    assert "cannot write" in run.stderr and "ulimit -f" in run.stderr  # noqa: PT018
    assert json.loads(run.stdout)["error"]["code"] == "io"
    assert not (tmp_path / "q").exists()
    assert json.loads(cli(source, tmp_path / "q").stdout)["resumed_tensors"] > 0
    assert digest(tmp_path / "q") == undisturbed


@pytest.mark.parametrize("change", ["truncate", "rewrite", "remove"])
def test_a_source_that_changes_while_it_is_read(tmp_path, undisturbed, change):
    source = write_model(tmp_path / "m")
    shard = source / f"model-{SHARDS:05d}-of-{SHARDS:05d}.safetensors"
    content = shard.read_bytes()

    def act() -> None:
        if change == "truncate":
            os.truncate(shard, 4096)  # reading beyond it raises SIGBUS
        elif change == "rewrite":
            shard.write_bytes(content[:-4] + b"\0\0\0\0")
        else:
            shard.unlink()

    with pytest.raises(ResourceError, match=f"{shard.name}: the source changed while it was read"):
        BASE.quantize(source, tmp_path / "q", should_stop=in_the_middle(tmp_path / "q", act))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    shard.write_bytes(content)
    result = BASE.quantize(source, tmp_path / "q")
    assert result["resumed_tensors"] == 0
    BASE.quantize(source, tmp_path / "again")
    assert digest(tmp_path / "q") == digest(tmp_path / "again")


def test_an_output_that_may_not_be_made(tmp_path, source):
    if os.getuid() == 0:
        parent = pathlib.Path("/sys")  # where not even root may make directories
    else:
        parent = tmp_path / "closed"
        parent.mkdir(mode=0o500)
    run = cli(source, parent / "q")
    assert run.returncode == 3
    assert "cannot make the output directory" in run.stderr
    assert "rights" in json.loads(run.stdout)["error"]["remedy"]


def test_too_little_memory(tmp_path):
    """Enough for the program and the mapped source, not for the codes."""
    source = write_sparse_model(tmp_path / "m", rows=8192, columns=8192)  # 64 MB of codes at 8 bits
    before = (source / "model.safetensors").stat()
    script = """
import resource, sys
from arrow_quant_v2.cli import main
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
limit = used + 256 * 2**20 + 50 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main.main()
"""
    line = [sys.executable, "-c", script, *command(tmp_path / "m", tmp_path / "q", "--bits", "8", "--threads", "1")[3:]]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # an arena of a thread reserves as much as the codes take
    run = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 3, run.stderr
    assert "not enough memory" in run.stderr
    assert json.loads(run.stdout)["error"]["code"] == "resource"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert (source / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert cli(tmp_path / "m", tmp_path / "q", "--bits", "8").returncode == 0


def test_sampled_activations_are_kept_for_the_run_that_continues(tmp_path, source, monkeypatch):
    calibrate = pytest.importorskip("arrow_quant_v2.torch.calibrate")
    runs = []

    def sample(model_path: pathlib.Path, *_: object) -> Any:
        runs.append(model_path)
        statistics = core.ActivationStatistics([0.0, 1.0])
        rng = np.random.default_rng(len(runs))  # other rows each time, as from another number of threads
        number = statistics.add_input(64)
        statistics.update(number, rng.standard_normal((256, 64)).astype(np.float32), 0.5)
        for i in range(48):
            statistics.map_layer("", f"blocks.{i}.attn.to_q.weight", [number])
        facts = {"kind": "synthetic", "model_fingerprint": model_fingerprint(model_path), "description": "a test"}
        return calibrate.Collected(statistics, facts, "a test")

    monkeypatch.setattr(calibrate, "sample_model", sample)
    rng = np.random.default_rng(1)
    weights = {f"blocks.{i}.attn.to_q.weight": rng.standard_normal((2048, 64)).astype(np.float32) for i in range(48)}
    model = tmp_path / "m"
    model.mkdir()
    write_safetensors(model / "model.safetensors", weights)
    config = DiffusionQuantConfig(calibration="synthetic", min_accuracy=0.0, strategy="gptq", rounding_rounds=0)
    output = tmp_path / "q"
    with pytest.raises(CancelledError):
        BASE.quantize_diffusion_model(model, output, config, should_stop=lambda: has_work(output, 2**16))
    kept = (staging(output) / "statistics.parquet").read_bytes()
    result = BASE.quantize_diffusion_model(model, output, config)
    assert (len(runs), result["calibration"]) == (1, "synthetic")
    assert result["resumed_tensors"] > 0
    assert not staging(output).exists()
    (tmp_path / "kept.parquet").write_bytes(kept)
    BASE.quantize_diffusion_model(model, tmp_path / "whole", config, calibration=tmp_path / "kept.parquet")
    assert (output / "model.parquet").read_bytes() == (tmp_path / "whole" / "model.parquet").read_bytes()
