"""The report of a quantized model: its facts, its page, and the page in a browser."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    CorruptFileError,
    DiffusionQuantConfig,
    ModelNotFoundError,
    ResourceError,
    ShapeMismatchError,
    StoredTensor,
    UnsupportedModelError,
    export_v2_extended,
    quantize_layer,
)
from arrow_quant_v2._native import core
from arrow_quant_v2.cli.main import app
from helpers import digest, write_safetensors
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

pytest.importorskip("jinja2")

from arrow_quant_v2.report import write_report
from arrow_quant_v2.report.activation_ranges import ranges_over_time
from arrow_quant_v2.report.samples import spectrogram
from arrow_quant_v2.report.svg import Axis, log_ticks, round_ticks
from arrow_quant_v2.report.weight_grids import grid_histogram

HOSTILE = "blocks.0.</title><script>alert('x')</script>&\"{{ 7 * 7 }}.weight"
HARD = "blocks.1.attn.to_q.weight"
CONFIG = DiffusionQuantConfig(
    bit_width=2, group_size=32, min_accuracy=0.93, calibration="none", fit="min_max", modality="image"
)


def write_model(path: pathlib.Path, seed: int = 0, rows: int = 16) -> pathlib.Path:
    """A two-bit layer, one whose outliers make it fall back, and a bias."""
    path.mkdir()
    random = np.random.default_rng(seed)
    easy = random.integers(-1, 3, (rows, 64)).astype(np.float32)
    hard = random.standard_normal((16, 64)).astype(np.float32)
    bias = random.standard_normal(16).astype(np.float32)
    write_safetensors(path / "model.safetensors", {HOSTILE: easy, HARD: hard, "blocks.1.attn.to_q.bias": bias})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model (m), the model quantized (q), and the result of the run (result.json)."""
    root = tmp_path_factory.mktemp("report")
    result = ArrowQuantV2().quantize_diffusion_model(write_model(root / "m"), root / "q", CONFIG)
    (root / "result.json").write_text(json.dumps(result))
    return root


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of every cell of a table."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag in ("button", "div", "b", "wbr", "code"))

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data

    def names(self, count: int) -> list[str]:
        """First cells of the first table's rows."""
        return [row[0] for row in self.rows[1 : count + 1]]


def test_the_page_loads_nothing(made, tmp_path):
    path, _ = write_report(made / "q", made / "m", tmp_path / "r.html", result=made / "result.json")
    page = Page(path)
    addresses = [value for _, a in page.tags for key, value in a.items() if key in ("src", "href", "xlink:href")]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    text = path.read_text("utf-8")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text


def test_names_are_text(made, tmp_path):
    path, facts = write_report(made / "q", made / "m", tmp_path / "r.html")
    page = Page(path)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert facts["layers"][0]["name"] == HOSTILE
    assert page.names(2) == [HOSTILE, HARD]


def test_figures_are_those_of_validation_and_the_run(made, tmp_path):
    path, facts = write_report(made / "q", made / "m", tmp_path / "r.html", result=made / "result.json")
    assert json.loads(path.with_suffix(".json").read_text("utf-8")) == facts
    assert (facts["format"], facts["format_version"]) == ("arrow_quant_report", 1)
    head, checked = facts["headline"], ArrowQuantV2().validate_quality(made / "m", made / "q")
    result = json.loads((made / "result.json").read_text())
    for key in ("cosine_similarity", "sqnr_db", "bits_per_weight", "compression_ratio", "min_cosine"):
        assert head[key] == checked[key], key
    for key in ("model_size_mb", "source_size_mb", "quantization_time_s", "peak_memory_mb", "layers_fallen_back"):
        assert head[key] == result[key], key
    assert [layer["stored_bytes"] for layer in facts["layers"]] == [r["stored_bytes"] for r in result["layers"]]
    easy, hard = facts["layers"]
    assert (easy["bits"], easy["fallbacks"], hard["bits"]) == (2, [], 4)
    assert [(s["from_bits"], s["to_bits"]) for s in hard["fallbacks"]] == [(2, 4)]
    assert hard["fallbacks"][0]["cause"] in path.read_text("utf-8")
    assert [(row["name"], row["reason"]) for row in facts["kept"]] == [("blocks.1.attn.to_q.bias", "bias")]


def test_what_is_unknown_is_null_and_not_shown(made, tmp_path):
    path, facts = write_report(made / "q", output=tmp_path / "r.html")
    head = facts["headline"]
    unknown = ("quantization_time_s", "peak_memory_mb", "layers_fallen_back", "psnr_db", "cosine_similarity")
    assert all(head[key] is None for key in unknown)
    stored = json.loads((made / "result.json").read_text())["layers"]
    assert [layer["cosine"] for layer in facts["layers"]] == [layer["cosine"] for layer in stored]
    assert head["source_size_mb"] == 4 * (16 * 64 + 16 * 64 + 16) / 1e6
    text = path.read_text("utf-8")
    assert "Peak memory" not in text
    assert "None" not in text
    assert "<code>--result</code> tells why" in text


def test_a_report_changes_no_model_and_is_reproducible(made, tmp_path):
    before = digest(made / "q")
    for name in ("a", "b"):
        write_report(made / "q", made / "m", tmp_path / name / "r.html", result=made / "result.json")
    assert digest(made / "q") == before
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    page, _ = write_report(made / "q")
    assert page == made / "q-report.html"


@pytest.mark.parametrize(
    "file", ["{", "[]", '{"error": {}}', '{"layers": [1], "kept": [], "fallbacks": [], "warnings": []}']
)
def test_a_result_that_is_none(made, tmp_path, file):
    (tmp_path / "result.json").write_text(file)
    with pytest.raises(CorruptFileError, match=r"result\.json"):
        write_report(made / "q", output=tmp_path / "r.html", result=tmp_path / "result.json")
    assert not (tmp_path / "r.html").exists()


def test_the_result_of_another_run(made, tmp_path):
    other = ArrowQuantV2().quantize_diffusion_model(made / "m", tmp_path / "q", CONFIG.with_overrides(group_size=16))
    (tmp_path / "result.json").write_text(json.dumps(other))
    with pytest.raises(ConfigurationError, match="another run"):
        write_report(made / "q", output=tmp_path / "r.html", result=tmp_path / "result.json")


def test_there_is_no_model(made, tmp_path):
    (tmp_path / "papers").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "papers", made / "m"):
        with pytest.raises(ModelNotFoundError, match=path.name):
            write_report(path, output=tmp_path / "r.html")
    plain = {
        "layer_name": "a.weight", "shape": [8, 16], "dtype": "float32", "num_params": 128,
        "data": np.zeros(128, np.float32).tobytes(),
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([plain]), tmp_path / "papers" / "model.parquet")
    with pytest.raises(UnsupportedModelError, match="quantized"):
        write_report(tmp_path / "papers", output=tmp_path / "r.html")


def test_another_model_as_the_original(made, tmp_path):
    (tmp_path / "strange").mkdir()
    write_safetensors(tmp_path / "strange" / "model.safetensors", {"x.weight": np.ones((8, 8), np.float32)})
    for path in (write_model(tmp_path / "seed", seed=1), tmp_path / "strange"):
        with pytest.raises(ConfigurationError, match="is not the original"):
            write_report(made / "q", path, tmp_path / "r.html")
    with pytest.raises(ShapeMismatchError):
        write_report(made / "q", write_model(tmp_path / "rows", rows=24), tmp_path / "r.html")
    with pytest.raises(ModelNotFoundError):
        write_report(made / "q", tmp_path / "nowhere", tmp_path / "r.html")


def test_another_model_without_kept_tensors(tmp_path):
    """Only the cosines tell."""
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        weight = np.random.default_rng(seed).standard_normal((16, 64)).astype(np.float32)
        write_safetensors(tmp_path / name / "model.safetensors", {HARD: weight})
    ArrowQuantV2("base").quantize(tmp_path / "a", tmp_path / "q", bit_width=4, group_size=32)
    with pytest.raises(ConfigurationError, match="other values"):
        write_report(tmp_path / "q", tmp_path / "b", tmp_path / "r.html")


def test_arguments_that_make_no_sense(made, tmp_path):
    for output in (tmp_path / "r.json", tmp_path):
        with pytest.raises(ConfigurationError, match=r"\.html"):
            write_report(made / "q", output=output)
    with pytest.raises(ConfigurationError, match="original"):
        write_report(made / "q", samples=2)
    with pytest.raises(ConfigurationError, match="-1"):
        write_report(made / "q", made / "m", samples=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="--out"):
        write_report(made / "q", output=tmp_path / "file" / "r.html")


def test_a_model_that_cannot_be_sampled_is_reported_with_a_warning(made, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    _, facts = write_report(made / "q", made / "m", tmp_path / "r.html", samples=1)
    assert facts["samples"] is None
    assert "no samples" in facts["warnings"][0]
    assert facts["warnings"][0].split(": ", 1)[1] in (tmp_path / "r.html").read_text("utf-8").replace("&#39;", "'")


def test_a_model_of_an_older_layout(made, tmp_path):
    export_v2_extended(made / "q", tmp_path / "old")
    path, facts = write_report(tmp_path / "old", output=tmp_path / "r.html")
    assert [layer["cosine"] for layer in facts["layers"]] == [None, None]
    assert facts["weight_grids"] == []
    assert "files of this layout keep no figures" in path.read_text("utf-8")


def test_the_command(made, tmp_path):
    runner = CliRunner()
    page = tmp_path / "r.html"
    arguments = ["report", str(made / "q"), "--original", str(made / "m"), "--out", str(page)]
    run = runner.invoke(app, [*arguments, "--result", str(made / "result.json"), "--json"])
    told = json.loads(run.stdout)
    assert (told["html"], told["json"]) == (str(page), str(tmp_path / "r.json"))
    assert told["headline"]["layers_fallen_back"] == 1
    assert str(page) in runner.invoke(app, arguments).stdout.replace("\n", "")


# ---- grids


def stored(weight, bits, group_size, grid="affine", column_scales=None):
    """A layer of quantize_layer as it is read from a file."""
    hessian = None if column_scales is None else np.diag(np.linspace(1, 100, weight.shape[1])).astype(np.float32)
    layer = quantize_layer(weight, hessian, bits, group_size, grid, column_scales=bool(column_scales))
    return StoredTensor(
        name="w", component="", shape=weight.shape, dtype="float32", bits=bits, group_size=group_size, grid=grid,
        quant_axis=0, row_rank=1, method="", reason="", layout="arrow_quant", stored_bytes=0, data=layer.codes,
        scales=layer.scales.ravel(), zero_points=layer.zero_points.ravel(),
        residual_scales=layer.residual_scales.ravel(), column_scales=layer.column_scales,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "grid", "columns"), [(2, "affine", None), (3, "affine", True), (8, "affine", None),
                                  (2, "residual_binary", None), (2, "residual_binary", True)],
)  # fmt: skip
def test_codes_are_counted_as_they_are_stored(bits, grid, columns):
    weight = np.random.default_rng(0).standard_normal((12, 80)).astype(np.float32)
    tensor = stored(weight, bits, 32, grid, columns)
    codes = core.unpack(tensor.data, weight.size, bits)
    found = grid_histogram(tensor, weight)
    assert found["code_counts"] == np.bincount(codes, minlength=2**bits).tolist()
    assert sum(found["counts"]) == found["weights"] == weight.size
    assert len(found["edges"]) == len(found["counts"]) + 1


def test_positions_are_those_of_a_plain_loop():
    weight = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    tensor = stored(weight, 2, 8)
    found = grid_histogram(tensor, weight * 2)  # beyond the grid
    positions = [
        weight[r, c] * 2 / tensor.scales[r * 2 + c // 8] + tensor.zero_points[r * 2 + c // 8]
        for r in range(4)
        for c in range(16)
    ]
    counts, _ = np.histogram(np.clip(positions, -1, 4), found["edges"])
    assert found["counts"] == counts.tolist()
    outside = sum(p < -0.5 or p > 3.5 for p in positions)
    assert found["clipped_share"] == pytest.approx(outside / 64)
    assert outside > 0


def test_ranges_are_the_union_over_blocks():
    """Five channels in blocks of 2 early and of 5 late."""
    tensor = StoredTensor(
        name="w", component="", shape=(3, 5), dtype="float32", bits=4, group_size=5, grid="affine", quant_axis=0,
        row_rank=1, method="", reason="", layout="arrow_quant", stored_bytes=0,
        time_boundaries=(0.0, 10.0, 40.0), time_block_sizes=(2, 5),
        time_scales=np.array([0.1, 0.2, 0.4, 1.0], np.float32),
        time_zero_points=np.array([0, 100, 55, 255], np.float32),
    )  # fmt: skip
    found = ranges_over_time(tensor)
    assert found is not None
    assert found["boundaries"] == [0.0, 10.0, 40.0]
    np.testing.assert_allclose(found["low"], [-0.4 * 55, -255], rtol=1e-6)  # float32 scales
    np.testing.assert_allclose(found["high"], [0.4 * 200, 0], rtol=1e-6, atol=1e-9)


# ---- pictures

numbers = st.floats(-1e6, 1e6)


@given(numbers, st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_in_the_range_and_evenly_spaced(low, width, count):
    ticks = round_ticks(low, low + width, count)
    slack = 1e-6 * (width + abs(low))
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    assert 1 <= len(ticks) <= count + 1
    assert np.allclose(np.diff(ticks), (ticks[1] - ticks[0]) if len(ticks) > 1 else 0)


@given(st.floats(1e-5, 1e3), st.floats(1.6, 1e6))
def test_logarithmic_axes(low, factor):
    axis = Axis(low, low * factor, 100, 0, log=True)
    assert axis(low) == pytest.approx(100)
    assert axis(low * factor) == pytest.approx(0)
    assert axis(low * factor**0.5) == pytest.approx(50)
    assert all(low * 0.99 <= tick <= low * factor * 1.01 for tick in log_ticks(low, low * factor, 5))


def test_a_tone_is_a_line_of_the_spectrogram():
    tone = np.sin(2 * np.pi * 0.25 * np.arange(4096)).astype(np.float32)[None]
    pixels = spectrogram(tone, tone)
    assert pixels.shape == (129, 61)
    assert set(pixels.argmax(0)) == {64}  # a quarter of the sampling rate is half way up
    assert pixels.max() == 255


# ---- samples, and the page in a browser


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A small image model, quantized on its own sampling, and its report with samples."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import torch

    root = tmp_path_factory.mktemp("painted")
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=3, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=5,
    )  # fmt: skip
    model.save_pretrained(root / "m")
    diffusers.DDIMScheduler(num_train_timesteps=100).save_pretrained(root / "m" / "scheduler")
    config = DiffusionQuantConfig(
        bit_width=4, group_size=32, min_accuracy=0.0, calibration="synthetic", calibration_samples=8, num_time_groups=4,
        modality="image",
    )  # fmt: skip
    ArrowQuantV2().quantize_diffusion_model(root / "m", root / "q", config)
    page, facts = write_report(root / "q", root / "m", root / "r.html", samples=2, seed=3)
    return page, facts


def test_pictures_of_one_seed(painted):
    page, facts = painted
    samples = facts["samples"]
    assert (samples["kind"], samples["count"], samples["seed"]) == ("image", 2, 3)
    assert facts["headline"]["psnr_db"] == samples["psnr_db"] > 10  # 4 bits; other noise gives about 5 dB
    pictures = [a["src"] for tag, a in Page(page).tags if tag == "img"]
    assert len(pictures) == 4
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert len(set(pictures)) == 4


def test_a_calibrated_model_has_all_plots(painted):
    page, facts = painted
    assert {a["id"] for tag, a in Page(page).tags if tag == "figure" and "id" in a} == {
        "error-by-layer", "error-by-time", "size-against-error", "ranges-by-time"
    }  # fmt: skip
    for layer in facts["layers"]:
        groups, ranges = layer["time_groups"], layer["activation_ranges"]
        assert layer["output_cosine"] is not None
        assert len(groups) == 4
        assert all(low <= 0 <= high for low, high in zip(ranges["low"], ranges["high"], strict=True))


def test_text_of_one_seed(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertForMaskedLM(settings).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "metadata.json").write_text('{"modality": "text", "mask_token_id": 256, "sequence_length": 16}')
    config = DiffusionQuantConfig(bit_width=8, group_size=32, calibration="none")
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "q", config)
    page, facts = write_report(tmp_path / "q", tmp_path / "m", tmp_path / "r.html", samples=2)
    assert facts["samples"]["kind"] == "text"
    assert facts["headline"]["token_agreement"] == facts["samples"]["token_agreement"] > 0.5  # 8 bits
    assert [tag for tag, _ in Page(page).tags].count("pre") == 4


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(page: pathlib.Path, *options: str) -> str:
    profile = f"--user-data-dir={page.parent / 'profile'}"
    base = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", profile]
    run = subprocess.run([*base, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return run.stdout


# Added to the page: clicks a heading twice, filters, and leaves what came of it in the page's tree.
CLICKS = """
const shown = () => document.querySelectorAll("#layers tbody tr:not([hidden]) td.name");
const names = () => Array.from(shown(), (cell) => cell.textContent);
const heading = document.querySelector("#layers th[data-key=output_cosine]");
const seen = [names()];
for (const wanted of ["ascending", "descending"]) {
  heading.querySelector("button").click();
  if (heading.getAttribute("aria-sort") !== wanted) throw new Error(wanted);
  seen.push(names());
}
const filter = document.querySelector("input[data-filter=layers]");
filter.value = "TRANSFORMER_blocks.1.attn1.to_Q";
filter.dispatchEvent(new Event("input"));
seen.push(names());
document.body.dataset.seen = JSON.stringify(seen);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_headings_sort_and_rows_filter(painted, tmp_path):
    page, facts = painted
    layers = facts["layers"]
    names = [layer["name"] for layer in layers]
    by_cosine = [layer["name"] for layer in sorted(layers, key=lambda layer: layer["output_cosine"])]
    changed = page.read_text("utf-8").replace("</body>", f"<script>{CLICKS}</script></body>")
    (tmp_path / "page.html").write_text(changed, "utf-8")
    (tmp_path / "tree.html").write_text(browse(tmp_path / "page.html", "--dump-dom"), "utf-8")
    tree = Page(tmp_path / "tree.html")
    seen = json.loads(dict(tree.tags)["body"]["data-seen"])
    assert seen[:3] == [names, by_cosine, by_cosine[::-1]]
    assert seen[3] == ["transformer_blocks.1.attn1.to_q.weight"]
    assert sum(tag == "svg" for tag, _ in tree.tags) >= 4 + len(facts["weight_grids"])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_it_is_drawn(painted, tmp_path):
    image = pytest.importorskip("PIL.Image")
    page, _ = painted
    shot = tmp_path / "shot.png"
    shutil.copy(page, tmp_path / "r.html")
    browse(tmp_path / "r.html", "--window-size=1200,2400", f"--screenshot={shot}")
    with image.open(shot) as picture:
        assert picture.size == (1200, 2400)
        colours = picture.convert("RGB").getcolors(1 << 24)
    blue = sum(count for count, (r, _, b) in colours if b > r + 40)
    assert blue > 1000  # points and cells of the plots
