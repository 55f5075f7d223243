"""Public quantizers from PyPI beside ours and textbook GPTQ, on the same layers and in one process.

usage: peers.py --problem FILE [--sizes 2048] [--threads 1 2] [--repeats N] [--only TEXT] [--cache DIR] [--out FILE]

Needs requirements/peers.txt in an environment of its own, and this package on PYTHONPATH. What is measured is told in
bench/rounding.py and in the notes that go above the tables. A package that is missing or fails is listed with the
reason.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import rounding
import torch
from arrow_quant_v2._native import core
from torch import nn

NOTES = """Error is tr(E H E^T) / tr(W H W^T), as in bench/rounding.py; all methods see the same weight and activations.
Bits a weight of the peers: the tensors that they store, floating-point grids counted at 16 bits, no compression; ours
and those of textbook GPTQ are a Parquet file (ZSTD). Seconds of ours and of textbook GPTQ run from the second moment,
whose own seconds are below; those of the peers are their whole public call, its pass over the activations included.
Left out: GPTQ of torchao ("ImportError: Requires mslk >= 1.0.0", a CUDA package) and its packed formats (the same, or
"does not support device 'cpu' yet"), so its rows store a byte a weight; gptqmodel 7.7.0 and auto-round 0.16, see
requirements/peers.txt.
"""
SAMPLE_ROWS = 32  # of activations in one calibration sample


@dataclass(frozen=True)
class Outcome:
    """What a method makes of a weight [rows, columns]: the values that are read back, and what it stores."""

    values: np.ndarray
    stored_bytes: float


# Weight, activations [rows, columns], bits, group size.
Peer = Callable[[np.ndarray, np.ndarray, int, int], Outcome]


class OneLayer(nn.Module):
    """A model of one linear layer, for pipelines that want a model."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.layer.weight = nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def stored_bytes(tensors: list[torch.Tensor]) -> float:
    """Floating-point tensors as for a model of 16 bits."""
    return float(sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors))


def values(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


def llmcompressor_gptq(observer: str) -> Peer:
    """GPTQ with activation order, grids by ``observer``; stored as compressed-tensors packs it."""

    def run(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
        from compressed_tensors.compressors.base import compress_module
        from llmcompressor.core import create_session
        from llmcompressor.modifiers.gptq import GPTQModifier
        from llmcompressor.pipelines.basic.pipeline import BasicPipeline
        from loguru import logger

        logger.remove()
        model = OneLayer(weight)
        scheme = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": group}
        recipe = GPTQModifier(
            config_groups={"all": {"targets": ["Linear"], "weights": {**scheme, "observer": observer}}}
        )
        batches = [{"x": torch.from_numpy(x[i : i + 2048])} for i in range(0, len(x), 2048)]
        with create_session() as session:
            session.initialize(model=model, recipe=recipe, start=-1)
            BasicPipeline()(model, batches, None)
            session.finalize()
        made = values(model.layer.weight)
        compress_module(model.layer, "pack-quantized")
        kept = [tensor for name, tensor in model.layer.state_dict().items() if name != "weight_shape"]
        return Outcome(made, stored_bytes(kept))

    return run


def auto_round(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
    """Sign gradient descent on rounding and clipping, 200 steps; stored as its own packed linear layer."""
    from auto_round import AutoRound
    from auto_round.schemes import QuantizationScheme
    from auto_round_extension.torch.qlinear_torch import QuantLinear

    model = nn.Module()
    block = OneLayer(weight)
    model.model = nn.Module()
    model.model.layers = nn.ModuleList([block])
    model.dtype, model.config, model.name_or_path = torch.float32, None, ""
    block.layer.tmp_name = block.layer.global_name = "model.layers.0.layer"
    scheme = QuantizationScheme(bits=bits, group_size=group, sym=False, data_type="int", act_bits=16)
    tuner = AutoRound(
        model=model, tokenizer="", scheme=scheme, iters=200, enable_torch_compile=False, batch_size=8, device_map="cpu"
    )
    tuner.configure_layer_config(enable_gguf_official_mixed=False)
    tuner.batch_dim = 0
    block.tuning_device = torch.device("cpu")
    samples = torch.from_numpy(x).reshape(-1, 1, SAMPLE_ROWS, x.shape[1])
    with torch.enable_grad():
        inputs = [(((sample,), {}),) for sample in samples]
        tuner.quantize_block(block=block, inputs=inputs, q_input=None, device="cpu", auto_offload=False)
    layer = block.layer
    made = values(layer.weight)
    packed = QuantLinear(bits, group, weight.shape[1], weight.shape[0], bias=False)
    return Outcome(made, stored_bytes([packed.qweight, packed.qzeros, packed.scales]))


def gptqmodel_gptq(act_group_aware: bool) -> Peer:
    """GPTQ by columns of falling importance, or in the order that keeps groups together ("GAR")."""

    def run(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
        from gptqmodel.quantization import GPTQ, QuantizeConfig

        config = QuantizeConfig(
            bits=bits, group_size=group, sym=False, desc_act=not act_group_aware, act_group_aware=act_group_aware
        )
        layer = OneLayer(weight).layer
        worker = GPTQ(layer, config)
        worker.quantizer.configure(perchannel=True)
        for i in range(0, len(x), 2048):
            batch = torch.from_numpy(x[i : i + 2048])[None]
            worker.add_batch(batch, layer(batch))
        made, scales, zeros, order, *_ = worker.quantize()
        grids = 2 * scales.numel() + zeros.numel() * bits / 8 + 4 * order.numel()
        return Outcome(values(made), weight.size * bits / 8 + grids)

    return run


def hqq(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
    """Half-quadratic: no activations."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=1)
    layer = HQQLinear(OneLayer(weight).layer, config, compute_dtype=torch.float32, device="cpu")
    return Outcome(values(layer.dequantize()), stored_bytes([layer.W_q, layer.meta["scale"], layer.meta["zero"]]))


def quanto(optimizer: str) -> Peer:
    """No activations; widths of 2 and 4 bits only."""

    def run(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
        from optimum import quanto

        kind = {2: quanto.qint2, 4: quanto.qint4}.get(bits)
        if kind is None:
            raise ValueError(f"has no type of {bits} bits")
        w = torch.from_numpy(weight.copy())
        scale, shift = getattr(quanto, optimizer)()(w, kind, 0, group)
        made = quanto.quantize_weight(w, kind, 0, scale, shift, group, optimized=False)
        return Outcome(values(made.dequantize()), weight.size * bits / 8 + stored_bytes([scale, shift]))

    return run


def torchao(algorithm: str) -> Peer:
    """No activations. GPTQ of torchao at these widths needs mslk, which is for CUDA."""

    def run(weight: np.ndarray, x: np.ndarray, bits: int, group: int) -> Outcome:
        from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup, quantize_

        model = OneLayer(weight)
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            granularity=PerGroup(group),
            mapping_type=MappingType.ASYMMETRIC,
            intx_choose_qparams_algorithm=algorithm,
        )
        quantize_(model, config)
        made = model.layer.weight
        kept = [getattr(made, name) for name in ("qdata", "scale", "zero_point")]
        return Outcome(values(made.dequantize()), stored_bytes(kept))

    return run


PEERS: dict[str, tuple[str, Peer]] = {
    "GPTQ, act-order": ("llmcompressor", llmcompressor_gptq("memoryless_minmax")),
    "GPTQ, act-order, clip search": ("llmcompressor", llmcompressor_gptq("memoryless_mse")),
    "GPTQ, act-order, clip search by activations": ("llmcompressor", llmcompressor_gptq("imatrix_mse")),
    "GPTQ, desc_act": ("gptqmodel", gptqmodel_gptq(act_group_aware=False)),
    "GPTQ, group-aware order": ("gptqmodel", gptqmodel_gptq(act_group_aware=True)),
    "sign descent, 200 steps": ("auto-round", auto_round),
    "half-quadratic": ("hqq", hqq),
    "min-max": ("optimum-quanto", quanto("MaxOptimizer")),
    "half-quadratic ": ("optimum-quanto", quanto("HqqOptimizer")),
    "min-max, unpacked": ("torchao", torchao("affine")),
    "half-quadratic scale, unpacked": ("torchao", torchao("hqq_scale_only")),
}
OURS = ("textbook GPTQ (torch)", "ours, 2 rounds", "ours, 2 rounds, column scales")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and greetings of the packages."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def warm_up(weight: np.ndarray, x: np.ndarray) -> None:
    """Import and set up every package, outside the clock."""
    for _, peer in PEERS.values():
        with quiet(), contextlib.suppress(Exception):  # comes again where it is measured
            peer(weight, x, 4, 64)


@dataclass(frozen=True)
class Method:
    """A line of a table: ``run`` gives an outcome for a number of threads."""

    name: str
    run: Callable[[int], Outcome]
    repeats: int


def our_methods(w: np.ndarray, h: np.ndarray, bits: int, group: int, repeats: int) -> list[Method]:
    def outcome(job: Callable[[int], rounding.Layer], threads: int) -> Outcome:
        return job(threads)  # type: ignore[return-value]  # opened by finish(), outside the clock

    jobs = rounding.jobs(w, h, bits, group)
    return [Method(name, lambda threads, job=jobs[name]: outcome(job, threads), repeats) for name in OURS]


def peer_methods(w: np.ndarray, x: np.ndarray, bits: int, group: int, only: str) -> list[Method]:
    def run(peer: Peer, threads: int) -> Outcome:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        with quiet(), torch.no_grad():
            return peer(w, x, bits, group)

    return [
        Method(f"{package} {version(package)}: {name.strip()}", lambda threads, peer=peer: run(peer, threads), 1)
        for name, (package, peer) in PEERS.items()
        if only in f"{package} {name}"
    ]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def timed(method: Method, threads: int) -> tuple[float, Any]:
    best, made = math.inf, None
    for _ in range(method.repeats):
        start = time.perf_counter()
        made = method.run(threads)
        best = min(best, time.perf_counter() - start)
    return best, made


def finish(made: Any, w: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Values and bits a weight."""
    if isinstance(made, Outcome):
        return made.values, 8 * made.stored_bytes / w.size
    return rounding.values_of(made, w, bits), rounding.bits_on_disk(made, w, bits)


def row(method: Method, w: np.ndarray, h: np.ndarray, bits: int, threads: list[int]) -> tuple[float, list[str]]:
    """Error, and the cells after it."""
    times = []
    for count in threads:
        seconds, made = timed(method, count)
        times.append(f"{seconds:.2f}")
    made_values, stored = finish(made, w, bits)
    return rounding.relative_error(w, np.ascontiguousarray(made_values), h), [f"{stored:.2f}", *times]


def table(
    w: np.ndarray, x: np.ndarray, h: np.ndarray, bits: int, group: int, options: argparse.Namespace
) -> Iterator[str]:
    """Markdown lines of one setting."""
    threads = options.threads
    seconds = "".join(f" s, {n} thread{'s' * (n > 1)} |" for n in threads)
    yield f"| {bits} bit, g{group} | error | of GPTQ | bits a weight |{seconds}"
    yield "|---|---|---|---|" + "---|" * len(threads)
    reference = math.nan
    methods = our_methods(w, h, bits, group, options.repeats) + peer_methods(w, x, bits, group, options.only)
    for method in methods:
        try:
            error, cells = row(method, w, h, bits, threads)
        except Exception as problem:  # a peer's failure is a result
            yield f"| {method.name} | not run: {reason(problem)} |" + " |" * (2 + len(threads))
            continue
        if math.isnan(reference):
            reference = error
        yield "| " + " | ".join([method.name, f"{error:.5f}", f"{error / reference:.3f}", *cells]) + " |"


def reason(problem: Exception) -> str:
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return text[:160].replace("|", "/")


def second_moment_seconds(x: np.ndarray, threads: list[int]) -> str:
    """Of ours and of one product in torch."""
    parts = []
    for count in threads:
        torch.set_num_threads(count)
        start = time.perf_counter()
        core.accumulate_second_moment(np.zeros((x.shape[1],) * 2, np.float32), x, count)
        middle = time.perf_counter()
        rows = torch.from_numpy(x)
        rows.T @ rows
        end = time.perf_counter()
        parts.append(f"{middle - start:.2f} s (torch {end - middle:.2f} s) on {count} thread{'s' * (count > 1)}")
    return f"The second moment of {len(x)} rows: " + ", ".join(parts) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", type=pathlib.Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1, help="of ours and of textbook GPTQ")
    parser.add_argument("--only", default="", help="peers whose package or method contains this")
    parser.add_argument("--remark", default="", help="a sentence about the machine for the top")
    parser.add_argument("--cache", type=pathlib.Path, default=None, help="holds W2048.npy, X2048.npy, H2048.npy, ...")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    options = parser.parse_args()
    problem = rounding.load_module(options.problem)
    warm_up(problem.weight(64, 128), problem.acts(256, 128))
    machine = rounding.describe_machine().replace("bench/rounding.py", "bench/peers.py")
    lines = [machine, "", *([options.remark, ""] if options.remark else []), NOTES]
    for size in options.sizes:
        w, x, h = rounding.arrays(problem, size, options.cache)
        lines += [f"## {w.shape[0]} x {size}", "", second_moment_seconds(x, options.threads), ""]
        for bits, group in rounding.SETTINGS:
            for line in table(w, x, h, bits, group, options):
                lines.append(line)
                print(line, flush=True)
                if options.out is not None:
                    options.out.write_text("\n".join([*lines, ""]), encoding="utf-8")
            lines.append("")
    if options.out is not None:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
