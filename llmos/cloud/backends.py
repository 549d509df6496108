"""One backend, one attempt: the official client, over a connection that was handed to us.

An attempt ends with the whole reply, or with a `Failure` that says whether another try can help. It is
bounded by its deadline, by the longest silence and by the reply's size. No error says more than the
backend's name, a status and the server's own sentence without the key.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai

from llmos import __version__
from llmos.cloud import chat as chats
from llmos.cloud.chat import Chat, Dialect
from llmos.cloud.transport import Connect, Refused, Transport
from llmos.config import BackendSettings
from llmos.errors import LlmosError

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
REFUSED_FORM = frozenset({400, 404, 415, 422, 501})  # what servers say to a dialect they do not speak
_CHARS_PER_TOKEN = 24  # more than any reply has; beyond it, a stream has no end
_FORM_WORDS = re.compile(r"response_format|json_schema|grammar|structured|guided|tool_choice|\btools\b")
_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. Token counts are the server's, or 0 where it gave none."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    out_of_tokens: bool


class Failure(Exception):
    """An attempt that gave no answer. `again`: another try may help, and not before `after_s`."""

    def __init__(
        self,
        why: str,
        *,
        again: bool,
        billed: bool,
        after_s: float | None = None,
        refused_form: bool = False,
        error: LlmosError | None = None,
    ) -> None:
        super().__init__(why)
        self.again, self.billed, self.after_s = again, billed, after_s
        self.refused_form, self.error = refused_form, error


class Cancel:
    """Set from another thread, it cuts the attempts that run under it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._children: list[Cancel | Attempt] = []

    def child(self) -> Cancel:
        """One that is set with this one, and can be set alone."""
        return self.hold(Cancel())

    def hold(self, held: _Held) -> _Held:
        self._children.append(held)
        if self._event.is_set():
            held.set()
        return held

    def set(self) -> None:
        self._event.set()
        for held in tuple(self._children):
            held.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        return self._event.wait(timeout_s)


class Attempt:
    """A running attempt and its open connections, so that it can be cut."""

    def __init__(self, deadline: float, started: threading.Event | None = None) -> None:
        self.deadline = deadline  # time.monotonic()
        self.started = started or threading.Event()  # the first piece of the answer is here
        self._socks: list[socket.socket] = []
        self._cut = False

    def own(self, sock: socket.socket) -> socket.socket:
        self._socks.append(sock.dup())  # what TLS or the client closes must not be another's number by then
        if self._cut:
            self.set()
        return sock

    def set(self) -> None:
        """Wake whoever reads or writes; safe from any thread."""
        self._cut = True
        for sock in tuple(self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


_Held = TypeVar("_Held", Cancel, Attempt)
_Error = TypeVar("_Error", bound=BaseException)


class _Client(openai.OpenAI):
    """The official client, which says nothing of this machine."""

    def platform_headers(self) -> dict[str, str]:
        return {}

    @property
    def user_agent(self) -> str:
        return f"llmos/{__version__}"


class Backend:
    """Settings, key and the dialect that its server was found to speak."""

    def __init__(self, settings: BackendSettings, key: str, context: ssl.SSLContext | None) -> None:
        self.settings = settings
        self._key, self._context = key, context
        self._rung = 0
        self._limit_name = "max_tokens"

    @property
    def dialect(self) -> Dialect:
        return chats.LADDER[self._rung] if self.settings.dialect == "auto" else self.settings.dialect

    def step_down(self) -> bool:
        """Ask for the form in a simpler way from now on; False when there is none."""
        if self.settings.dialect != "auto" or self._rung + 1 >= len(chats.LADDER):
            return False
        self._rung += 1
        return True

    def ask(self, chat: Chat, connect: Connect, attempt: Attempt, cancel: Cancel) -> Reply:
        """One attempt. Raises Failure."""
        settings = self.settings
        left_s = min(settings.timeout_s, attempt.deadline - time.monotonic())
        if left_s <= 0:
            raise Failure("no time is left", again=False, billed=False)
        started = time.monotonic()  # before the timer's, or what it cuts off would look as if it broke
        timer = threading.Timer(left_s, attempt.set)
        timer.daemon = True
        timer.start()
        try:
            with self._client(connect, attempt) as client:
                return self._stream(client, chat, attempt, cancel)
        except Exception as error:
            late = time.monotonic() >= started + left_s
            if isinstance(error, Failure) and not late:
                raise
            raise self._failure(error, attempt, cancel, timed_out=late) from None
        finally:
            timer.cancel()
            attempt.close()

    def _client(self, connect: Connect, attempt: Attempt) -> _Client:
        settings = self.settings
        timeout = httpx2.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s)
        http = httpx2.Client(
            transport=Transport(lambda: attempt.own(connect()), self._context),
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [_say_little]},
        )
        return _Client(
            api_key=self._key or "none",
            base_url=settings.url,
            http_client=http,
            max_retries=0,
            timeout=timeout,
            organization="",
            project="",
        )

    def _stream(self, client: _Client, chat: Chat, attempt: Attempt, cancel: Cancel) -> Reply:
        most = self.settings.max_reply_tokens
        asked: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(chat.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            self._limit_name: most,
            **chats.form(chat, self.dialect),
        }
        gathered = _Gathered(most * _CHARS_PER_TOKEN + 4096)
        with client.chat.completions.create(**asked) as stream:
            for chunk in stream:
                if cancel.is_set():
                    raise Failure("cancelled", again=False, billed=True)
                gathered.add(chunk)
                attempt.started.set()
        return gathered.reply(chat)

    def _failure(self, error: Exception, attempt: Attempt, cancel: Cancel, *, timed_out: bool) -> Failure:
        """What an exception of the client means."""
        name = self.settings.name
        if cancel.is_set():
            return Failure("cancelled", again=False, billed=True)
        if (refused := _cause(error, Refused)) is not None:
            return Failure(str(refused), again=False, billed=False, error=refused.error)
        if isinstance(error, openai.APIStatusError):
            return self._status(error)
        if timed_out:
            return Failure(f"{name} did not finish in time", again=False, billed=True)
        return self._broken(error, attempt)

    def _broken(self, error: Exception, attempt: Attempt) -> Failure:
        """A connection or an answer that broke: worth another try."""
        name, cause = self.settings.name, _cause(error, httpx2.HTTPError)
        if isinstance(cause, httpx2.TimeoutException):
            return Failure(f"{name} was silent for too long", again=True, billed=True)
        if cause is not None:
            why = f"the connection to {name} broke: {self._clean(str(cause))}"
            return Failure(why, again=True, billed=attempt.started.is_set())
        if isinstance(error, openai.APIError):
            return Failure(f"{name} reports an error: {self._clean(str(error))}", again=True, billed=True)
        what = f"{name} sent what is no chat completion ({type(error).__name__})"
        return Failure(what, again=True, billed=True)

    def _status(self, error: openai.APIStatusError) -> Failure:
        status, said = error.status_code, self._clean(_sentence(error))
        if status == 400 and "max_completion_tokens" in said and self._limit_name == "max_tokens":
            self._limit_name = "max_completion_tokens"  # what newer models of OpenAI call it
            return Failure("it calls max_tokens max_completion_tokens", again=True, billed=False, after_s=0.0)
        words = {401: "refuses the key", 403: "forbids it", 404: "knows no such model or address"}
        what = words.get(status, f"answered {status}")
        return Failure(
            f"{self.settings.name} {what}" + (f": {said}" if said else ""),
            again=status in RETRIED_STATUS,
            billed=False,
            after_s=_retry_after(error.response.headers),
            refused_form=status in REFUSED_FORM or (status == 500 and bool(_FORM_WORDS.search(said))),
        )

    def _clean(self, text: str) -> str:
        """One short printable line without the key, which some servers quote in part."""
        line = _PRINTABLE.sub(" ", text)
        for secret in (self._key, self._key[:12], self._key[-8:]):
            line = line.replace(secret, "[key]") if len(secret) >= 6 else line
        return line.strip()[:200]


class _Gathered:
    """The pieces of one streamed reply."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._text = ""
        self._functions: dict[int, list[str]] = {}
        self._finish: str | None = None
        self._tokens = (0, 0)

    def add(self, chunk: Any) -> None:
        """Take one piece. Raises Failure when there are too many."""
        if usage := getattr(chunk, "usage", None):
            self._tokens = (_count(usage.prompt_tokens), _count(usage.completion_tokens))
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        self._finish = choice.finish_reason or self._finish
        for part in choice.delta.tool_calls or ():
            named = self._functions.setdefault(part.index or 0, ["", ""])
            named[0] += part.function.name or ""
            named[1] += part.function.arguments or ""
        self._text += choice.delta.content or ""
        if len(self._text) + sum(len(named[1]) for named in self._functions.values()) > self._max_chars:
            raise Failure("the reply has no end", again=False, billed=True)

    def reply(self, chat: Chat) -> Reply:
        """The whole; raises Failure for one that broke off."""
        if self._finish is None:
            raise Failure("the answer broke off", again=True, billed=True)
        text = self._text
        if self._functions:
            named = [(name, arguments) for name, arguments in self._functions.values()]
            text = chats.as_reply(named, chat.specs)
        return Reply(text, *self._tokens, out_of_tokens=self._finish == "length")


def quiet_libraries() -> None:
    """The client's own log lines would tell addresses and, at debug level, headers."""
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _say_little(request: httpx2.Request) -> None:
    for name in [name for name in request.headers if name.lower().startswith("x-stainless")]:
        del request.headers[name]


def _cause(error: BaseException | None, kind: type[_Error]) -> _Error | None:
    """The first of this kind in an error's chain."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _sentence(error: openai.APIStatusError) -> str:
    body = error.body
    found = body.get("message") if isinstance(body, dict) else body
    return found if isinstance(found, str) else ""


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds (RFC 9110, 10.2.3), or None; a date counts from now."""
    value = headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdigit():
        return min(float(value), 86_400.0)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0
