"""ArrowQuantV2 as coroutines: the same work on the same pool of threads, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from arrow_quant_v2.api import ArrowQuantV2, PathLike
from arrow_quant_v2.config import DiffusionQuantConfig

AsyncProgressCallback = Callable[[str, float], object | Awaitable[object]]

T = TypeVar("T")

_log = logging.getLogger("arrow_quant_v2")

# Each run waits in a thread of its own while the core's one pool does the work; asyncio's own executor would let only
# a few of them begin on a small machine. The threads are made when they are needed.
_WAITING = ThreadPoolExecutor(max_workers=64, thread_name_prefix="arrow_quant")


class AsyncArrowQuantV2:
    """ArrowQuantV2 with coroutines: the same arguments, results, errors and bytes.

    Any number may run at once (64 of them together); all share the core's pool of threads. Cancelling the task that
    awaits a method stops the run and returns when it has stopped; a run that has
    already put its output in place keeps it. ``progress_callback`` is called in the event loop, in order; it may be a
    function or a coroutine function. An exception in it is logged once and never ends the run.

    Args:
        mode: as for ArrowQuantV2.
    """

    def __init__(self, mode: str = "diffusion") -> None:
        self._sync = ArrowQuantV2(mode)
        self.mode = mode

    async def quantize_diffusion_model(
        self,
        model_path: PathLike,
        output_path: PathLike,
        config: DiffusionQuantConfig | None = None,
        calibration: str | None = None,
        progress_callback: AsyncProgressCallback | None = None,
        *,
        overwrite: bool = False,
        resume: bool = True,
    ) -> dict[str, Any]:
        """See ArrowQuantV2.quantize_diffusion_model."""
        async with _reporting(progress_callback) as report:
            return await _run(
                lambda stopped: self._sync.quantize_diffusion_model(
                    model_path, output_path, config, calibration, report, overwrite=overwrite, resume=resume,
                    should_stop=stopped,
                )
            )  # fmt: skip

    async def quantize(
        self,
        model_path: PathLike,
        output_path: PathLike,
        bit_width: int = 4,
        group_size: int = 128,
        *,
        overwrite: bool = False,
        resume: bool = True,
        progress_callback: AsyncProgressCallback | None = None,
    ) -> dict[str, Any]:
        """See ArrowQuantV2.quantize."""
        async with _reporting(progress_callback) as report:
            return await _run(
                lambda stopped: self._sync.quantize(
                    model_path, output_path, bit_width, group_size, overwrite=overwrite, resume=resume,
                    progress_callback=report, should_stop=stopped,
                )
            )  # fmt: skip

    async def plan(
        self,
        model_path: PathLike,
        config: DiffusionQuantConfig | None = None,
        calibration: str | None = None,
        progress_callback: AsyncProgressCallback | None = None,
        *,
        save_to: PathLike | None = None,
    ) -> dict[str, Any]:
        """See ArrowQuantV2.plan."""
        async with _reporting(progress_callback) as report:
            return await _run(
                lambda stopped: self._sync.plan(
                    model_path, config, calibration, report, save_to=save_to, should_stop=stopped
                )
            )

    async def validate_quality(
        self,
        original_path: PathLike,
        quantized_path: PathLike,
        min_accuracy: float | None = None,
        *,
        forward_samples: int | None = None,
        data: Any = None,
        columns: Mapping[str, str] | str | None = None,
        split: str | None = None,
        calls: Iterable[Any] | None = None,
        seed: int = 0,
        progress_callback: AsyncProgressCallback | None = None,
    ) -> dict[str, Any]:
        """See ArrowQuantV2.validate_quality."""
        async with _reporting(progress_callback) as report:
            return await _run(
                lambda stopped: self._sync.validate_quality(
                    original_path, quantized_path, min_accuracy, forward_samples=forward_samples, data=data,
                    columns=columns, split=split, calls=calls, seed=seed, progress_callback=report,
                    should_stop=stopped,
                )
            )  # fmt: skip


async def _run(function: Callable[[Callable[[], bool]], T]) -> T:
    """Run a blocking function in a thread; when this task is cancelled, tell it to stop and wait until it has."""
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(_WAITING, function, stop.is_set)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):  # cancelled once more: still wait, it is soon over
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen, so that asyncio does not complain that nobody looked
        raise


@contextlib.asynccontextmanager
async def _reporting(callback: AsyncProgressCallback | None) -> AsyncIterator[Callable[[str, float], None] | None]:
    """A callback for the run's thread that hands its news to the event loop, where ``callback`` hears of them."""
    if callback is None:
        yield None
        return
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()
    listener = loop.create_task(_listen(callback, news))

    def report(message: str, fraction: float) -> None:
        loop.call_soon_threadsafe(news.put_nowait, (message, fraction))

    try:
        yield report
        # Behind what the thread has handed over already.
        loop.call_soon(news.put_nowait, None)
        await listener
    finally:
        listener.cancel()


async def _listen(callback: AsyncProgressCallback, news: asyncio.Queue[tuple[str, float] | None]) -> None:
    failed = False
    while (item := await news.get()) is not None:
        try:
            answer = callback(*item)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            if not failed:
                _log.exception("the progress callback failed; the run goes on")
            failed = True
