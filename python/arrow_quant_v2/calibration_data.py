"""Rows of calibration data, read one at a time, and those that cannot be used."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import pathlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from arrow_quant_v2.errors import ConfigurationError, CorruptFileError, ResourceError
from arrow_quant_v2.extras import needs_extra

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
FILE_SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "audio": (".wav",),
    "text": (
        ".txt", ".md", ".rst", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cs", ".go", ".java", ".js",
        ".ts", ".jl", ".kt", ".php", ".pl", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".tex",
    ),
}  # fmt: skip
DEFAULT_MAX_BAD_ROWS = 10

# Longer lines of JSONL are bad rows, so that a file without line breaks is not read whole.
MAX_LINE_BYTES = 1 << 26
_TABLE_BATCH_ROWS = 16
_LISTED = 10
_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.+-]+))?", re.ASCII)
_log = logging.getLogger("arrow_quant_v2")


class BadRowError(Exception):
    """A row that cannot be used; the message says why, without the place."""


class BadRows:
    """Rows that were skipped. More than ``limit`` of them end the run with CorruptFileError, which lists the first."""

    def __init__(self, limit: int = DEFAULT_MAX_BAD_ROWS) -> None:
        if limit < 0:
            raise ConfigurationError(f"max_bad_rows is {limit}. Give 0 or more.")
        self.limit = limit
        self._problems: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._problems)

    @property
    def first(self) -> list[str]:
        """The first ten, each as "place: problem"."""
        return [f"{where}: {problem}" for where, problem in list(self._problems.items())[:_LISTED]]

    def add(self, where: str, problem: str) -> None:
        """Count a row once, however often the data are gone through."""
        if where in self._problems:
            return
        self._problems[where] = problem
        _log.warning("calibration data: %s: %s; the row is skipped", where, problem)
        if len(self) > self.limit:
            raise CorruptFileError.compose(
                f"{len(self)} rows of the calibration data cannot be used, max_bad_rows is {self.limit}: "
                + "; ".join(self.first),
                remedy="Correct them, or raise max_bad_rows.",
            )


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: ``where`` it is from, for messages; ``folder`` is where its relative paths begin."""

    where: str
    values: Mapping[str, Any]
    folder: pathlib.Path = pathlib.Path()


@dataclasses.dataclass(frozen=True)
class Rows:
    """A data set. Each iteration reads it anew, unless it is of a one-time iterator (``once``)."""

    name: str
    read: Callable[[BadRows], Iterator[Row]]
    once: bool = False


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Files of text, of which pieces are read at random places."""

    name: str
    files: tuple[pathlib.Path, ...]

    def pieces(self, count: int, num_bytes: int, seed: int, bad: BadRows) -> Iterator[tuple[str, bytes]]:
        """``count`` pairs of place and bytes; every byte of the files is as likely, so long files give more pieces.

        A piece has ``num_bytes`` bytes, or the whole file where that is shorter. The total is cut in ``count`` equal
        parts with one piece from each, so that no few files dominate.
        """
        sizes = [file.stat().st_size for file in self.files]
        total, draw = sum(sizes), random.Random(seed)
        places = [int((i + draw.random()) / count * total) for i in range(count)] if total else []
        at, begin, found = 0, 0, []
        for place in places:
            while place >= begin + sizes[at]:
                begin, at = begin + sizes[at], at + 1
            found.append((at, max(0, min(place - begin, sizes[at] - num_bytes))))
        draw.shuffle(found)
        for number, offset in found:
            try:
                with self.files[number].open("rb") as file:
                    file.seek(offset)
                    yield f"{self.files[number]}, byte {offset}", file.read(num_bytes)
            except OSError as error:
                bad.add(str(self.files[number]), str(error))


def open_data(source: Any, kind: str, split: str | None = None) -> Rows | TextFiles:
    """The data set that ``source`` stands for.

    Args:
        source: a JSONL, Parquet or Arrow IPC file; a folder of them; a folder that ``datasets`` saved; an image, WAV
            or text file, or a folder of them (searched with its subfolders); the name of a data set for ``datasets``,
            "owner/name" or "owner/name:configuration", read as a stream; or an iterable of mappings.
        kind: "text", "image" or "audio": which files of a folder count.
        split: of a data set of ``datasets``; default "train".

    Raises:
        ConfigurationError: nothing is there, or nothing of the kind.
        ResourceError: ``datasets`` cannot open the name.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _given_rows(source)
    path = pathlib.Path(source)
    if path.is_dir():
        return _open_folder(path, kind, split)
    if path.is_file():
        return _open_file(path, kind)
    name = _HUB_NAME.fullmatch(os.fspath(source))
    if name is None or path.suffix in TABLE_SUFFIXES:
        raise ConfigurationError.compose("there is no such calibration data", file=str(path), remedy="Correct --data.")
    return Rows(str(source), lambda bad: _hub_rows(name[1], name[2], split or "train"))


def read_lines(path: str | os.PathLike[str], column: str = "prompt", max_bad_rows: int = 0) -> list[str]:
    """Texts of a file: the lines of a text file that are not blank, or a column of a table."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConfigurationError.compose("there is no such file", file=str(path), remedy="Correct --prompts.")
    if path.suffix not in TABLE_SUFFIXES:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise CorruptFileError.compose(f"no UTF-8 text: {error}", file=str(path)) from error
        return [line for line in lines if line]
    bad, found = BadRows(max_bad_rows), []
    for row in _file_rows(path, bad):
        value = row.values.get(column)
        if isinstance(value, (str, int)):
            found.append(str(value))
        else:
            bad.add(row.where, f"column '{column}' holds no text")
    return found


# ---- files and folders


def _open_folder(folder: pathlib.Path, kind: str, split: str | None) -> Rows | TextFiles:
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        return Rows(str(folder), lambda bad: _saved_rows(folder, split))
    tables = sorted(p for p in (*folder.glob("*"), *folder.glob("data/*")) if p.suffix in TABLE_SUFFIXES)
    if tables:
        return Rows(str(folder), lambda bad: (row for file in tables for row in _file_rows(file, bad)))
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in FILE_SUFFIXES[kind] and p.is_file())
    if not files:
        raise ConfigurationError.compose(
            f"the folder holds no {kind} files ({', '.join(FILE_SUFFIXES[kind])}) and no tables "
            f"({', '.join(TABLE_SUFFIXES)})",
            file=str(folder),
            remedy="Correct --data.",
        )
    if kind == "text":
        return TextFiles(str(folder), tuple(files))
    random.Random(0).shuffle(files)  # subfolders are often classes
    return Rows(str(folder), lambda bad: (Row(str(file), {kind: str(file)}) for file in files))


def _open_file(path: pathlib.Path, kind: str) -> Rows | TextFiles:
    if path.suffix in TABLE_SUFFIXES:
        return Rows(str(path), lambda bad: _file_rows(path, bad))
    if kind == "text":
        return TextFiles(str(path), (path,))
    return Rows(str(path), lambda bad: iter([Row(str(path), {kind: str(path)})]))


def _file_rows(path: pathlib.Path, bad: BadRows) -> Iterator[Row]:
    if path.suffix in (".jsonl", ".ndjson"):
        yield from _jsonl_rows(path, bad)
    else:
        yield from _arrow_rows(path, _parquet_batches(path) if path.suffix == ".parquet" else _ipc_batches(path))


# ---- JSONL


def _jsonl_rows(path: pathlib.Path, bad: BadRows) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                values = _json_object(line)
            except BadRowError as error:
                bad.add(where, str(error))
            else:
                yield Row(where, values, path.parent)


def _lines(file: Any) -> Iterator[bytes]:
    """Lines; of one that is too long only the beginning, which is one byte too long."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line


def _json_object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise BadRowError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRowError(f"a JSON {type(value).__name__} where an object is expected")
    return value


# ---- Parquet and Arrow IPC


def _parquet_batches(path: pathlib.Path) -> Iterator[pa.RecordBatch]:
    with pa.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_TABLE_BATCH_ROWS)


def _ipc_batches(path: pathlib.Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            with pa.ipc.open_file(file) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
            return
        file.seek(0)
        with pa.ipc.open_stream(file) as reader:
            yield from reader


def _arrow_rows(path: pathlib.Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            for i in range(batch.num_rows):
                number += 1
                values = {name: _arrow_value(batch.column(name)[i]) for name in batch.schema.names}
                yield Row(f"{path}, row {number}", values, path.parent)
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError.compose(
            f"cannot be read after row {number}: {error}", file=str(path), remedy="Write the file again."
        ) from error


def _arrow_value(scalar: Any) -> Any:
    """A Python value; a list of numbers as an array, without an object for each."""
    values = getattr(scalar, "values", None)
    if isinstance(values, pa.Array) and pa.types.is_primitive(values.type) and values.null_count == 0:
        return values.to_numpy(zero_copy_only=False)
    return scalar.as_py()


# ---- Hugging Face datasets


def _datasets() -> Any:
    with needs_extra("this data set", "torch"):
        return importlib.import_module("datasets")


def _saved_rows(folder: pathlib.Path, split: str | None) -> Iterator[Row]:
    loaded = _opened(str(folder), lambda datasets: datasets.load_from_disk(str(folder)))
    if isinstance(loaded, dict):
        name = split or ("train" if "train" in loaded else next(iter(loaded)))
        if name not in loaded:
            raise ConfigurationError.compose(
                f"there is no split '{name}'", file=str(folder), remedy=f"Use one of {', '.join(loaded)}."
            )
        loaded = loaded[name]
    yield from _dataset_rows(str(folder), loaded, folder)


def _hub_rows(name: str, configuration: str | None, split: str) -> Iterator[Row]:
    def load(datasets: Any) -> Any:
        # Versions before 4 could run a data set's own script; later ones refuse it and the option alike.
        guard = {"trust_remote_code": False} if int(datasets.__version__.split(".")[0]) < 4 else {}
        return datasets.load_dataset(name, configuration, split=split, streaming=True, **guard)

    yield from _dataset_rows(name, _opened(name, load), pathlib.Path())


def _opened(name: str, load: Callable[[Any], Any]) -> Any:
    try:
        return load(_datasets())
    except ConfigurationError:
        raise
    except Exception as error:  # of the network, of file systems and of any format; named, with its cause
        raise ResourceError(f"{name}: the data set cannot be opened: {type(error).__name__}: {error}") from error


def _dataset_rows(name: str, dataset: Any, folder: pathlib.Path) -> Iterator[Row]:
    """Rows whose pictures and sounds are still encoded, so that a broken one is one bad row."""
    datasets = _datasets()
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    rows = iter(dataset)
    for number in range(1, 1 << 62):
        try:
            values = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise ResourceError(f"{name}: row {number} cannot be read: {type(error).__name__}: {error}") from error
        yield Row(f"{name}, row {number}", values, folder)


def _given_rows(source: Iterable[Any]) -> Rows:
    if not isinstance(source, Iterable):
        raise ConfigurationError(f"calibration data are {source!r}. Give a path, a name, or an iterable of mappings.")

    def read(bad: BadRows) -> Iterator[Row]:
        for number, values in enumerate(source, 1):
            if isinstance(values, Mapping):
                yield Row(f"row {number}", values)
            else:
                bad.add(f"row {number}", f"a {type(values).__name__} where a mapping is expected")

    return Rows("rows given by the caller", read, once=iter(source) is source)
