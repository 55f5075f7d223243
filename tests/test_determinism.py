"""A calibrated model has the same bytes whatever instruction set and number of threads made it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from helpers import digest

pytest.importorskip("torch")

_QUANTIZE = """
import sys
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig
from arrow_quant_v2._native import core
source, statistics, output, isa, threads = sys.argv[1:]
assert core.active_isa() == isa
config = DiffusionQuantConfig(bit_width=2, group_size=64, num_threads=int(threads), num_time_groups=4, min_accuracy=0.0,
                              strategy="r2q", strategy_time_aware="always", layer_bit_widths={r"to_v": 3, r"attn1": 4},
                              keep_patterns=[r"blocks\\.[1-5]"])
ArrowQuantV2().quantize_diffusion_model(source, output, config, statistics)
"""
_ISAS = ("scalar", "avx2", "avx512")


def has(isa: str) -> bool:
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    return isa == "scalar" or {"avx2": "avx2", "avx512": "avx512bw"}[isa] in flags


@pytest.fixture(scope="module")
def statistics(tmp_path_factory, demo_model):
    from arrow_quant_v2 import DiffusionQuantConfig
    from arrow_quant_v2.torch import calibrate_model

    config = DiffusionQuantConfig(calibration_samples=4, num_time_groups=4, keep_patterns=[r"blocks\.[1-5]"])
    path = tmp_path_factory.mktemp("statistics") / "s.parquet"
    return calibrate_model(demo_model, path, config)


def test_same_bytes_for_every_instruction_set_and_number_of_threads(tmp_path, demo_model, statistics):
    digests = {}
    for isa in filter(has, _ISAS):
        for threads in ("1", "2"):
            output = tmp_path / f"{isa}-{threads}"
            command = [sys.executable, "-c", _QUANTIZE, str(demo_model), str(statistics), str(output), isa, threads]
            subprocess.run(command, env={**os.environ, "ARROW_QUANT_ISA": isa}, check=True)
            digests[isa, threads] = digest(output)
    assert len(digests) >= 2
    assert len(set(digests.values())) == 1, digests
