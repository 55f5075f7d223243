"""What README.md and docs/ tell a person to type works: every snippet runs, unless it says why not."""

from __future__ import annotations

import json
import pathlib
import shutil
import wave

import numpy as np
import pytest
import snippets as md

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
PIL_Image = pytest.importorskip("PIL.Image")

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [*sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")), "README.md"]
# Pages that speak of a quantized model which the reader has.
HAVE_OUT = {"docs/evaluation.md", "docs/time-aware.md", "docs/troubleshooting.md"}
# Marked fences in all pages; a new one is to be seen here.
NOT_RUN = 7


def tiny_dit(channels: int = 3, classes: int = 10):
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=channels, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=classes,
    )  # fmt: skip


def save(model, path: pathlib.Path, **facts) -> None:
    model.save_pretrained(path)
    if facts["modality"] != "text":
        diffusers.DDIMScheduler(num_train_timesteps=1000).save_pretrained(path / "scheduler")
    (path / "metadata.json").write_text(json.dumps(facts))


def save_text_model(path: pathlib.Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, initializer_range=0.1,
    )  # fmt: skip
    save(transformers.BertForMaskedLM(config), path, modality="text", mask_token_id=256, sequence_length=16)


def save_sound_model(path: pathlib.Path) -> None:
    torch.manual_seed(0)
    model = diffusers.UNet1DModel(
        sample_size=64, in_channels=2, out_channels=2, block_out_channels=(32, 32), extra_in_channels=64,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip
    save(model, path, modality="audio")


def save_pipeline(path: pathlib.Path) -> None:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        latent_channels=3, sample_size=8, norm_num_groups=8,
    )  # fmt: skip
    diffusers.DiTPipeline(tiny_dit(classes=1000), vae, diffusers.DDIMScheduler()).save_pretrained(path)


def save_data(folder: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    (folder / "sounds").mkdir()
    encoded = []
    for i in range(8):
        picture = folder / "pictures" / f"{i}.png"
        PIL_Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
        encoded.append(picture.read_bytes())
        with wave.open(str(folder / "sounds" / f"{i}.wav"), "wb") as file:
            file.setparams((2, 2, 16000, 0, "NONE", ""))
            file.writeframes(rng.integers(-9999, 9999, (64, 2), dtype=np.int16).tobytes())
    pq.write_table(pa.table({"jpg": encoded, "class": list(range(8))}), folder / "train.parquet")
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"body": line}) + "\n" for line in text.splitlines()))
    (folder / "corpus.txt").write_text(text)
    (folder / "prompts.txt").write_text("1\n7\n")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> pathlib.Path:
    """The models and the data that the pages name: tiny, with random weights."""
    from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig

    folder = tmp_path_factory.mktemp("prepared")
    to = folder / "path" / "to"
    to.mkdir(parents=True)
    save(tiny_dit(), to / "model", modality="image")
    save_text_model(to / "mdlm")
    save_sound_model(to / "sound_model")
    save_pipeline(to / "pipeline")
    for data in (folder, to):
        save_data(data)
    for name in ("MODEL", "a", "b"):
        shutil.copytree(to / "model", folder / name)
    config = DiffusionQuantConfig(calibration_samples=8, num_time_groups=2)
    ArrowQuantV2().quantize_diffusion_model(folder / "MODEL", folder / "OUT", config)
    return folder


@pytest.fixture
def page_folder(prepared, tmp_path, monkeypatch, request) -> pathlib.Path:
    folder = tmp_path / "page"
    without = None if request.param in HAVE_OUT else shutil.ignore_patterns("OUT")
    shutil.copytree(prepared, folder, ignore=without)
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ARROW_QUANT_CALIBRATION_SAMPLES", "8")
    monkeypatch.setenv("ARROW_QUANT_NUM_TIME_GROUPS", "2")
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.TRAJECTORY_STEPS", 4)
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.UNMASKING_STEPS", 4)
    return folder


def of_page(page: str) -> list[md.Snippet]:
    return list(md.snippets((ROOT / page).read_text(encoding="utf-8")))


def runnable(page: str) -> list[md.Snippet]:
    return [s for s in of_page(page) if s.not_run is None and s.language not in md.NOT_RUN]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page_folder", [page for page in PAGES if runnable(page)], indirect=True)
def test_snippets_run(page_folder, request):
    page = request.node.callspec.params["page_folder"]
    runner = md.Runner()
    # A configuration may be read before the page shows one.
    for snippet in sorted(runnable(page), key=lambda s: s.language != "yaml"):
        try:
            runner.run(snippet, page)
        except BaseException as error:
            error.add_note(f"in the snippet of {page}, line {snippet.line}")
            raise


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_run_or_says_why_not(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not list(md.indented_code(text)), "use a fence, so that tests see it"
    for snippet in of_page(page):
        assert snippet.language in {"python", "sh", "yaml", *md.NOT_RUN}, f"line {snippet.line}"
        if snippet.language in {"cpp", "cmake"}:
            assert snippet.attributes.startswith("source="), f"line {snippet.line}"


def test_what_is_not_run_is_counted(capsys):
    marked = [(page, s.line, s.not_run) for page in PAGES for s in of_page(page) if s.not_run]
    with capsys.disabled():
        print()
        for page, line, reason in marked:
            print(f"{page}:{line}: not run: {reason}")
    assert len(marked) == NOT_RUN, "\n".join(map(str, marked))
    assert sum(len(runnable(page)) for page in PAGES) > 2 * NOT_RUN


def test_a_broken_snippet_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for language, text in (("python", "no_such_name"), ("sh", "false"), ("sh", "arrow-quant inspect nothing")):
        with pytest.raises((NameError, AssertionError, Exception), match=r"no_such_name|status 1|exit code 3"):
            md.Runner().run(md.Snippet(language, text, 1), "page")


def test_marks_belong_to_the_next_fence():
    text = "<!-- not run: slow -->\n```sh\na\n```\n\n```python\nb\n```\n\n    c\n"
    first, second = md.snippets(text)
    assert (first.not_run, second.not_run, first.text) == ("slow", None, "a\n")
    assert list(md.indented_code(text)) == [10]
