"""The kept corpus of the fuzz targets, through the Python API: every input is read or refused by our own errors."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantError, ArrowQuantV2, DiffusionQuantConfig, QuantizedModel
from arrow_quant_v2._native import core
from helpers import PRINT_PEAK_KB

CORPUS = pathlib.Path(__file__).parent / "fuzz_corpus"


def inputs(target: str) -> list[pathlib.Path]:
    files = sorted((CORPUS / target).iterdir())
    assert files
    return files


def read_model(path: pathlib.Path) -> int:
    """Number of tensors that could be expanded."""
    model = QuantizedModel(path)
    return sum(tensor.dequantize().size > 0 for tensor in model if tensor.quantized)


def errors_of(body: Callable[[pathlib.Path], int], file: pathlib.Path) -> tuple[int, list[str]]:
    """What body(file) gives, or the sentence with which it refuses the file."""
    try:
        return body(file), []
    except ArrowQuantError as error:
        return 0, [str(error)]


def test_parquet_inputs_are_read_or_refused(tmp_path: pathlib.Path) -> None:
    expanded, refusals = 0, []
    file = tmp_path / "model.parquet"
    for path in inputs("model_reader"):
        file.write_bytes(path.read_bytes())
        count, errors = errors_of(read_model, file)
        expanded += count
        refusals += errors
    assert expanded >= 5
    assert len(refusals) >= 5
    assert all(text.startswith(str(file)) for text in refusals)


@pytest.mark.parametrize(
    ("rows", "cols", "bits", "group_size"),
    [(1, 4, 4, 0), (4, 2**62, 4, 2**62), (2**32, 2**32, 4, 2**32), (4, 4, 0, 4), (4, 4, 5, 4), (2**63, 1, 8, 1)],
)
def test_impossible_matrices_are_refused(rows: int, cols: int, bits: int, group_size: int) -> None:
    none, four = np.zeros(0, np.uint8), np.zeros(4, np.float32)
    with pytest.raises(ArrowQuantError):
        core.dequantize_array(none, rows, cols, bits, group_size, four, four)


def test_a_page_that_claims_gigabytes_takes_neither_memory_nor_time() -> None:
    program = (
        "import sys, arrow_quant_v2 as aq\n"
        "try:\n    aq.QuantizedModel(sys.argv[1])\nexcept aq.CorruptFileError:\n    "
        + PRINT_PEAK_KB.format(file="sys.stdout")
    )
    file = CORPUS / "model_reader" / "found_page_claims_gigabytes"
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True)
    # It took 16 s and 1,700,000 KB before; importing takes a second or two on a busy machine.
    assert time.perf_counter() - begin < 12
    assert int(run.stdout) < 400_000


def read_configuration(path: pathlib.Path) -> int:
    config = DiffusionQuantConfig.from_yaml_text(path.read_bytes().decode("utf-8", "replace"))
    assert DiffusionQuantConfig.from_yaml_text(config.to_yaml()) == config
    return 1


def test_configuration_texts_are_read_or_refused() -> None:
    results = [errors_of(read_configuration, path) for path in [*inputs("yaml"), *inputs("config")]]
    assert sum(count for count, _ in results) >= 20
    assert sum(len(errors) for _, errors in results) >= 20


def plan_kept(path: pathlib.Path) -> int:
    return len(ArrowQuantV2("base").plan(path)["kept"])


def test_safetensors_headers_are_read_or_refused(tmp_path: pathlib.Path) -> None:
    kept, refusals = 0, []
    file = tmp_path / "model.safetensors"
    for path in inputs("header"):
        file.write_bytes(path.read_bytes())
        count, errors = errors_of(plan_kept, file)
        kept += count
        refusals += errors
    assert kept >= 3
    assert all("model.safetensors" in text for text in refusals)


@pytest.mark.parametrize("target", ["checkpoint", "config", "header", "model_reader", "record_row", "yaml"])
def test_the_corpus_stays_small(target: str) -> None:
    assert sum(path.stat().st_size for path in inputs(target)) < 50_000
