"""Windows of text, masked as a masked diffusion language model meets them."""

from __future__ import annotations

import importlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch

from arrow_quant_v2.calibration_columns import cell, tokens_of
from arrow_quant_v2.calibration_data import BadRowError, BadRows, Row, Rows, TextFiles
from arrow_quant_v2.errors import ConfigurationError, CorruptFileError, UnsupportedModelError

BATCH = 16
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
# Bytes to read of a file for each token that is wanted; what is left over is dropped.
_BYTES_PER_TOKEN = 16
_log = logging.getLogger("arrow_quant_v2")


class TextReader(Protocol):
    """Token ids, int64 [length], of text."""

    bytes_per_token: int

    def of_row(self, row: Row) -> torch.Tensor: ...
    def of_bytes(self, data: bytes) -> torch.Tensor: ...


class _Reader:
    def __init__(self, vocab_size: int, names: Mapping[str, str]) -> None:
        self._vocab_size = vocab_size
        self._names = names

    def of_row(self, row: Row) -> torch.Tensor:
        ids = cell(row, "input_ids", self._names) if "text" not in self._names else None
        if ids is not None:
            return torch.from_numpy(tokens_of(ids, self._vocab_size))
        text = cell(row, "text", self._names)
        if not isinstance(text, (str, bytes)):
            raise BadRowError("there is neither a column 'text' nor a column 'input_ids'; say which one with --column")
        return self._checked(self.of_text(text))

    def _checked(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(tokens_of(tokens.numpy(), self._vocab_size)) if len(tokens) else tokens

    def of_text(self, text: str | bytes) -> torch.Tensor:
        raise NotImplementedError


class ByteReader(_Reader):
    """Byte values are token ids."""

    bytes_per_token = 1

    def of_text(self, text: str | bytes) -> torch.Tensor:
        return self.of_bytes(text.encode() if isinstance(text, str) else text)

    def of_bytes(self, data: bytes) -> torch.Tensor:
        return torch.tensor(list(data), dtype=torch.int64)


class TokenizerReader(_Reader):
    """A tokenizer of transformers; tokens of beginning and end are left out, as windows are cut from running text."""

    bytes_per_token = _BYTES_PER_TOKEN

    def __init__(self, vocab_size: int, names: Mapping[str, str], tokenizer: Any) -> None:
        super().__init__(vocab_size, names)
        self._tokenizer = tokenizer

    def of_text(self, text: str | bytes) -> torch.Tensor:
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        return torch.tensor(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    def of_bytes(self, data: bytes) -> torch.Tensor:
        return self._checked(self.of_text(data.decode(errors="ignore")))


class TokensOnly(_Reader):
    """For a model without a tokenizer: only rows of input_ids can be read."""

    bytes_per_token = 1

    def of_text(self, text: str | bytes) -> torch.Tensor:
        raise UnsupportedModelError(
            "the model's folder has no tokenizer, and its tokens are not bytes. Put the tokenizer's files there, or "
            "give rows with input_ids."
        )

    def of_bytes(self, data: bytes) -> torch.Tensor:
        return self.of_text(data)


def reader_of(path: pathlib.Path, vocab_size: int, names: Mapping[str, str]) -> TextReader:
    """How a model's folder reads text: its tokenizer (local files, no code of it), else bytes for 256 to 260 tokens."""
    folder = _tokenizer_folder(path)
    if folder is not None:
        return TokenizerReader(vocab_size, names, _load_tokenizer(folder))
    return ByteReader(vocab_size, names) if 256 <= vocab_size <= 260 else TokensOnly(vocab_size, names)


def decoder_of(path: pathlib.Path, vocab_size: int) -> Callable[[int], str]:
    """The text of a token: by the model's tokenizer, else as a byte for 256 to 260 tokens, else its number."""
    folder = _tokenizer_folder(path)
    if folder is not None:
        tokenizer = _load_tokenizer(folder)
        return lambda token: str(tokenizer.decode([token]))
    if 256 <= vocab_size <= 260:
        return lambda token: chr(token) if token in (9, 10) or 32 <= token < 127 else "\N{REPLACEMENT CHARACTER}"
    return lambda token: f"{token} "


def _tokenizer_folder(path: pathlib.Path) -> pathlib.Path | None:
    root = path if path.is_dir() else path.parent
    for folder in (root, root / "tokenizer", root.parent / "tokenizer"):
        if any((folder / name).exists() for name in TOKENIZER_FILES):
            return folder
    return None


def _load_tokenizer(folder: pathlib.Path) -> Any:
    transformers = importlib.import_module("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; the cause is named
        raise CorruptFileError.compose(f"the tokenizer cannot be loaded: {error}", file=str(folder)) from error


def windows(
    data: Rows | TextFiles, reader: TextReader, length: int, count: int, seed: int, bad: BadRows
) -> Iterator[torch.Tensor]:
    """``count`` windows, int64 [length].

    A row that is long enough gives one window at a random place, so that long rows do not dominate; shorter ones are
    joined. Files give windows from random places.
    """
    if isinstance(data, TextFiles):
        yield from _file_windows(data, reader, length, count, seed, bad)
        return
    generator = torch.Generator().manual_seed(seed)
    joined, found = torch.empty(0, dtype=torch.int64), 0
    for tokens in _repeated(data, reader, bad):
        if len(tokens) >= length:
            begin = int(torch.randint(0, len(tokens) - length + 1, (1,), generator=generator))
            window = tokens[begin : begin + length]
        else:
            joined = torch.cat([joined, tokens])
            if len(joined) < length:
                continue
            window, joined = joined[:length], joined[length:]
        yield window
        found += 1
        if found == count:
            return
    raise ConfigurationError(
        f"{data.name}: its text gives {found} of {count} windows of {length} tokens, and it can be read only once. "
        "Give more rows, or fewer samples."
    )


def _repeated(data: Rows, reader: TextReader, bad: BadRows) -> Iterator[torch.Tensor]:
    """Tokens of every usable row, over and over."""
    while True:
        rows = 0
        for row in data.read(bad):
            try:
                tokens = reader.of_row(row)
                if len(tokens) == 0:
                    raise BadRowError("the text is empty")
            except BadRowError as error:
                bad.add(row.where, str(error))
                continue
            rows += 1
            yield tokens
        if rows == 0:
            raise empty_data(data.name, bad)
        if data.once:
            return
        _log.info("calibration data: %s: its %d rows are used again", data.name, rows)


def empty_data(name: str, bad: BadRows) -> ConfigurationError:
    """The error of a data set without a usable row."""
    why = f"; skipped: {'; '.join(bad.first)}" if len(bad) else ""
    return ConfigurationError(
        f"{name}: the calibration data have no usable row{why}. Give at least one, or use calibration='none'."
    )


def _file_windows(
    data: TextFiles, reader: TextReader, length: int, count: int, seed: int, bad: BadRows
) -> Iterator[torch.Tensor]:
    found, joined = 0, torch.empty(0, dtype=torch.int64)
    for attempt in range(100):  # files that are shorter than a window are joined, so that one pass can give too few
        for _, piece in data.pieces(count, length * reader.bytes_per_token, seed + attempt, bad):
            tokens = reader.of_bytes(piece)
            if len(tokens) < length:
                joined = torch.cat([joined, tokens])
                if len(joined) < length:
                    continue
                tokens, joined = joined, joined[length:]
            yield tokens[:length]
            found += 1
            if found == count:
                return
        if found == 0 and len(joined) == 0:
            raise empty_data(data.name, bad)
    raise ConfigurationError(f"{data.name}: its text gives {found} of {count} windows of {length} tokens. Give more.")


def masked_calls(
    tokens: Iterator[torch.Tensor], mask_token_id: int, count: int, seed: int, mask: bool = True
) -> Iterator[dict[str, Any]]:
    """Batches {"input_ids": int64 [batch, length]} of windows, each masked at its own ratio.

    Ratios are stratified over (0, 1], one in each of ``count`` equal parts and in random order; so many tokens of a
    window, at least one, are masked at random places: the forward process of masked diffusion (Sahoo et al. 2024, MDLM,
    equation 1 with a linear schedule).
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = stratified(count, generator)
    batch: list[torch.Tensor] = []
    for number, window in enumerate(tokens):
        batch.append(masked_window(window, float(ratios[number]), mask_token_id, generator) if mask else window)
        if len(batch) == BATCH:
            yield {"input_ids": torch.stack(batch)}
            batch = []
    if batch:
        yield {"input_ids": torch.stack(batch)}


def stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` numbers of (0, 1], one in each of as many equal parts, in random order; float64 [count]."""
    order = torch.randperm(count, generator=generator).double()
    return (order + 1 - torch.rand(count, generator=generator, dtype=torch.float64)) / count


def masked_window(window: torch.Tensor, ratio: float, mask_token_id: int, generator: torch.Generator) -> torch.Tensor:
    """A window, int64 [length], with this share of its tokens, at least one, masked at random places."""
    number = max(1, round(ratio * len(window)))
    places = torch.randperm(len(window), generator=generator)[:number]
    masked = window.clone()
    masked[places] = mask_token_id
    return masked
