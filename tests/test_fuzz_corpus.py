"""The kept corpus of the fuzz targets, through the Python API: every input is read or refused by our own errors."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import pytest

from arrow_quant_v2 import ArrowQuantError, ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, QuantizedModel

CORPUS = pathlib.Path(__file__).parent / "fuzz_corpus"


def inputs(target: str) -> list[pathlib.Path]:
    files = sorted((CORPUS / target).iterdir())
    assert files
    return files


def read_model(path: pathlib.Path) -> int:
    """Number of tensors that could be expanded."""
    model = QuantizedModel(path)
    return sum(tensor.dequantize().size > 0 for tensor in model.entries)


def test_parquet_inputs_are_read_or_refused(tmp_path: pathlib.Path) -> None:
    expanded = refused = 0
    for path in inputs("model_reader"):
        file = tmp_path / "model.parquet"
        file.write_bytes(path.read_bytes())
        try:
            expanded += read_model(file)
        except ArrowQuantError as error:
            refused += 1
            assert str(error).startswith(str(file))
    assert expanded >= 5
    assert refused >= 5


def test_a_page_that_claims_gigabytes_takes_neither_memory_nor_time() -> None:
    program = (
        "import sys, resource, arrow_quant_v2 as aq\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    aq.QuantizedModel(sys.argv[1])\nexcept aq.CorruptFileError:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    file = CORPUS / "model_reader" / "found_page_claims_gigabytes"
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True)
    # It took 16 s and 1,700,000 KB before; importing takes a second or two on a busy machine.
    assert time.perf_counter() - begin < 12
    assert int(run.stdout) < 100_000


def test_configuration_texts_are_read_or_refused() -> None:
    accepted = 0
    for path in [*inputs("yaml"), *inputs("config")]:
        text = path.read_bytes().decode("utf-8", "replace")
        try:
            config = DiffusionQuantConfig.from_yaml_text(text)
        except ConfigurationError as error:
            assert error.message
            continue
        accepted += 1
        assert DiffusionQuantConfig.from_yaml_text(config.to_yaml()) == config
    assert accepted >= 20


def test_safetensors_headers_are_read_or_refused(tmp_path: pathlib.Path) -> None:
    accepted = 0
    for path in inputs("header"):
        file = tmp_path / "model.safetensors"
        file.write_bytes(path.read_bytes())
        try:
            accepted += len(ArrowQuantV2("base").plan(file)["kept"]) > 0
        except ArrowQuantError as error:
            assert "model.safetensors" in str(error)
    assert accepted >= 3


@pytest.mark.parametrize("target", ["checkpoint", "config", "header", "model_reader", "record_row", "yaml"])
def test_the_corpus_stays_small(target: str) -> None:
    assert sum(path.stat().st_size for path in inputs(target)) < 50_000
