"""A model of 7 billion parameters through the whole command: seconds, peak memory, and where the time goes.

usage: large_model.py [--layers 32] [--bits 4 2] [--threads 2 1] [--work DIR] [--out FILE]

The model has the shapes of LLaDA-8B but for its vocabulary of 32,000 tokens: 7.0 billion parameters, 14 GB of bfloat16
in shards of 2 GB, random normal weights (a block of 64 MB that is repeated with a shift, so that writing takes a minute
and no group is like another). It is written below DIR, which needs 20 GB, and removed. The command is `arrow-quant
quantize --mode base`, from the files to the finished directory, in a process of its own; peak memory is that of the
process, with the pages of the source that the system holds for it taken off, and with them.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np

HIDDEN, FEED_FORWARD, VOCABULARY = 4096, 12288, 32000
SHARD_BYTES = 2_000_000_000
BLOCK = 32 << 20  # values

Shape = tuple[int, ...]


def shapes(layers: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in the order of the file."""
    yield "model.transformer.wte.weight", (VOCABULARY, HIDDEN)
    for i in range(layers):
        prefix = f"model.transformer.blocks.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            yield f"{prefix}.{name}.weight", (HIDDEN, HIDDEN)
        for name in ("ff_proj", "up_proj"):
            yield f"{prefix}.{name}.weight", (FEED_FORWARD, HIDDEN)
        yield f"{prefix}.ff_out.weight", (HIDDEN, FEED_FORWARD)
        for name in ("attn_norm", "ff_norm"):
            yield f"{prefix}.{name}.weight", (HIDDEN,)
    yield "model.transformer.ln_f.weight", (HIDDEN,)
    yield "model.transformer.ff_out.weight", (VOCABULARY, HIDDEN)


def split(tensors: list[tuple[str, Shape]]) -> list[list[tuple[str, Shape]]]:
    shards: list[list[tuple[str, Shape]]] = [[]]
    filled = 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    return shards


def random_block() -> bytes:
    """Normal values of a standard deviation of 0.02 as bfloat16, by cutting float32."""
    values = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write_shard(path: pathlib.Path, tensors: list[tuple[str, Shape]], block: bytes, begin: int) -> int:
    """A safetensors file; returns where in the block the next one goes on."""
    header, at = {}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while at > 0:
            part = block[begin : begin + at]
            file.write(part)
            at -= len(part)
            begin = (begin + len(part)) % len(block) or 2 * 7919  # so that no repetition falls on a group's beginning
    return begin


def write_model(folder: pathlib.Path, layers: int) -> int:
    """Returns its parameters."""
    folder.mkdir()
    tensors, block, begin, index = list(shapes(layers)), random_block(), 0, {}
    shards = split(tensors)
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        begin = write_shard(folder / name, shard, block, begin)
        index.update({tensor: name for tensor, _ in shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "hidden_size": HIDDEN, "n_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return sum(int(np.prod(shape)) for _, shape in tensors)


def own_memory(pid: int) -> int:
    """Bytes of a process that are its own, not pages of files."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split() for line in text.splitlines() if line.startswith(("RssAnon", "RssShmem"))]
    return sum(int(words[1]) for words in found) * 1024


def run(source: pathlib.Path, output: pathlib.Path, bits: int, threads: int) -> dict[str, float]:
    command = [
        sys.executable, "-m", "arrow_quant_v2.cli.main", "quantize", str(source), str(output), "--mode", "base",
        "--bits", str(bits), "--threads", str(threads), "--json",
    ]  # fmt: skip
    environment = {**os.environ, "ARROW_QUANT_CALIBRATION": "none"}
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, own_memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        text, _ = process.communicate()
        done.set()
        watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"the command ended with {process.returncode}")
    result = json.loads(text)
    return {
        "seconds": time.perf_counter() - start, "own_mb": peak / 1e6, "peak_mb": result["peak_memory_mb"],
        "size_mb": result["model_size_mb"], "bits": result["bits_per_weight"],
    }  # fmt: skip


def read_seconds(folder: pathlib.Path) -> float:
    """Of reading every byte of the source, as the system holds it now."""
    start = time.perf_counter()
    buffer = bytearray(1 << 24)
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def machine() -> str:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return f"{model or platform.machine()}, {os.cpu_count()} CPUs, commit {commit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        source, output = pathlib.Path(work) / "source", pathlib.Path(work) / "out"
        parameters = write_model(source, arguments.layers)
        total = sum(path.stat().st_size for path in source.glob("*.safetensors"))
        lines = [
            "# A model of 7 billion parameters", "",
            f"{parameters / 1e9:.2f} billion parameters, {total / 1e9:.1f} GB of bfloat16, base mode, groups of 128. "
            f"Machine: {machine()}. Made by bench/large_model.py. Own memory is what the process holds apart from "
            "pages of files.", "",
            "| bits | threads | seconds | own peak MB | peak MB with pages of files | MB on disk | bits a weight |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for bits in arguments.bits:
            for threads in arguments.threads:
                got = run(source, output, bits, threads)
                lines.append(
                    f"| {bits} | {threads} | {got['seconds']:.0f} | {got['own_mb']:.0f} | {got['peak_mb']:.0f} | "
                    f"{got['size_mb']:.0f} | {got['bits']:.2f} |"
                )
                print(lines[-1], flush=True)
                shutil.rmtree(output)
        lines += ["", f"Reading the source alone, by one thread without any work: {read_seconds(source):.0f} s."]
        print(lines[-1])
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
