"""The courier speaks with cloud backends: `python -m llmos.planner.courier --fd N --dial M`.

    Equip -> keys, certificates, detectors -> confine -> Equipped
    Prepare -> redact -> Prepared           nothing has left; the broker shows, asks, counts
    Send -> dial -> ask -> Thought          over connections that the broker makes, to what it allows

It holds the keys, and no model, no file and no way to make a socket: a connection is asked for over `--dial`
and comes as a descriptor, already connected to the one place the broker chose. A request's words reach
it through `Prepare` alone. It may be killed at any moment; what was reserved for it then counts as spent.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter

from llmos import hints
from llmos.cloud import chat as chats
from llmos.cloud import detect, keys, transport
from llmos.cloud.backends import Backend, Cancel, Reply, quiet_libraries
from llmos.cloud.chat import Chat
from llmos.cloud.desk import Answer, Desk
from llmos.cloud.frames import Attempted, Equip, Equipped, Offer, Prepare, Prepared, Send, ToCourier
from llmos.cloud.redact import Redactor
from llmos.config import BackendSettings, OffloadSettings
from llmos.errors import CallFailed, ConfigError, LlmosError, UsageError, from_rpc
from llmos.guard import redaction
from llmos.messages import Failed, Message, Stop, Teach, Thought, Timing, ToolSpec
from llmos.planner import confine
from llmos.planner.retrieval import Retriever
from llmos.wire import FrameSocket

log = logging.getLogger(__name__)

_FRAME: TypeAdapter[Equip | Teach | Prepare | Send | Stop] = TypeAdapter(ToCourier)
BYTES_PER_TOKEN = 3.2  # an estimate, between code and prose; what it can cost goes by bytes
TOKENS_PER_MESSAGE = 16  # what a chat template puts around each, at most
MAX_TOOLS = 24
ALWAYS = ("answer", "ask", "shell.run")
MAX_KEPT = 32  # prepared requests that nobody sent


class Exchange:
    """Asks the broker for connections; each answer carries a descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._waiting: dict[int, _Call] = {}
        self._last = 0
        threading.Thread(target=self._read, name="dial", daemon=True).start()

    def connect(self, request: str, backend: str) -> tuple[int, socket.socket]:
        """The dial's number and a connected socket. Raises OSError, or the broker's refusal."""
        with self._lock:
            self._last += 1
            call = self._waiting[self._last] = _Call(self._last)
        self._sock.send(json.dumps({"n": call.number, "id": request, "backend": backend}).encode())
        call.done.wait()
        if call.error:
            if call.error.get("kind") == "OSError":
                raise OSError(str(call.error.get("message")))
            raise from_rpc({"message": call.error.get("message"), "data": call.error})
        return call.number, socket.socket(fileno=call.fd)

    def _read(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, 1)
            if not data:
                os._exit(0)
            answer = json.loads(data)
            call = self._waiting.pop(answer["n"])
            call.error, call.fd = answer.get("error"), fds[0] if fds else -1
            call.done.set()


class _Call:
    def __init__(self, number: int) -> None:
        self.number = number
        self.done = threading.Event()
        self.error: dict[str, str] | None = None
        self.fd = -1


class _Line:
    """desk.Line for one request: dials, and reports each attempt."""

    def __init__(self, courier: Courier, request: str) -> None:
        self._courier, self._request = courier, request
        self._dial = threading.local()

    def connect(self, backend: str) -> socket.socket:
        self._dial.number, sock = self._courier.exchange.connect(self._request, backend)
        return sock

    def ended(self, backend: str, *, billed: bool, why: str, reply: Reply | None) -> None:
        number, self._dial.number = getattr(self._dial, "number", 0), 0
        if not number:  # it never had a connection
            return
        self._courier.send(
            Attempted(
                id=self._request,
                backend=backend,
                dial=number,
                ok=reply is not None,
                billed=billed or reply is not None,
                why="" if reply is not None else why,
                prompt_tokens=reply.prompt_tokens if reply else 0,
                reply_tokens=(reply.reply_tokens or len(reply.text) // 2) if reply else 0,
            )
        )


class _Parcel:
    """A request that is ready to leave."""

    def __init__(self, prepare: Prepare, chat: Chat, redactor: Redactor) -> None:
        self.prepare, self.chat, self.redactor = prepare, chat, redactor


class Courier:
    """Frames in, frames out; each request in a thread of its own."""

    def __init__(self, wire: FrameSocket, dial: socket.socket) -> None:
        self._wire, self._dial_sock = wire, dial
        self._sending = threading.Lock()
        self._specs: tuple[ToolSpec, ...] = ()
        self._retriever = Retriever(())
        self._parcels: dict[str, _Parcel] = {}
        self._cancels: dict[str, Cancel] = {}

    def run(self) -> int:
        """Serve until the socket ends; returns the exit code."""
        try:
            first = self._receive()
            if not isinstance(first, Equip):
                return 0 if first is None else 1
            self._equip(first)
        except Exception as error:
            self.send(Failed(error=_reported(error).to_rpc()))
            return 1
        while (frame := self._receive()) is not None:
            self._take(frame)
        os._exit(0)  # threads that still wait for an answer have nobody to give it to

    def _receive(self) -> Equip | Teach | Prepare | Send | Stop | None:
        value = self._wire.receive()
        return None if value is None else _FRAME.validate_python(value)

    def _take(self, frame: Equip | Teach | Prepare | Send | Stop) -> None:
        if isinstance(frame, Teach):
            self._specs, self._retriever = frame.tools, Retriever(frame.tools)
        elif isinstance(frame, Stop):
            if cancel := self._cancels.get(frame.id):
                cancel.set()
        elif isinstance(frame, Prepare):
            self._guarded(frame.id, lambda: self._prepare(frame))
        elif isinstance(frame, Send):
            self._cancels[frame.id] = Cancel()
            work = threading.Thread(
                target=self._guarded, args=(frame.id, lambda: self._ask(frame)), daemon=True
            )
            work.start()

    def _guarded(self, request: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # one request's failure is not the next one's
            self.send(Failed(id=request, error=_reported(error).to_rpc()))

    def send(self, message: Message) -> None:
        with self._sending:
            self._wire.send(message.model_dump(mode="json"))

    # --- start ---

    def _equip(self, equip: Equip) -> None:
        settings = [BackendSettings.model_validate(one) for one in equip.backends]
        backends, keyless = _backends(settings)
        self.desk = Desk(backends, OffloadSettings.model_validate(equip.offload))
        detect.load()
        hints.heads()
        redaction.redact_text("Authorization: Bearer x")  # reads the table
        chats.read(_WARM, '{"command": "true"}', lambda value: value)
        _import_all()
        held = confine.confine_files(confine.needed_to_read(*map(Path, ("/etc/ssl", "/usr/share/zoneinfo"))))
        self.exchange = Exchange(self._dial_sock)
        missing = held.missing + confine.confine_calls().missing
        for layer in missing:
            log.warning("the courier goes on without a layer of its confinement: %s", layer)
        self.send(Equipped(keyless=keyless, unconfined=missing))

    # --- prepare ---

    def _prepare(self, prepare: Prepare) -> None:
        redactor = Redactor((redaction.secrets_in, detect.secrets_in, hints.secrets_in), prepare.known)
        specs = self._tools_for(prepare.think.text)
        chat, shown = chats.compose(prepare.think, specs, redactor.hide, document=prepare.document)
        while len(self._parcels) >= MAX_KEPT:
            del self._parcels[next(iter(self._parcels))]
        self._parcels[prepare.id] = _Parcel(prepare, chat, redactor)
        self.send(
            Prepared(
                id=prepare.id,
                text=shown,
                tools_bytes=chat.num_bytes - len(shown.encode()),
                replaced=redactor.counts(),
                offers=tuple(self._offer(name, chat) for name in prepare.backends),
            )
        )

    def _tools_for(self, text: str) -> tuple[ToolSpec, ...]:
        """Those that are most like the request, and those that every request may need."""
        names = dict.fromkeys(ALWAYS)
        for _, shot in self._retriever.ranked(text):
            if len(names) >= MAX_TOOLS:
                break
            names[shot.spec.name] = None
        by_name = {spec.name: spec for spec in self._specs}
        return tuple(by_name[name] for name in sorted(names) if name in by_name)

    def _offer(self, name: str, chat: Chat) -> Offer:
        settings = self.desk.backends[name].settings
        around = TOKENS_PER_MESSAGE * len(chat.messages)
        said = sum(len(message["content"].encode()) for message in chat.messages)
        estimated = round(said / BYTES_PER_TOKEN) + around
        return Offer(
            backend=name,
            num_bytes=chat.num_bytes,
            prompt_tokens=estimated,
            max_prompt_tokens=chat.num_bytes + around,
            max_reply_tokens=settings.max_reply_tokens,
            fits=estimated + settings.max_reply_tokens <= settings.window,
            unhealthy=self.desk.breakers[name].why(),
        )

    # --- send ---

    def _ask(self, send: Send) -> None:
        parcel = self._parcels.pop(send.id, None)
        if parcel is None:
            raise UsageError(f"nothing was prepared under {send.id}", "Prepare it first.")
        started = time.perf_counter()
        try:
            answer = self.desk.ask(
                parcel.chat,
                send.backends,
                _Line(self, send.id),
                timeout_s=send.timeout_s,
                cancel=self._cancels[send.id],
                restore=parcel.redactor.restore,
            )
        finally:
            del self._cancels[send.id]
        self.send(_thought(send.id, answer, 1000 * (time.perf_counter() - started)))


_WARM = Chat((), (), {}, translate=True)


def _thought(request: str, answer: Answer, total_ms: float) -> Thought:
    reading, reply = answer.reading, answer.reply
    return Thought(
        id=request,
        calls=reading.calls,
        command=reading.command,
        confidence=1.0,
        route=f"cloud:{answer.backend}",
        more=reading.more,
        timing=Timing(
            decode_ms=total_ms,
            total_ms=total_ms,
            prompt_tokens=reply.prompt_tokens,
            generated_tokens=reply.reply_tokens,
        ),
    )


def _backends(settings: list[BackendSettings]) -> tuple[dict[str, Backend], dict[str, str]]:
    """The usable ones, and why the others have no key or certificates."""
    found: dict[str, Backend] = {}
    keyless: dict[str, str] = {}
    for one in settings:
        key, context = "", None
        try:
            key = keys.find(one)
            context = transport.tls_context(one.ca_file) if one.url.startswith("https:") else None
        except ConfigError as error:
            keyless[one.name] = f"{error} {error.next_step}".strip()
        except OSError as error:
            keyless[one.name] = f"the certificates in {one.ca_file} cannot be read ({error.strerror})"
        found[one.name] = Backend(one, key, context)
    return found, keyless


def _import_all() -> None:
    """What libraries import only when it is first used, while files can still be read at will."""
    import encodings.idna  # noqa: F401

    import jsonschema  # noqa: F401
    from openai.resources import chat  # noqa: F401


def _reported(error: Exception) -> LlmosError:
    if isinstance(error, LlmosError):
        return error
    log.error("the courier failed", exc_info=error)
    return CallFailed(f"the courier failed: {type(error).__name__}", "Read the daemon's log.")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llmos.planner.courier", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the broker")
    parser.add_argument("--dial", type=int, required=True, help="the inherited socket for connections")
    options = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="courier %(levelname)s %(name)s: %(message)s"
    )
    quiet_libraries()
    confine.die_with_parent()
    return Courier(FrameSocket(socket.socket(fileno=options.fd)), socket.socket(fileno=options.dial)).run()


if __name__ == "__main__":
    sys.exit(main())
