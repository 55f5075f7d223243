"""Write the report's two files."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from arrow_quant_v2.errors import ConfigurationError, MetadataError, ResourceError, UnsupportedModelError
from arrow_quant_v2.report.collect import collect
from arrow_quant_v2.report.render import render

PathLike = str | os.PathLike[str]
Facts = dict[str, Any]


def write_report(
    quantized: PathLike,
    original: PathLike | None = None,
    output: PathLike | None = None,
    *,
    result: PathLike | None = None,
    samples: int = 0,
    seed: int = 0,
    allow_remote_code: bool = False,
    progress_callback: Callable[[str, float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[pathlib.Path, Facts]:
    """Write what is known of a quantized model as one HTML file that needs no network, and as JSON beside it.

    Args:
        quantized: a folder that quantize wrote, or a Parquet model of an older layout.
        original: the model that it was made from. Weights are measured against it.
        output: the HTML file; default ``quantized`` with "-report.html" behind its name. Both files are replaced.
        result: a file with the result of the run, as ``arrow-quant quantize --json`` prints it: times, memory,
            fallbacks and warnings, which the model's files do not hold.
        samples: how many samples to draw with both models from ``seed``; needs ``original`` and PyTorch.
        allow_remote_code: build the models by code in the folder of ``original`` where config.json needs it.

    Returns:
        The HTML file, and the facts of the JSON, which docs/report.md describes. What is not known is None there.

    Raises:
        ModelNotFoundError, UnsupportedModelError, CorruptFileError: there is no quantized model, or it is broken.
        ConfigurationError: ``original`` or ``result`` is of another model, samples without an original, or an output
        that does not end in .html. ShapeMismatchError: ``original`` has other shapes. ResourceError: writing.
        CancelledError: ``should_stop`` was true.
    """
    source = pathlib.Path(quantized)
    page = (
        pathlib.Path(output)
        if output is not None
        else source.resolve().with_name(f"{source.resolve().name}-report.html")
    )
    _check(page, original, samples)
    base = None if original is None else pathlib.Path(original)
    facts = collect(source, base, None if result is None else pathlib.Path(result), should_stop)
    shown = _add_samples(facts, source, base, (samples, seed), allow_remote_code, progress_callback)
    _write(page, render(facts, shown))
    _write(page.with_suffix(".json"), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return page, facts


def _check(page: pathlib.Path, original: PathLike | None, samples: int) -> None:
    if page.suffix not in (".html", ".htm") or page.is_dir():
        raise ConfigurationError(f"the report is to be {page}. Name a file that ends in .html.", file=str(page))
    if samples < 0:
        raise ConfigurationError(f"samples is {samples}. Give 0 or more.")
    if samples and original is None:
        raise ConfigurationError("samples are drawn with both models. Give the original too.")


def _add_samples(
    facts: Facts,
    quantized: pathlib.Path,
    original: pathlib.Path | None,
    count_and_seed: tuple[int, int],
    allow_remote_code: bool,
    progress: Callable[[str, float], None] | None,
) -> list[Facts]:
    """Put the figures of samples into ``facts``, or a warning that says why there are none; returns the samples."""
    if original is None or count_and_seed[0] == 0:
        return []
    try:
        from arrow_quant_v2.report.samples import sample_both

        facts["samples"], shown = sample_both(original, quantized, *count_and_seed, allow_remote_code, progress)
    except (UnsupportedModelError, MetadataError) as error:
        facts["warnings"].append(f"no samples: {error}")
        return []
    facts["headline"].update({key: facts["samples"][key] for key in ("psnr_db", "token_agreement")})
    return shown


def _write(path: pathlib.Path, text: str) -> None:
    """Under its name when it is complete. Raises ResourceError."""
    unfinished = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, "utf-8", errors="backslashreplace")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise ResourceError.compose(
            f"the report cannot be written: {error.strerror}", file=str(path), remedy="Name another file with --out."
        ) from error
