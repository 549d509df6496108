"""The planner's process: `python -m llmos.planner.worker --fd N`, frames in and frames out.

    imports -> wait for the first frame -> build the kernels, once -> confine_files -> load -> confine_calls
    -> Ready -> turns

A few threads think, each about one request, and take turns pass by pass, so that a long answer keeps no short
one waiting. Another one reads frames, so that `Stop` reaches a running request within a token. The end of the
socket, or of the broker, is the end of this process. It may be killed at any moment and holds nothing that is
worth saving. It logs to stderr.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llmos import config, heap, paths
from llmos.config import THINK_AT_ONCE
from llmos.engine import adapter as adapters
from llmos.engine import native, store
from llmos.engine.adapter import Adapter
from llmos.errors import CallFailed, LlmosError, ModelError, WireError
from llmos.messages import Adapt, Delta, Failed, Message, Ready, Stop, Teach, Think, ToPlanner
from llmos.planner import confine
from llmos.wire import FrameSocket

log = logging.getLogger(__name__)

_FRAME: TypeAdapter[Think | Teach | Adapt | Stop] = TypeAdapter(ToPlanner)

_REST_S = 1.0  # without a frame; to give memory back takes some milliseconds, to have it again one


class Worker:
    """Frames in, frames out; owns the loop and which request is being thought about."""

    def __init__(self, wire: FrameSocket, model: str = "", settings: str = "") -> None:
        """`settings`: of the model, as JSON, where they are not ours to read; `model`: another name."""
        self._wire, self._model, self._given = wire, model, settings
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[tuple[Think, threading.Event] | Teach | Adapt] = queue.SimpleQueue()
        self._first: tuple[Think, threading.Event] | Teach | Adapt | None = None  # what came before the model
        self._cancels: dict[str, threading.Event] = {}
        self._thinkers = ThreadPoolExecutor(THINK_AT_ONCE, thread_name_prefix="think")
        self._thinking: set[Future[None]] = set()

    def run(self) -> int:
        """Serve until the socket ends; returns the exit code."""
        try:
            _import()  # the broker starts us as early as it can, before it has the tools
            if not self._read():  # loading waits for the first word, and confinement for no thread
                return 0
            self._first = self._inbox.get_nowait() if not self._inbox.empty() else None
            self._load(self._settings())
        except Exception as error:
            self._send(Failed(error=_reported(error, "the model cannot be loaded").to_rpc()))
            return 1
        while True:
            self._turn()

    # --- start ---

    def _settings(self) -> config.ModelSettings:
        if self._given:
            return config.ModelSettings.model_validate_json(self._given)
        settings = config.load().model
        return settings.for_model(self._model) if self._model else settings

    def _load(self, model: config.ModelSettings) -> None:
        started = time.perf_counter()
        path = store.resolve(model.name)
        self._base = store.sha256_of(model.name)
        adapter = adapters.chosen(model.adapter, self._base)
        from llmos.engine.engine import Engine
        from llmos.planner.loop import Loop

        if model.dtype in ("auto", "packed"):
            native.library()  # the first time this starts the compiler, which confinement forbids
        held = confine.confine_files(
            confine.needed_to_read(*_weights(path), *_adapter_files(adapter)), _prepared_folder()
        )
        threading.Thread(target=self._read_on, name="reader", daemon=True).start()
        engine = Engine.load(
            path,
            dtype=model.dtype,
            threads=model.threads,
            context_tokens=model.context_tokens,
            adapter=adapter,
        )
        self._loop = Loop(engine, context_tokens=model.context_tokens)
        self._teach_first()
        missing = held.missing + confine.confine_calls().missing
        for layer in missing:
            log.warning("the planner goes on without a layer of its confinement: %s", layer)
        heap.settle()
        heap.give_back()
        load_ms = 1000 * (time.perf_counter() - started)
        self._send(
            Ready(model=engine.name, load_ms=load_ms, resident_bytes=_resident_bytes(), unconfined=missing)
        )

    def _teach_first(self) -> None:
        """Take the tools if they came first, while what is read of them can still be kept on disk."""
        if isinstance(self._first, Teach):
            self._loop.teach(self._first.tools)
            self._loop.read_ahead()
            self._first = None

    # --- frames in ---

    def _read(self) -> bool:
        """Take one frame; False at the end of the socket."""
        frame = self._wire.receive()
        if frame is None:
            return False
        try:
            message = _FRAME.validate_python(frame)
        except ValidationError as error:
            raise WireError(f"the broker sent no known frame: {error.errors()[0]['msg']}") from error
        if isinstance(message, Stop):
            if cancel := self._cancels.get(message.id):
                cancel.set()
        elif isinstance(message, Think):
            cancel = self._cancels[message.id] = threading.Event()
            self._inbox.put((message, cancel))
        else:
            self._inbox.put(message)
        return True

    def _read_on(self) -> None:
        """The reader thread. Nobody is left to answer to when it ends, so the process ends with it."""
        try:
            while self._read():
                pass
        except (OSError, WireError) as error:
            log.error("the connection to the broker broke: %s", error)
        os._exit(0)

    # --- turns ---

    def _turn(self) -> None:
        item, self._first = self._first or self._next(), None
        if isinstance(item, Teach):
            wait(self._thinking)
            self._loop.teach(item.tools)
            return
        if isinstance(item, Adapt):
            wait(self._thinking)
            self._adapt(item)
            return
        self._thinking = {one for one in self._thinking if not one.done()}
        self._thinking.add(self._thinkers.submit(self._think, *item))

    def _next(self) -> tuple[Think, threading.Event] | Teach | Adapt:
        """What comes next; memory that only the last thoughts needed is given back before a longer wait."""
        while True:
            try:
                return self._inbox.get(timeout=_REST_S)
            except queue.Empty:
                if all(one.done() for one in self._thinking):
                    break
        heap.give_back()
        return self._inbox.get()

    def _adapt(self, item: Adapt) -> None:
        """Beside the same weights where that can be; else this process makes room for one that loads it."""
        try:
            self._loop.adapt(adapters.chosen(item.adapter, self._base))
        except LlmosError as error:
            log.warning("the adapter is not changed in place: %s", error)
            os._exit(0)

    def _think(self, think: Think, cancel: threading.Event) -> None:
        try:
            self._answer(think, cancel)
        except Exception:  # nobody would notice that a thread has ended
            log.exception("an answer cannot be sent")
            os._exit(1)

    def _answer(self, think: Think, cancel: threading.Event) -> None:
        try:
            thought = self._loop.think(think, cancel=cancel, on_text=lambda text: self._say(think.id, text))
        except Exception as error:  # one request's failure is not the next one's
            self._send(Failed(id=think.id, error=_reported(error, "thinking failed").to_rpc()))
        else:
            self._send(thought)
        self._cancels.pop(think.id, None)  # a name that is used again may be the next one's already

    def _say(self, think_id: str, text: str) -> None:
        self._send(Delta(id=think_id, text=text))

    def _send(self, message: Message) -> None:
        with self._sending:
            self._wire.send(message.model_dump(mode="json"))


def _import() -> None:
    """The libraries, which take longest; torch makes a temporary folder, but no thread yet."""
    import llmos.engine.engine
    import llmos.planner.loop  # noqa: F401


def _weights(path: Path) -> tuple[Path, ...]:
    """The model's own file or folder, and what it links to (a hub's cache links to its blobs)."""
    return (path, *(item.resolve() for item in path.iterdir())) if path.is_dir() else (path, path.resolve())


def _adapter_files(adapter: Adapter | None) -> tuple[Path, ...]:
    """The adapter's own, and all that it could be changed for without a new start."""
    known = (paths.adapters_dir(), paths.own_adapters_dir())
    return (*known, adapter.folder, adapter.weights.resolve()) if adapter else known


def _prepared_folder() -> tuple[Path, ...]:
    """Where loading may keep the weights' prepared form; none when it cannot be made."""
    folder = paths.prepared_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a shared, read-only store: loading is slower, nothing more
        return ()
    # torch wants a cache folder to exist when it is imported in parts later; nothing is compiled.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return (folder,)


def _resident_bytes() -> int:
    """proc_pid_statm(5): the second field, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _reported(error: Exception, doing: str) -> LlmosError:
    """Any failure as one the person can act on; ours pass unchanged."""
    if isinstance(error, LlmosError):
        return error
    log.error("%s", doing, exc_info=error)
    # torch says "can't allocate memory" in a RuntimeError of its own.
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return ModelError(
            f"{doing}: out of memory", "Close programs, or use a smaller model: llmos model use tiny"
        )
    return CallFailed(f"{doing}: {type(error).__name__}: {error}", "Run: llmos doctor")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llmos.planner.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the broker")
    parser.add_argument("--model", default="", help="another model than the configuration names")
    parser.add_argument(
        "--settings", default="", help="of the model, as JSON, instead of the configuration's"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="planner %(levelname)s %(name)s: %(message)s"
    )
    confine.die_with_parent()
    gc.disable()  # until all is loaded: it stays, and searching it takes a tenth of the time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would start before Landlock
    return Worker(FrameSocket(socket.socket(fileno=options.fd)), options.model, options.settings).run()


if __name__ == "__main__":
    sys.exit(main())
