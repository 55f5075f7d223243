"""Forward calls for calibration from rows of data."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from arrow_quant_v2.calibration_columns import checked_columns
from arrow_quant_v2.calibration_data import DEFAULT_MAX_BAD_ROWS, BadRows, open_data
from arrow_quant_v2.torch.masked_text import masked_calls, reader_of, windows
from arrow_quant_v2.torch.noised import noised_calls, sample_format
from arrow_quant_v2.torch.synthetic import find_mask_token, load_scheduler, sequence_length


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Data to calibrate with.

    Args:
        data: what arrow_quant_v2.calibration_data.open_data takes.
        columns: names in the data of the columns text, input_ids, image, audio, latent, data, timestep, shape, label,
            where they differ; one string is the name of the column that holds the samples.
        split: of a data set of ``datasets``.
        max_bad_rows: so many rows that cannot be used are skipped; one more is an error.
        mask: False gives text without masks, which calibrates a masked language model worse; for comparisons.
    """

    data: Any
    columns: Mapping[str, str] | str | None = None
    split: str | None = None
    max_bad_rows: int = DEFAULT_MAX_BAD_ROWS
    mask: bool = True


@dataclasses.dataclass(frozen=True)
class DataCalls:
    """``calls`` are keyword arguments of forward, each a batch; times lie in [0, time_span]."""

    calls: Iterator[dict[str, Any]]
    time_span: float
    mask_token_id: int | None
    name: str
    bad: BadRows


def data_calls(model: nn.Module, path: pathlib.Path, source: DataSource, count: int, seed: int) -> DataCalls:
    """Calls with ``count`` samples of ``source`` for a model loaded from ``path``, the same for the same seed.

    A masked language model gets windows of text, masked at ratios stratified over (0, 1]; a denoiser gets samples
    noised to times stratified over its schedule. Data with fewer
    samples are gone through again, with other masks or noise.

    Raises:
        ConfigurationError: no such data, an empty data set, a column that no row can have.
        CorruptFileError: more bad rows than allowed, or a file that breaks off.
        UnsupportedModelError: a model whose inputs cannot be told.
    """
    bad = BadRows(source.max_bad_rows)
    mask_token_id = find_mask_token(model, path)
    if mask_token_id is not None:
        names = checked_columns(source.columns, "text")
        data = open_data(source.data, "text", source.split)
        reader = reader_of(path, int(model.config.vocab_size), names)  # type: ignore[union-attr,arg-type]
        drawn = windows(data, reader, sequence_length(model, path), count, seed, bad)
        calls = masked_calls(drawn, mask_token_id, count, seed, mask=source.mask)
        return DataCalls(calls, 1.0, mask_token_id, data.name, bad)
    form = sample_format(model)
    data = open_data(source.data, form.kind, source.split)
    scheduler = load_scheduler(path)
    names = checked_columns(source.columns, form.kind)
    calls = noised_calls(data, form, scheduler, names, count, seed, bad)
    return DataCalls(calls, float(scheduler.config.num_train_timesteps), None, data.name, bad)
