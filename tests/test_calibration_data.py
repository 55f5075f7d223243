"""Reading calibration data: every format, and what happens with rows that cannot be used."""

from __future__ import annotations

import io
import json
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from arrow_quant_v2 import ConfigurationError, CorruptFileError, ResourceError
from arrow_quant_v2 import calibration_data as data
from arrow_quant_v2.calibration_columns import (
    array_of,
    audio_of,
    cell,
    checked_columns,
    column_names,
    image_of,
    tokens_of,
    whole_number,
)
from arrow_quant_v2.calibration_data import BadRowError, BadRows, Row, open_data, read_lines
from hypothesis import given, settings
from hypothesis import strategies as st

ROWS = [{"text": f"text {i}", "latent": [[float(i), 1.0], [2.0, 3.0]], "n": i} for i in range(40)]


def write(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, row_group_size=7)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        new = pa.ipc.new_file if path.suffix == ".arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    return path


def rows_of(source, kind="text", limit=10, split=None):
    bad = BadRows(limit)
    return list(open_data(source, kind, split).read(bad)), bad


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow", ".ipc"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path / f"d{suffix}", ROWS)
    source = open_data(path, "text")
    for _ in range(2):  # a second pass reads it anew
        rows = list(source.read(BadRows()))
        assert [row.values["text"] for row in rows] == [row["text"] for row in ROWS]
        np.testing.assert_array_equal(array_of(rows[3].values["latent"], None), ROWS[3]["latent"])
        place = "line" if suffix == ".jsonl" else "row"
        assert rows[3].where == f"{path}, {place} 4"
        assert rows[3].folder == tmp_path


def test_saved_data_sets_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list(ROWS)
    part.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": part, "test": part.select([7])}).save_to_disk(tmp_path / "two")
    assert [r.values["n"] for r in rows_of(tmp_path / "one")[0]] == list(range(40))
    assert [r.values["n"] for r in rows_of(tmp_path / "two")[0]] == list(range(40))
    assert [r.values["n"] for r in rows_of(tmp_path / "two", split="test")[0]] == [7]
    with pytest.raises(ConfigurationError, match=r"no split 'x'.*train, test"):
        rows_of(tmp_path / "two", split="x")


def test_names_are_streamed_and_never_trusted(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows, _ = rows_of("someone/something:part", split="test")
    assert rows[1].where == "someone/something:part, row 2" or rows[1].where == "someone/something, row 2"
    ((args, kwargs),) = asked
    assert args == ("someone/something", "part")
    assert kwargs["streaming"] is True
    assert kwargs["split"] == "test"
    assert not kwargs.get("trust_remote_code")


def test_a_name_that_cannot_be_opened_is_named(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ResourceError, match=r"someone/something.*ConnectionError: no network"):
        rows_of("someone/something")


def test_encoded_images_of_data_sets_stay_encoded(tmp_path):
    datasets = pytest.importorskip("datasets")
    pillow = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image()})
    images = [pillow.new("L", (4, 4), i) for i in range(2)]
    datasets.Dataset.from_dict({"image": images}, features=features).save_to_disk(tmp_path / "d")
    rows, _ = rows_of(tmp_path / "d", "image")
    assert np.asarray(image_of(rows[1].values["image"], rows[1].folder)).max() == 1


def test_rows_of_the_caller(tmp_path):
    rows, bad = rows_of([{"text": "a"}, "b", {"text": "c"}])
    assert [r.where for r in rows] == ["row 1", "row 3"]
    assert bad.first == ["row 2: a str where a mapping is expected"]
    assert not open_data([{}], "text").once
    assert open_data(iter([{}]), "text").once
    with pytest.raises(ConfigurationError, match="Give a path"):
        open_data(3, "text")


# ---- bad rows


@pytest.mark.parametrize(
    "line",
    ['{"text": "a', "[1, 2]", "nonsense", "\udcff\udcfe{", '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"],
)
def test_a_corrupt_line_is_named_and_skipped(tmp_path, line):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line.encode(errors="surrogateescape") + b'\n{"text": "b"}\n')
    rows, bad = rows_of(path)
    assert [row.values["text"] for row in rows] == ["a", "b"]
    assert len(bad) == 1
    assert bad.first[0].startswith(f"{path}, line 2: ")


def test_an_endless_line_is_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 100)
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"text": "x" * 1000}) + '\n{"text": "b"}')
    rows, bad = rows_of(path)
    assert [row.where for row in rows] == [f"{path}, line 2"]
    assert "longer than 100 bytes" in bad.first[0]


def test_the_limit_is_an_error_that_lists_the_first(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("bad\n" * 3 + '{"text": "a"}\n')
    assert len(rows_of(path, limit=3)[1]) == 3
    with pytest.raises(CorruptFileError, match=r"3 rows .*max_bad_rows is 2: .*line 1: .*line 2: .*line 3: "):
        rows_of(path, limit=2)
    with pytest.raises(CorruptFileError, match="line 1"):
        rows_of(path, limit=0)


def test_a_row_is_counted_once():
    bad = BadRows(1)
    bad.add("row 1", "x")
    bad.add("row 1", "x")
    assert len(bad) == 1
    with pytest.raises(ConfigurationError, match="max_bad_rows is -1"):
        BadRows(-1)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".ipc"])
def test_a_table_that_breaks_off_is_a_corrupt_file(tmp_path, suffix):
    path = write(tmp_path / f"d{suffix}", ROWS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CorruptFileError) as error:
        rows_of(path)
    assert error.value.file == str(path)


def test_tables_are_read_in_small_batches(tmp_path):
    path = tmp_path / "d.parquet"
    pa.parquet.write_table(pa.table({"text": ["x" * 100_000] * 400}), path, row_group_size=50, use_dictionary=False)
    before = pa.total_allocated_bytes()
    most = 0
    for _ in open_data(path, "text").read(BadRows()):
        most = max(most, pa.total_allocated_bytes() - before)
    # 40 MB in all; two row groups of 5 MB and the batch on the way.
    assert most < 20e6


@pytest.mark.parametrize("source", ["missing.jsonl", "./missing/folder/x", "what is this?"])
def test_nothing_there(tmp_path, source):
    with pytest.raises(ConfigurationError, match="no such calibration data"):
        open_data(tmp_path / source if "/" not in source else source, "text")


def test_a_folder_without_files_of_the_kind(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"no text files.*\.py"):
        open_data(tmp_path, "text")


# ---- folders


def test_a_folder_of_tables_goes_before_other_files(tmp_path):
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.jsonl", ROWS[:2])
    write(tmp_path / "data" / "b.parquet", ROWS[2:5])
    assert [row.values["n"] for row in rows_of(tmp_path)[0]] == [0, 1, 2, 3, 4]


def test_pieces_of_text_files_are_spread_over_their_bytes(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_bytes(bytes(range(256)) * 30)
    (tmp_path / "sub" / "b.py").write_bytes(b"z" * 256 * 10)
    (tmp_path / "empty.py").write_bytes(b"")
    files = open_data(tmp_path, "text")
    pieces = list(files.pieces(40, 16, 3, BadRows()))
    assert len(pieces) == 40
    assert all(len(piece) == 16 for _, piece in pieces)
    assert sum(piece == b"z" * 16 for _, piece in pieces) == pytest.approx(10, abs=1)
    assert pieces == list(files.pieces(40, 16, 3, BadRows()))
    assert pieces != list(files.pieces(40, 16, 4, BadRows()))


# ---- cells


def wav_bytes(samples, width, channels=1):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        top = 1 << (8 * width - 1)
        codes = np.round(np.asarray(samples) * (top - 1)).astype(np.int64)
        codes = codes + 128 if width == 1 else codes
        raw = codes.astype("<i8").tobytes()
        file.writeframes(b"".join(raw[8 * i : 8 * i + width] for i in range(len(codes))))
    return buffer.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_every_width(tmp_path, width):
    samples = np.sin(np.arange(50))
    (tmp_path / "a.wav").write_bytes(wav_bytes(samples, width))
    for value in ("a.wav", wav_bytes(samples, width), {"bytes": None, "path": "a.wav"}):
        found, rate = audio_of(value, tmp_path)
        assert rate == 8000
        # One step of the format, and float32.
        np.testing.assert_allclose(found[0], samples, atol=2.0 / (1 << (8 * width - 1)) + 1e-6)


def test_channels_and_arrays_of_sound(tmp_path):
    stereo, _ = audio_of(wav_bytes([0.5, -0.5] * 8, 2, channels=2), tmp_path)
    assert stereo.shape == (2, 8)
    assert (stereo[0] > 0.4).all()
    assert (stereo[1] < -0.4).all()
    mono, rate = audio_of({"array": [0.0, 1.0], "sampling_rate": 16000}, tmp_path)
    assert (mono.shape, rate) == ((1, 2), 16000)
    with pytest.raises(BadRowError, match="WAV"):
        audio_of(b"RIFFnonsense", tmp_path)


def test_images_by_path_bytes_and_object(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.new("RGB", (5, 4), (255, 0, 7))
    image.save(tmp_path / "a.png")
    encoded = (tmp_path / "a.png").read_bytes()
    for value in ("a.png", encoded, {"bytes": encoded, "path": None}, {"path": "a.png"}, image):
        assert image_of(value, tmp_path).getpixel((1, 1)) == (255, 0, 7)
    for value in ("missing.png", encoded[:40], b"x", 3, "a\0b"):
        with pytest.raises(BadRowError):
            image_of(value, tmp_path)


def test_arrays_take_their_shape():
    assert array_of([1, 2, 3, 4, 5, 6], [2, 3]).shape == (2, 3)
    for value, shape in (([1, 2], [3]), ([1, float("nan")], None), ([[1], [1, 2]], None), ([], None), ("x", None)):
        with pytest.raises(BadRowError):
            array_of(value, shape)


def test_tokens_are_checked():
    assert tokens_of([0, 5], 6).tolist() == [0, 5]
    for value in ([6], [-1], [0.5], [], [[1]], "text", [1, [2]]):
        with pytest.raises(BadRowError):
            tokens_of(value, 6)


@given(st.one_of(st.none(), st.booleans(), st.text(), st.floats(), st.integers(-(10**30), 10**30)))
@settings(max_examples=50, deadline=None)
def test_whole_numbers_or_bad_rows(value):
    try:
        found = whole_number(value, "label")
    except BadRowError:
        assert isinstance(value, (str, bool, type(None))) or value != value or value % 1 != 0 or abs(value) > 1e300
    else:
        assert found == value


def test_columns_have_other_names():
    row = Row("row 1", {"jpg": 1, "cls": 2})
    names = checked_columns(column_names(["jpg", "label=cls"]), "image")
    assert (cell(row, "image", names), cell(row, "label", names), cell(row, "text", names)) == (1, 2, None)
    assert checked_columns("jpg", "image") == {"image": "jpg"}
    with pytest.raises(BadRowError, match="no column 'png'"):
        cell(row, "image", checked_columns("png", "image"))
    with pytest.raises(ConfigurationError, match="no column picture"):
        checked_columns({"picture": "png"}, "image")
    with pytest.raises(ConfigurationError, match="Give NAME"):
        column_names(["image="])


def test_lines_of_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\n  a cat \n")
    assert read_lines(tmp_path / "p.txt") == ["a dog", "a cat"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a dog"}\n{"prompt": 3}\n')
    assert read_lines(tmp_path / "p.jsonl") == ["a dog", "3"]
    (tmp_path / "q.jsonl").write_text('{"text": "a dog"}\n')
    with pytest.raises(CorruptFileError, match="line 1: column 'prompt'"):
        read_lines(tmp_path / "q.jsonl")
    with pytest.raises(ConfigurationError, match="no such file"):
        read_lines(tmp_path / "none.txt")
