"""The coroutines: many at once, the same bytes, cancellation."""

from __future__ import annotations

import asyncio
import pathlib
import time

import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    AsyncArrowQuantV2,
    CancelledError,
    ConfigurationError,
    DiffusionQuantConfig,
    ModelNotFoundError,
)
from helpers import digest, write_sparse_model

QUANTIZER = AsyncArrowQuantV2()


def test_ten_at_once_give_the_bytes_of_one(tmp_path, demo_model):
    async def all_of_them():
        runs = [
            QUANTIZER.quantize_diffusion_model(demo_model, tmp_path / str(i), calibration="none") for i in range(10)
        ]
        return await asyncio.gather(*runs)

    results = asyncio.run(all_of_them())
    want = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "sync", calibration="none")
    for i, result in enumerate(results):
        assert digest(tmp_path / str(i)) == digest(tmp_path / "sync")
        assert result["cosine_similarity"] == want["cosine_similarity"]


def threads_of_this_process() -> int:
    return len(list(pathlib.Path("/proc/self/task").iterdir()))


def test_runs_share_one_pool(tmp_path, demo_model):
    """Twelve runs need a waiting thread, a job and a writer each; pools of their own would need more."""
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "first", calibration="none")  # makes the pool
    before = threads_of_this_process()
    most = 0

    async def watch():
        nonlocal most
        while True:
            most = max(most, threads_of_this_process())
            await asyncio.sleep(0.002)

    async def all_of_them():
        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(QUANTIZER.quantize(demo_model, tmp_path / str(i)) for i in range(12)))
        watcher.cancel()

    asyncio.run(all_of_them())
    assert most - before <= 3 * 12


def test_base_mode_and_validation(tmp_path, demo_model):
    async def both():
        await QUANTIZER.quantize(demo_model, tmp_path / "q", 8, 64)
        return await QUANTIZER.validate_quality(demo_model, tmp_path / "q", 0.99)

    ArrowQuantV2().quantize(demo_model, tmp_path / "sync", 8, 64)
    assert asyncio.run(both())["passed"]
    assert digest(tmp_path / "q") == digest(tmp_path / "sync")


def test_plan(demo_model):
    assert asyncio.run(QUANTIZER.plan(demo_model))["layers"] == ArrowQuantV2().plan(demo_model)["layers"]


def test_errors_are_those_of_the_blocking_methods(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        asyncio.run(QUANTIZER.quantize(tmp_path / "nowhere", tmp_path / "q"))
    with pytest.raises(ConfigurationError, match="mode"):
        AsyncArrowQuantV2("fast")


def test_cancelling_stops_the_core_and_leaves_nothing(tmp_path):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=32768)  # 8 GB: many seconds of work

    async def begin_and_cancel() -> float:
        task = asyncio.create_task(QUANTIZER.quantize(source, tmp_path / "q"))
        while not list(tmp_path.glob(".q.partial")):
            await asyncio.sleep(0.01)
        task.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    # The core looks after each block of a hundred thousand weights; the rest is for a busy machine.
    assert asyncio.run(begin_and_cancel()) < 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_timeout_leaves_nothing(tmp_path):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=32768)

    async def impatient():
        async with asyncio.timeout(0.3):
            await QUANTIZER.quantize(source, tmp_path / "q")

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_cancelled_run_does_not_disturb_the_others(tmp_path, demo_model):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=32768)

    async def several():
        doomed = asyncio.create_task(QUANTIZER.quantize(source, tmp_path / "doomed"))
        kept = [asyncio.create_task(QUANTIZER.quantize(demo_model, tmp_path / str(i))) for i in range(3)]
        await asyncio.sleep(0.1)
        doomed.cancel()
        return await asyncio.gather(doomed, *kept, return_exceptions=True)

    first, *others = asyncio.run(several())
    assert isinstance(first, asyncio.CancelledError)
    assert all(isinstance(result, dict) for result in others)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "m"]


def test_should_stop_of_the_blocking_methods(tmp_path, demo_model):
    source = write_sparse_model(tmp_path / "m", rows=65536, columns=32768)
    start = time.monotonic()
    with pytest.raises(CancelledError):
        ArrowQuantV2().quantize(source, tmp_path / "q", should_stop=lambda: time.monotonic() - start > 0.2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    ArrowQuantV2().quantize(demo_model, tmp_path / "q")
    with pytest.raises(CancelledError):
        ArrowQuantV2().validate_quality(demo_model, tmp_path / "q", should_stop=lambda: True)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_progress_arrives_in_the_loop_and_in_order(tmp_path, demo_model, kind):
    seen: list[tuple[float, asyncio.Task | None]] = []

    def plain(message: str, fraction: float) -> None:
        seen.append((fraction, asyncio.current_task()))

    async def coroutine(message: str, fraction: float) -> None:
        await asyncio.sleep(0)
        seen.append((fraction, asyncio.current_task()))

    callback = plain if kind == "function" else coroutine
    asyncio.run(QUANTIZER.quantize(demo_model, tmp_path / "q", progress_callback=callback))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert all(task is not None for _, task in seen)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_errors_of_a_callback_are_logged_once(tmp_path, demo_model, caplog, kind):
    def plain(message: str, fraction: float) -> None:
        raise RuntimeError("broken")

    async def coroutine(message: str, fraction: float) -> None:
        raise RuntimeError("broken")

    callback = plain if kind == "function" else coroutine
    config = DiffusionQuantConfig()
    run = QUANTIZER.quantize_diffusion_model(
        demo_model, tmp_path / "q", config, progress_callback=callback, calibration="none"
    )
    assert asyncio.run(run)["layers"]
    assert [r.message for r in caplog.records] == ["the progress callback failed; the run goes on"]


def test_two_runs_with_one_output_do_not_mix(tmp_path, demo_model):
    async def both():
        runs = [QUANTIZER.quantize(demo_model, tmp_path / "q", bits) for bits in (4, 8)]
        return await asyncio.gather(*runs, return_exceptions=True)

    results = asyncio.run(both())
    assert sorted(type(result).__name__ for result in results) == ["ConfigurationError", "dict"]
    (won,) = [result for result in results if isinstance(result, dict)]
    ArrowQuantV2().quantize(demo_model, tmp_path / "alone", won["bit_width"])
    assert digest(tmp_path / "q") == digest(tmp_path / "alone")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "q"]
