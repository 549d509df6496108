"""A planner without a model: it answers from a script, over the same frames as the real worker.

For tests, demonstrations and the replay of fixed sentences. `python -m llmos.planner.scripted --script
FILE --fd N`; the script is JSON: {"SENTENCE": ACTION, …}, "*" for every other sentence that no example of the
person's own is near to. An action is an object with any of

    calls       [{"tool": …, "args": {…}}, …]      what is understood; none: not understood
    confidence  how sure it says it is (1.0)
    others      [ACTION, …], the next best readings of the sentence
    as          {"MODEL": ACTION}: what it means instead where `--model MODEL` was given
    after       {"COMMAND": ACTION}: what it means instead once that command was the last step taken
    command     the shell command of translate mode
    said        what tell mode says of a text: {"WORD": "…"} for one that has the word, "*" for others
    text        streamed before the answer, word by word
    delay_s     think for so long; a stop ends it, unless `deaf` is true
    die         "exit", "kill", or "once:FILE": be killed unless FILE exists, and create it first
    raw         send these bytes instead of a frame
    error       {"kind": …, "message": …, "next_step": …} instead of an answer

"adapter NAME" is not a sentence: how it dies when it is told to go on with that adapter.

It understands nothing and, unlike the real worker, does not confine itself: its script is trusted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llmos.errors import from_rpc
from llmos.messages import (
    Adapt,
    Delta,
    Failed,
    Message,
    Ready,
    Stop,
    Think,
    Thought,
    Timing,
    ToolCall,
    ToPlanner,
)
from llmos.wire import FrameSocket

Action = dict[str, Any]
_FRAME: TypeAdapter[Any] = TypeAdapter(ToPlanner)
_NO_OTHER: Action = {"error": {"kind": "NotUnderstood", "message": "there is no other reading of it"}}


class Scripted:
    """Reads frames in one thread and thinks in another, as the real worker does."""

    def __init__(self, frames: FrameSocket, script: dict[str, Action], model: str = "") -> None:
        self._frames = frames
        self._script = script
        self._model = model
        self._stops: dict[str, threading.Event] = {}

    def serve(self) -> None:
        self._send(Ready(model="scripted", load_ms=0.0))
        while (value := self._frames.receive()) is not None:
            frame = _FRAME.validate_python(value)
            if isinstance(frame, Think):
                stop = self._stops[frame.id] = threading.Event()
                threading.Thread(target=self._think, args=(frame, stop), daemon=True).start()
            elif isinstance(frame, Adapt):
                _die(str(self._script.get(f"adapter {frame.adapter}", {}).get("die", "")))
            elif isinstance(frame, Stop) and frame.id in self._stops:
                self._stops[frame.id].set()

    def _think(self, think: Think, stop: threading.Event) -> None:
        action = self._script.get(think.text) or _as_shown(think) or self._script.get("*") or {}
        if think.taken:
            action = action.get("after", {}).get(str(think.taken[-1].call.args.get("command")), action)
        action = action.get("as", {}).get(self._model, action)
        if think.attempt:
            others = action.get("others", [])
            action = others[think.attempt - 1] if think.attempt <= len(others) else _NO_OTHER
        for word in str(action.get("text", "")).split():
            self._send(Delta(id=think.id, text=word + " "))
        waiting = threading.Event() if action.get("deaf") else stop
        if waiting.wait(float(action.get("delay_s", 0.0))):
            self._fail(think, {"kind": "Cancelled", "message": "stopped"})
            return
        _die(str(action.get("die", "")))
        if "raw" in action:
            self._frames.sock.sendall(str(action["raw"]).encode())
        elif "error" in action:
            self._fail(think, action["error"])
        else:
            self._send(_thought(think, action))

    def _fail(self, think: Think, error: Action) -> None:
        rebuilt = from_rpc({"message": error["message"], "data": error})
        self._send(Failed(id=think.id, error=rebuilt.to_rpc()))

    def _send(self, message: Message) -> None:
        self._frames.send(message.model_dump(mode="json"))


def _as_shown(think: Think) -> Action:
    """What a person's own nearest example means, as a model would copy it."""
    calls = think.examples[0].calls if think.examples else ()
    return {"calls": [call.model_dump(mode="json") for call in calls]} if calls else {}


def _thought(think: Think, action: Action) -> Thought:
    calls = tuple(ToolCall.model_validate(call) for call in action.get("calls", ()))
    command = action.get("command") if think.mode == "translate" else None
    if think.mode == "weigh":  # by words in common
        asked = set(re.findall(r"\w+", think.text.lower()))
        weights = tuple(float(len(asked & set(re.findall(r"\w+", one.lower())))) for one in think.passages)
        return Thought(id=think.id, weights=weights)
    if think.mode == "tell":
        told = action.get("said", {})
        found = (word for word in told if word in (think.data_head or ""))
        return Thought(id=think.id, said=told.get(next(found, "*"), "nothing"))
    understood = bool(calls) or command is not None
    timing = Timing(prefill_ms=1.0, decode_ms=1.0, prompt_tokens=10, generated_tokens=5)
    return Thought(
        id=think.id,
        calls=calls,
        command=command,
        confidence=float(action.get("confidence", 1.0)),
        understood=understood,
        timing=timing,
    )


def _die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    once = Path(how.removeprefix("once:")) if how.startswith("once:") else None
    if how == "kill" or (once is not None and not once.exists()):
        if once is not None:
            once.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", default="", help="the larger one that this stands for")
    options = parser.parse_args()
    script = json.loads(options.script.read_text(encoding="utf-8"))
    Scripted(FrameSocket(socket.socket(fileno=options.fd)), script, options.model).serve()


if __name__ == "__main__":
    main()
