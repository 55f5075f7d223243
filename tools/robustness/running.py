"""Runs: progress, interruption, resources, determinism."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, CancelledError

from robustness.observe import NotHere, Wrong, command, expect, make_model, make_sparse, normal, quantize, refused


def digest(folder: pathlib.Path) -> str:
    h = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        h.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return h.hexdigest()


def forty(folder: pathlib.Path) -> pathlib.Path:
    return make_model(folder / "m", {f"blocks.{i}.attn.to_q.weight": normal(64, 128) for i in range(40)})


def progress(folder: pathlib.Path) -> str:
    source = make_sparse(folder / "m", 16384, 8192)
    seen: list[float] = []
    ArrowQuantV2("base").quantize(source, folder / "q", progress_callback=lambda _, fraction: seen.append(fraction))
    inside = [fraction for fraction in seen if 0 < fraction < 1]
    expect(len(inside) >= 2 and seen == sorted(seen), f"fractions {seen}")
    run = command("quantize", source, folder / "p", "--mode", "base")
    lines = run.stderr.splitlines()
    expect(2 <= len(lines) <= 12 and "100 %" in lines[-1], f"{len(lines)} lines: {lines[-1:]}")
    return "a callback hears fractions inside one layer, in order; without a terminal plain lines, a tenth each"


def terminal(folder: pathlib.Path) -> str:
    import pty

    source = make_sparse(folder / "m", 16384, 8192)
    main, side = pty.openpty()
    line = [
        sys.executable,
        "-m",
        "arrow_quant_v2.cli.main",
        "quantize",
        str(source),
        str(folder / "q"),
        "--mode",
        "base",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(line, stderr=side, stdout=subprocess.DEVNULL, env=environment) as run:
        os.close(side)
        text = b""
        with contextlib.suppress(OSError):  # the terminal ends with the program
            while part := os.read(main, 65536):
                text += part
    os.close(main)
    expect(run.returncode == 0 and b"%" in text and b":" in text, text[-200:].decode(errors="replace"))
    return "on a terminal a bar with percent and the time that is left"


def killed(folder: pathlib.Path) -> str:
    source = make_sparse(folder / "m", 32768, 8192)
    line = [
        sys.executable,
        "-m",
        "arrow_quant_v2.cli.main",
        "quantize",
        str(source),
        str(folder / "q"),
        "--mode",
        "base",
    ]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while not list(folder.glob(".q.partial")) and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    expect(not (folder / "q").exists(), "something is under the name of the output")
    quantize(source, folder / "q")
    quantize(source, folder / "other")
    expect(digest(folder / "q") == digest(folder / "other"), "the next run gives other bytes")
    return "nothing under the name of the output; the next run gives the bytes of an undisturbed one"


def continued(folder: pathlib.Path) -> str:
    tensors = {f"blocks.{i}.attn.to_q.weight": normal(1024, 2048) for i in range(12)}
    source = make_model(folder / "m", tensors)
    quantize(source, folder / "other")
    line = ["quantize", str(source), str(folder / "q"), "--mode", "base", "--min-accuracy", "0"]
    run = subprocess.Popen(
        [sys.executable, "-m", "arrow_quant_v2.cli.main", *line], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    with run:
        while run.poll() is None and not any(f.stat().st_size > 2**21 for f in folder.glob(".q.partial/progress/*")):
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    expect(run.returncode == -signal.SIGKILL and not (folder / "q").exists(), "the run ended before it was killed")
    changed = command(*line, "--bits", 8)
    expect(changed.returncode == 2 and "bit_width was 4 and is 8" in changed.stderr, changed.stderr)
    result = command(*line, "--resume", "--json")
    expect(result.returncode == 0, result.stderr)
    resumed = json.loads(result.stdout)["resumed_tensors"]
    expect(0 < resumed < 12, f"{resumed} tensors were finished")
    expect(digest(folder / "q") == digest(folder / "other"), "other bytes")
    return "goes on behind the last finished tensor and gives the same bytes; names the option that has changed"


def cancelled(folder: pathlib.Path) -> str:
    source = make_sparse(folder / "m", 65536, 16384)
    start = time.monotonic()
    try:
        ArrowQuantV2("base").quantize(source, folder / "q", should_stop=lambda: time.monotonic() > start + 0.2)
    except CancelledError:
        expect(not list(folder.glob(".q*")) and not (folder / "q").exists(), "files are left")
        return "stops, and nothing is left"
    raise Wrong("ran to its end")


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A file system of a few megabytes; needs the right to mount."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def disk_full(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {"blocks.0.attn.to_q.weight": normal(2048, 2048)})
    try:
        with small_disk(folder, "1m") as disk:
            message = refused(lambda: quantize(source, disk / "q"), "resource", "free", folder=disk)
            expect(not list(disk.iterdir()), f"left: {[p.name for p in disk.iterdir()]}")
    except (subprocess.CalledProcessError, FileNotFoundError):
        usage = shutil.disk_usage(folder).free
        side = int((usage / 0.5) ** 0.5) // 256 * 256 + 1024  # half a byte a weight
        make_sparse(folder / "big", side, side)
        message = refused(lambda: quantize(folder / "big", folder / "q"), "resource", "free", folder=folder)
    return "checked before the work, nothing is left; " + message.split(": ", 1)[0]


def temporary_files(folder: pathlib.Path) -> str:
    source = forty(folder)
    run = command("quantize", source, folder / "q", "--mode", "base", environment={"TMPDIR": "/nonexistent"})
    expect(run.returncode == 0, run.stderr.strip())
    return "temporary files lie beside the output: a run needs no TMPDIR"


def _peak_mb(code: str, *arguments: object) -> float:
    # Not ru_maxrss, which a process inherits from the one that started it.
    tail = "; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    line = [sys.executable, "-c", "import sys; from arrow_quant_v2 import *; " + code + tail, *map(str, arguments)]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    expect(run.returncode == 0, run.stderr[-300:])
    return float(run.stdout.split()[-1]) * 1024 / 1e6


def plan_memory(folder: pathlib.Path) -> str:
    source = make_sparse(folder / "m", 32768, 16384)  # 2 GB
    peak = _peak_mb("ArrowQuantV2('base').plan(sys.argv[1])", source)
    expect(peak < 200, f"{peak:.0f} MB")
    return "under 200 MB for the plan of a 2 GB file"


def run_memory(folder: pathlib.Path) -> str:
    tensors = {f"blocks.{i}.attn.to_q.weight": np.zeros((2048, 4096), np.float32) for i in range(12)}
    source = make_model(folder / "m", tensors)  # 12 tensors of 34 MB
    code = "ArrowQuantV2('base').quantize(sys.argv[1], sys.argv[2])"
    least = _peak_mb("None")
    peak = _peak_mb(code, source, folder / "q")
    expect(peak - least < 250, f"{peak - least:.0f} MB more than the interpreter alone")
    return "less than 250 MB above the interpreter for 12 tensors of 34 MB (403 MB), read tensor by tensor"


def large_embedding(folder: pathlib.Path) -> str:
    name = "blocks.0.class_table.weight"
    source = make_model(folder / "m", {name: np.zeros((200_000, 64), np.float32)})
    config = "DiffusionQuantConfig(quantize_patterns=['.'], min_accuracy=0.0)"
    code = f"ArrowQuantV2('base').quantize_diffusion_model(sys.argv[1], sys.argv[2], {config})"
    peak = _peak_mb(code, source, folder / "q") - _peak_mb("None")
    expect(peak < 200, f"{peak:.0f} MB more than the interpreter alone")
    return "200000 x 64 (51 MB): less than 200 MB above the interpreter"


COUNT_WORKERS = (
    "import os, sys; from arrow_quant_v2 import ArrowQuantV2; before = len(os.listdir('/proc/self/task')); "
    "ArrowQuantV2('base').quantize(sys.argv[1], sys.argv[2]); print(len(os.listdir('/proc/self/task')) - before)"
)


def affinity(folder: pathlib.Path) -> str:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + COUNT_WORKERS
    line = [sys.executable, "-c", code, str(forty(folder)), str(folder / "q")]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    expect(run.stdout.strip() == "1", f"{run.stdout.strip()} threads for one CPU")
    return "one worker thread where the process may use one CPU"


def quota(folder: pathlib.Path) -> str:
    """In a mount namespace of its own, where the control group's file says half a CPU, or 1.5 of at least 3."""
    if len(os.sched_getaffinity(0)) < 3:
        quota_us, workers = 50_000, 1
    else:
        quota_us, workers = 150_000, 2
    prepare = f"mount -t tmpfs tmpfs /sys/fs/cgroup && echo {quota_us} 100000 > /sys/fs/cgroup/cpu.max"
    if subprocess.run(["unshare", "-m", "sh", "-c", prepare], capture_output=True, check=False).returncode != 0:
        raise NotHere("needs the right to mount")
    command_line = 'exec "$0" -c "$1" "$2" "$3"'
    line = ["unshare", "-m", "sh", "-c", f"{prepare} && {command_line}", sys.executable, COUNT_WORKERS]
    run = subprocess.run([*line, str(forty(folder)), str(folder / "q")], capture_output=True, text=True, check=False)
    expect(run.stdout.strip() == str(workers), f"{run.stdout.strip()} threads; {run.stderr[-200:]}")
    return "as many worker threads as the quota of the control group, rounded up"


def same_bytes(folder: pathlib.Path) -> str:
    source = forty(folder)
    for name, threads in (("one", 1), ("two", 2), ("again", 2), ("all", 0)):
        quantize(source, folder / name, num_threads=threads)
    digests = {digest(folder / name) for name in ("one", "two", "again", "all")}
    expect(len(digests) == 1, f"{len(digests)} different outputs")
    return "1 thread, 2 threads, twice, all CPUs: identical files"


def overwrite(folder: pathlib.Path) -> str:
    source = forty(folder)
    quantize(source, folder / "q")
    before = digest(folder / "q")
    message = refused(lambda: quantize(source, folder / "q"), "configuration", "--overwrite", folder=folder)
    expect(digest(folder / "q") == before, "the output is touched")
    other = refused(
        lambda: ArrowQuantV2("base").quantize(source, source, overwrite=True),
        "configuration",
        "replace",
        folder=folder,
    )
    return f"{message} Over the input: {other}"


def exit_codes(folder: pathlib.Path) -> str:
    source = forty(folder)
    runs = {
        0: command("quantize", source, folder / "q", "--mode", "base", "--min-accuracy", "0"),
        1: command("validate", source, folder / "q", "--min-accuracy", "0.99999"),
        2: command("quantize", source, folder / "p", "--mode", "base", "--bits", "5"),
        3: command("quantize", folder / "nowhere", folder / "p"),
    }
    for want, run in runs.items():
        expect(run.returncode == want, f"{run.returncode} instead of {want}: {run.stderr.strip()}")
        expect("Traceback" not in run.stderr, "a traceback is shown")
    return "0, 1 (quality), 2 (usage), 3 (input); no traceback"


def fell_back(folder: pathlib.Path) -> str:
    source = forty(folder)
    line = ["quantize", source, folder / "q", "--mode", "base", "--bits", 2, "--min-accuracy", "0.95"]
    plain = command(*line)
    expect(plain.returncode == 0 and "40 of 40 layers fell back" in plain.stdout, plain.stdout[-200:] + plain.stderr)
    strict = command(*line, "--overwrite", "--strict")
    expect(strict.returncode == 1, f"--strict exits with {strict.returncode}")
    return "each step printed with its cause; a last line '40 of 40 layers fell back'; --strict exits with 1"
