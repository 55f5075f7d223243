"""arrow-quant: quantize, inspect, validate, evaluate, report and demo."""

from __future__ import annotations

import json
import pathlib
import signal
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from arrow_quant_v2 import (
    ArrowQuantError,
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizedModel,
    __version__,
    export_safetensors,
    export_v2_extended,
)
from arrow_quant_v2 import convert as convert_model
from arrow_quant_v2._native import core
from arrow_quant_v2.calibration_columns import column_names
from arrow_quant_v2.calibration_data import read_lines
from arrow_quant_v2.cli.evaluate import (
    ColumnOption,
    DataOption,
    JsonOption,
    RemoteCodeOption,
    SplitOption,
    evaluate,
    refuse_columns_without_data,
)
from arrow_quant_v2.cli.exit_codes import EXIT_INPUT, EXIT_QUALITY, exit_code_of
from arrow_quant_v2.cli.jobs import quantize_jobs
from arrow_quant_v2.cli.progress import progress_reporter
from arrow_quant_v2.cli.tables import inspect_table, layer_table, print_evaluation, print_forward, print_summary
from arrow_quant_v2.extras import needs_extra
from arrow_quant_v2.jobs import AT_ONCE

app = typer.Typer(
    help="Quantize diffusion models to INT2, INT4 or INT8 Parquet.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 fine; 1 quality below the threshold, or a layer fell back under --strict; 2 wrong usage or "
    "configuration; 3 bad input, such as a missing or corrupt file. --debug shows tracebacks.",
)  # fmt: skip
# Names and patterns may hold brackets, which are no markup.
out = Console(markup=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"arrow-quant {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Quantize diffusion models to INT2, INT4 or INT8 Parquet."""


def _config(config: pathlib.Path | None, profile: str | None, given: dict[str, Any]) -> DiffusionQuantConfig:
    """Options over environment over file over profile."""
    overrides = {key: value for key, value in given.items() if value not in (None, [])}
    return DiffusionQuantConfig.resolve(profile=profile, path=config, overrides=overrides)


@app.command()
def quantize(
    model: Annotated[pathlib.Path | None, typer.Argument(help="A .safetensors file or a model directory.")] = None,
    output: Annotated[pathlib.Path | None, typer.Argument(help="The directory to make; not for --plan.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="2, 3, 4 or 8.")] = None,
    group_size: Annotated[int | None, typer.Option(help="16, 32, 64, 128, 256, or -1 for a whole row.")] = None,
    profile: Annotated[str | None, typer.Option(help="edge (2 bits), local (4) or cloud (8).")] = None,
    config: Annotated[pathlib.Path | None, typer.Option(help="YAML file of options.")] = None,
    mode: Annotated[str, typer.Option(help="diffusion, or base for any model.")] = "diffusion",
    modality: Annotated[str | None, typer.Option(help="text, code, image or audio.")] = None,
    calibration: Annotated[str | None, typer.Option(help="auto, synthetic, none, or a calibration file.")] = None,
    samples: Annotated[int | None, typer.Option(help="Calibration samples; default the profile's.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Least cosine of a layer.")] = None,
    fit: Annotated[str | None, typer.Option(help="auto, min_max or fitted.")] = None,
    activation_bits: Annotated[
        int | None, typer.Option(help="Activations it will run with: 0 for floating point, or 8, 6, 4.")
    ] = None,
    equalization: Annotated[str | None, typer.Option(help="auto, none, balance or grid.")] = None,
    smoothing: Annotated[str | None, typer.Option(help="auto, none or shift.")] = None,
    hadamard: Annotated[str | None, typer.Option(help="auto, none or block.")] = None,
    on_nonfinite: Annotated[str | None, typer.Option(help="error or keep.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Regex of tensors to keep; may be repeated.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="Regex of tensors to quantize although kept.")] = None,
    components: Annotated[list[str] | None, typer.Option(help="Parts of a pipeline to quantize.")] = None,
    variant: Annotated[str | None, typer.Option(help="File variant, for example fp16.")] = None,
    threads: Annotated[int | None, typer.Option(help="0 for all CPUs.")] = None,
    fail_fast: Annotated[bool | None, typer.Option("--fail-fast", help="Stop at a layer below min accuracy.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when a layer fell back.")] = False,
    allow_remote_code: RemoteCodeOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output, and what another interrupted run has left.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue where the same command was interrupted.")
    ] = True,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Say what would be done, from headers.")] = False,
    save_plan: Annotated[
        pathlib.Path | None, typer.Option(help="Write the plan to a file that --from-plan takes back, and stop.")
    ] = None,
    from_plan: Annotated[
        pathlib.Path | None, typer.Option(help="A saved plan, maybe edited: bits, group size, method of each tensor.")
    ] = None,
    mixed_precision: Annotated[
        bool | None, typer.Option("--mixed-precision/--no-mixed-precision", help="Choose bits by measured errors.")
    ] = None,
    target_size_mb: Annotated[float | None, typer.Option(help="Size for mixed precision, MB of 1e6 bytes.")] = None,
    target_error: Annotated[float | None, typer.Option(help="Error for mixed precision, relative squared.")] = None,
    jobs: Annotated[
        pathlib.Path | None,
        typer.Option(help="A YAML or JSON list of models to quantize, instead of MODEL and OUTPUT."),
    ] = None,
    jobs_at_once: Annotated[int, typer.Option(min=1, help="Jobs at the same time.")] = AT_ONCE,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the options in force and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model into a directory of Parquet files."""
    given = {
        "bit_width": bits, "group_size": group_size, "modality": modality, "min_accuracy": min_accuracy, "fit": fit,
        "on_nonfinite": on_nonfinite, "keep_patterns": keep, "quantize_patterns": also, "components": components,
        "variant": variant, "num_threads": threads, "fail_fast": fail_fast, "calibration": calibration,
        "calibration_samples": samples, "enable_mixed_precision": mixed_precision, "target_size_mb": target_size_mb,
        "target_error": target_error, "from_plan": None if from_plan is None else str(from_plan),
        "strict": strict or None, "activation_bits": activation_bits, "equalization": equalization,
        "smoothing": smoothing, "hadamard": hadamard,
        "allow_remote_code": allow_remote_code,
    }  # fmt: skip
    options = _config(config, profile, given)
    if show_config:
        typer.echo(options.to_json() if as_json else options.to_yaml())
        return
    if jobs is not None:
        if model is not None or plan or save_plan is not None:
            raise ConfigurationError("--jobs names the models itself. Leave out MODEL, --plan and --save-plan.")
        quantize_jobs(jobs, options, jobs_at_once, overwrite, as_json, out)
        return
    plan = plan or save_plan is not None
    quantizer = ArrowQuantV2(mode)
    if model is None or (output is None and not plan):
        raise ConfigurationError(f"{'model' if model is None else 'output'} is missing. Give MODEL and OUTPUT.")
    if plan:
        with progress_reporter(quiet=as_json or not options.enable_mixed_precision) as report:
            planned = quantizer.plan(model, options, progress_callback=report, save_to=save_plan)
        if as_json:
            typer.echo(json.dumps(planned))
        else:
            out.print(layer_table(planned, planned=True))
            print_summary(out, planned, planned=True)
        return
    assert output is not None
    with progress_reporter(quiet=as_json) as report:
        result = quantizer.quantize_diffusion_model(
            model, output, options, overwrite=overwrite, resume=resume, progress_callback=report
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_summary(out, result, planned=False)
    if options.strict and result["layers_fallen_back"]:
        raise typer.Exit(EXIT_QUALITY)


@app.command()
def calibrate(
    model: Annotated[pathlib.Path, typer.Argument(help="A model directory with config.json, or a pipeline.")],
    output: Annotated[
        pathlib.Path | None, typer.Option("--out", help="Default: activation_statistics.parquet in the model's folder.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="JSONL, Parquet, Arrow, image, WAV or text file, folder, or data set name.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME of the column of samples, or COLUMN=NAME; may be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a Hugging Face data set; default train.")] = None,
    prompts: Annotated[
        pathlib.Path | None, typer.Option(help="For a pipeline: a file with a prompt in each line, or a table.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Inference steps for each prompt.")] = None,
    samples: Annotated[int | None, typer.Option(help="Default: the profile's.")] = None,
    max_bad_rows: Annotated[int, typer.Option(help="Unusable rows to skip before it is an error.")] = 10,
    unmasked: Annotated[bool, typer.Option("--unmasked", help="Do not mask text, for comparisons.")] = False,
    profile: Annotated[str | None, typer.Option(help="edge, local or cloud.")] = None,
    config: Annotated[pathlib.Path | None, typer.Option(help="YAML file of options.")] = None,
    threads: Annotated[int | None, typer.Option(help="0 for all CPUs.")] = None,
    allow_remote_code: RemoteCodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what a model's layers see on your data or, without, on its own sampling, for later runs of quantize."""
    given = {"calibration_samples": samples, "num_threads": threads, "allow_remote_code": allow_remote_code}
    options = _config(config, profile, given)
    with needs_extra("calibrate", "torch"):
        from arrow_quant_v2.torch import calibrate_model
    if data is None and (column or split or unmasked):
        raise ConfigurationError("--column, --split and --unmasked say how to read --data. Give --data.")
    with progress_reporter(quiet=as_json, title="calibrating") as report:
        path = calibrate_model(
            model, output, options, report, data=data, split=split, max_bad_rows=max_bad_rows, mask=not unmasked,
            columns=column_names(column or []), prompts=None if prompts is None else read_lines(prompts),
            num_inference_steps=steps,
        )  # fmt: skip
    facts = json.loads(core.StatisticsFile(str(path)).facts)
    size = path.stat().st_size
    if as_json:
        typer.echo(json.dumps({"calibration_file": str(path), "bytes": size, "samples": facts["samples"]}))
    else:
        skipped = facts["samples"].get("skipped_rows")
        tail = f", {skipped} rows skipped" if skipped else ""
        out.print(f"{path}: {size / 1e6:.1f} MB, {facts['description']}{tail}", soft_wrap=True)


@app.command()
def inspect(quantized: pathlib.Path, as_json: JsonOption = False) -> None:
    """List the tensors of a quantized model."""
    model = QuantizedModel(quantized)
    rows = [
        {
            "name": t.name, "component": t.component, "shape": list(t.shape), "dtype": t.dtype, "bits": t.bits,
            "group_size": t.group_size, "grid": t.grid, "method": t.method, "reason": t.reason,
            "layout": t.layout, "stored_bytes": t.stored_bytes,
        }
        for t in model.entries
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"parquet_bytes": model.parquet_bytes, "tensors": rows}))
    else:
        out.print(inspect_table(rows))
        out.print(f"{len(rows)} tensors, {model.parquet_bytes / 1e6:.2f} MB in {len(model.files)} file(s)")


@app.command()
def convert(
    source: Annotated[pathlib.Path, typer.Argument(help="A Parquet model of an older layout.")],
    output: pathlib.Path,
    bits: Annotated[int | None, typer.Option("--bits", help="Default: each layer's own.")] = None,
    group_size: Annotated[int, typer.Option()] = 64,
    msb_first: Annotated[bool, typer.Option("--msb-first", help="The first 2-bit code is in the high bits.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a Parquet model of an older layout to ours."""
    config = None
    if bits is not None:
        config = DiffusionQuantConfig(bit_width=bits, group_size=group_size, min_accuracy=0.0)
    with progress_reporter(quiet=as_json, title="converting") as report:
        result = convert_model(
            source, output, config, overwrite=overwrite, msb_first=msb_first, progress_callback=report
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_summary(out, result, planned=False)


@app.command()
def export(
    quantized: pathlib.Path,
    output: pathlib.Path,
    format: Annotated[str, typer.Option(help="safetensors, or v2-extended for older readers.")] = "safetensors",
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32; default the source's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a quantized model as plain safetensors or as older Parquet."""
    if format == "safetensors":
        with progress_reporter(quiet=as_json, title="exporting") as report:
            files = export_safetensors(quantized, output, dtype, overwrite=overwrite, progress_callback=report)
        result: dict[str, Any] = {"files": [str(file) for file in files]}
    elif format == "v2-extended":
        if dtype is not None:
            raise ConfigurationError("--dtype has no meaning for v2-extended, whose weights are bytes. Leave it out.")
        result = export_v2_extended(quantized, output, overwrite=overwrite)
    else:
        raise ConfigurationError(f"format is {format!r}. Use safetensors or v2-extended.")
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for key, value in result.items():
            out.print(f"{key}: {', '.join(value) if isinstance(value, list) else value}", soft_wrap=True)


@app.command()
def validate(
    original: pathlib.Path,
    quantized: pathlib.Path,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Least weight cosine of a layer and, with --samples, of outputs.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Also run both models on so many samples and compare their outputs.")
    ] = None,
    evaluated: Annotated[
        int | None, typer.Option("--evaluate", help="Also compare what both make from the same seed, so many samples.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    data: DataOption = None,
    column: ColumnOption = None,
    split: SplitOption = None,
    allow_remote_code: RemoteCodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a quantized model with its source; exit 1 when it fails."""
    refuse_columns_without_data(data, column, split)
    with progress_reporter(quiet=as_json or (samples or evaluated) is None, title="validating") as report:
        result = ArrowQuantV2().validate_quality(
            original, quantized, min_accuracy, forward_samples=samples, data=data, split=split, seed=seed,
            columns=column_names(column or []), progress_callback=report, evaluation_samples=evaluated,
            allow_remote_code=bool(allow_remote_code),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(result))
    else:
        out.print(f"cosine {result['cosine_similarity']:.5f}, SQNR {result['sqnr_db']:.2f} dB over all weights")
        if result["worst_layer"]:
            out.print(f"worst layer {result['worst_layer']}: cosine {result['min_cosine']:.5f}")
        for key in ("changed", "missing", "extra", "below_min_accuracy"):
            if result[key]:
                out.print(f"{key.replace('_', ' ')}: {', '.join(result[key])}", soft_wrap=True)
        if "forward" in result:
            print_forward(out, result["forward"])
        if result.get("evaluation") is not None:
            print_evaluation(out, result["evaluation"])
        out.print("passed" if result["passed"] else "failed")
    if not result["passed"]:
        raise typer.Exit(EXIT_QUALITY)


app.command()(evaluate)


@app.command()
def report(
    quantized: pathlib.Path,
    original: Annotated[pathlib.Path | None, typer.Option(help="The model that it was made from.")] = None,
    output: Annotated[
        pathlib.Path | None, typer.Option("--out", help="The HTML file; default QUANTIZED-report.html. JSON beside it.")
    ] = None,
    result: Annotated[
        pathlib.Path | None, typer.Option(help="What quantize --json printed: times, memory, fallbacks.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples to draw with both models; needs --original.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    allow_remote_code: RemoteCodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report of a quantized model: one HTML file that needs no network, and JSON."""
    with needs_extra("the report", "report"):
        from arrow_quant_v2.report import write_report
    with progress_reporter(quiet=as_json, title="report") as show:
        page, facts = write_report(
            quantized, original, output, result=result, samples=samples, seed=seed,
            allow_remote_code=bool(allow_remote_code), progress_callback=show,
        )  # fmt: skip
    if as_json:
        paths = {"html": str(page), "json": str(page.with_suffix(".json"))}
        typer.echo(json.dumps({**paths, "headline": facts["headline"], "warnings": facts["warnings"]}))
    else:
        for warning in facts["warnings"]:
            out.print(f"warning: {warning}", soft_wrap=True)
        out.print(f"{page}, and the same facts in {page.with_suffix('.json')}", soft_wrap=True)


@app.command()
def demo(
    output: Annotated[pathlib.Path, typer.Option("--out", help="The directory to make.")] = pathlib.Path("demo"),
    model: Annotated[
        pathlib.Path, typer.Option(help="A model of pictures or sounds: a folder, or a name in examples/models.")
    ] = pathlib.Path("dit_mnist"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples and steps.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a small model to 8, 4 and 2 bits and make pictures or sounds with each from the same noise."""
    with needs_extra("the demo", "torch,report"):
        from arrow_quant_v2.torch.demo import run_demo
    figures = run_demo(model, output, Console(stderr=True) if as_json else out, quick=quick)
    if as_json:
        typer.echo(json.dumps({"models": figures, **_demo_files(figures, output)}))


def _demo_files(figures: list[dict[str, Any]], output: pathlib.Path) -> dict[str, Any]:
    if not any("log_spectral_distance_db" in one for one in figures):
        return {"pictures": str(output / "digits.png")}
    names = ["float", *(f"int{one['bit_width']}" for one in figures)]
    return {"pictures": str(output / "spectrograms.png"), "sounds": [str(output / f"{name}.wav") for name in names]}


def main() -> None:
    """Entry point: exit codes 0 fine, 1 quality failed, 2 usage, 3 bad input; no traceback unless --debug is given."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) != len(sys.argv) - 1
    # As Ctrl-C: a run stops in good order.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app(args=arguments, prog_name="arrow-quant")
    except MemoryError:
        if debug:
            raise
        typer.echo("error: not enough memory. Use fewer threads, or raise the limit (ulimit -v).", err=True)
        sys.exit(EXIT_INPUT)
    except ArrowQuantError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        if "--json" in arguments:
            typer.echo(json.dumps({"error": error.as_dict()}))
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
