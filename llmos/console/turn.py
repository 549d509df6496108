"""One request as the person sees it: status line, judged calls, streamed output, questions.

The listener of `client.Client.request`, shared by the one-shot commands and the shell. With `quiet`
(--json) nothing but questions and notices is shown.
"""

from __future__ import annotations

import sys
from typing import Any

from llmos.console import render, screen, words
from llmos.console.consent import SHELL_TOOL, Asker
from llmos.console.interrupts import Interrupts
from llmos.console.words import tr
from llmos.errors import LlmosError

JsonObject = dict[str, Any]


LABELS = {
    "queued": "waiting for the model",
    "thinking": "thinking",
    "rehearsing": "trying it on a copy",
    "running": "running",
    "text": "thinking",
}


class Turn:
    """Follows one request. `streamed` holds the indexes of calls whose output is already printed."""

    def __init__(self, asker: Asker | None, *, quiet: bool = False) -> None:
        self._asker = asker
        self._quiet = quiet
        self._out, self._err = screen.look_of(sys.stdout), screen.look_of(sys.stderr)
        self._status = screen.StatusLine()
        self._status.show(tr("waiting for the daemon"))
        self._tools: dict[int, str] = {}
        self._question: JsonObject = {}
        self._at_line_start = True
        self._said = ""
        self.streamed: set[int] = set()

    def event(self, event: JsonObject, interrupts: Interrupts) -> JsonObject | None:
        """Show one event; the answer to an approval is returned for the client to send."""
        data = event.get("data") or {}
        kind = event.get("kind")
        if kind == "approval":
            return self._ask(data, interrupts)
        if kind == "output":
            self._output(data)
        elif kind == "text":
            self._text(str(data.get("text") or ""))
        elif kind == "call":
            self._call(data)
        elif kind == "notice":
            self._say(render.notice(str(data.get("text") or ""), self._err))
        elif kind == "finished":
            self._status.stop()
        else:
            self._status.show(_label(str(kind), data))
        return None

    def refused(self, error: LlmosError, interrupts: Interrupts) -> JsonObject | None:
        """The broker did not take the last answer (an edit that is no valid call, say): ask again."""
        self._say(render.error(str(error), error.next_step, self._err))
        return self._ask(self._question, interrupts) if self._question else None

    def tick(self) -> None:
        if self._at_line_start:
            self._status.tick()

    def notice(self, text: str) -> None:
        self._say(self._err.style("yellow", words.told(text)) + "\n")
        self._status.show(tr("cancelling"))

    def show(self, result: JsonObject) -> None:
        """The finished result, except what was streamed."""
        self._end_line()
        streamed = frozenset(self.streamed)
        shown = render.result(result, self._out, self._err, streamed=streamed, said=self._said)
        screen.write(sys.stdout, shown.out)
        screen.write(sys.stderr, shown.err)

    def stop(self) -> None:
        self._status.stop()

    def _ask(self, data: JsonObject, interrupts: Interrupts) -> JsonObject | None:
        self._question = data
        self._end_line()
        self._status.stop()
        if self._asker is None:
            return {"decision": "no"}
        answer = self._asker.ask(data, interrupts)
        self._status.show(tr("running"))
        return answer

    def _call(self, data: JsonObject) -> None:
        index = int(data.get("index") or 0)
        self._tools[index] = str(data.get("tool") or (data.get("call") or {}).get("tool") or "")
        # A call that is asked about or denied is shown by the question or the result.
        if not self._quiet and self._err.terminal and data.get("verdict") == "allow":
            self._say(render.call_line(data, self._err) + "\n")

    def _output(self, data: JsonObject) -> None:
        """Only a shell command's raw output is streamed; other tools' output is read first, then shown."""
        index, text = int(data.get("index") or 0), str(data.get("text") or "")
        if self._quiet or self._tools.get(index) != SHELL_TOOL or not self._out.terminal:
            return
        self.streamed.add(index)
        self._stream(text, to_stderr=data.get("stream") == "stderr")

    def _text(self, text: str) -> None:
        """The answer, as the model writes it."""
        self._status.show(tr("thinking"))
        if not self._quiet and self._out.terminal and text:
            self._said += text
            self._stream(text)

    def _stream(self, text: str, *, to_stderr: bool = False) -> None:
        self._status.clear()
        look, stream = (self._err, sys.stderr) if to_stderr else (self._out, sys.stdout)
        screen.write(stream, look.text(text))
        self._at_line_start = text.endswith("\n")

    def _end_line(self) -> None:
        self._status.clear()
        if not self._at_line_start:
            screen.write(sys.stdout, "\n")
            self._at_line_start = True

    def _say(self, text: str) -> None:
        self._end_line()
        screen.write(sys.stderr, text)


def _label(kind: str, data: JsonObject) -> str:
    """What the status line says: the daemon's own words where it gives some."""
    detail = str(data.get("detail") or data.get("tool") or "")
    base = tr(LABELS.get(kind, kind))
    return f"{base}: {detail}" if detail else base
