"""arrow-quant evaluate: what a quantized model makes, beside the float one."""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Any

import typer
from rich.console import Console

from arrow_quant_v2.calibration_columns import column_names
from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS
from arrow_quant_v2.cli.progress import progress_reporter
from arrow_quant_v2.cli.tables import print_evaluation
from arrow_quant_v2.errors import ConfigurationError, ResourceError
from arrow_quant_v2.extras import needs_extra

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataOption = Annotated[
    str | None, typer.Option(help="JSONL, Parquet, Arrow, image, WAV or text file, folder, or data set name.")
]
ColumnOption = Annotated[
    list[str] | None, typer.Option(help="NAME of the column of samples, or COLUMN=NAME; may be repeated.")
]
RemoteCodeOption = Annotated[
    bool | None, typer.Option("--allow-remote-code", help="Run Python code in the model's folder to build the model.")
]
SplitOption = Annotated[str | None, typer.Option(help="Of a Hugging Face data set; default train.")]


def evaluate(
    original: Annotated[pathlib.Path, typer.Argument(help="The float model's directory, with config.json.")],
    quantized: Annotated[pathlib.Path, typer.Argument(help="The quantized model's directory.")],
    samples: Annotated[int, typer.Option(help="Pictures, sounds, or windows of text.")] = 16,
    seed: Annotated[int, typer.Option(help="Of noise, classes and masks.")] = 0,
    activations: Annotated[str | None, typer.Option(help="int8, int6 or int4; default floating point.")] = None,
    data: DataOption = None,
    column: ColumnOption = None,
    split: SplitOption = None,
    max_bad_rows: Annotated[
        int, typer.Option(help="Unusable rows to skip before it is an error.")
    ] = DEFAULT_MAX_BAD_ROWS,
    output: Annotated[pathlib.Path | None, typer.Option("--out", help="Also write the result, JSON, there.")] = None,
    allow_remote_code: RemoteCodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what the float and the quantized model make from the same seed: pictures, sounds, or text."""
    refuse_columns_without_data(data, column, split)
    if output is not None and output.is_dir():
        raise ConfigurationError(f"{output} is a folder. Name the file to write.", file=str(output))
    with needs_extra("evaluate", "torch"):
        from arrow_quant_v2.torch import evaluate as compare
    with progress_reporter(quiet=as_json, title="evaluating") as report:
        result = compare(
            original, quantized, samples, seed, activations, data=data, columns=column_names(column or []),
            split=split, max_bad_rows=max_bad_rows, allow_remote_code=bool(allow_remote_code),
            progress_callback=report,
        )  # fmt: skip
    if output is not None:
        _write(output, result)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_evaluation(Console(markup=False), result)


def refuse_columns_without_data(data: str | None, column: list[str] | None, split: str | None) -> None:
    if data is None and (column or split):
        raise ConfigurationError("--column and --split say how to read --data. Give --data.")


def _write(path: pathlib.Path, result: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResourceError.compose(
            f"cannot be written: {error.strerror}", file=str(path), remedy="Name another file with --out."
        ) from error
