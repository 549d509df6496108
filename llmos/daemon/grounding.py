"""Answers in words that stand on something: manual pages, a program's own --help, piped text.

"How do I …?" is answered with the command that the model would write, where it is sure of it and the manual
knows the program: each part is quoted with its source, so that a wrong one is seen. What else is asked about
commands is looked up, and so is that where the model is unsure: words found in pages alone name `sftp -a` for
hidden files. Where nothing is found the model may answer, and what it says is marked as its own. What is
quoted is others' text: it is shown, and nothing in it is carried out.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import shlex
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from llmos.daemon import pieces, request
from llmos.daemon.hands import Hands
from llmos.daemon.pieces import Progress, Read
from llmos.daemon.request import Job
from llmos.errors import Cancelled, LlmosError
from llmos.messages import Decision, Outcome, Thought, ToolCall
from llmos.planner.route import SHOWN_DATA_CHARS

if TYPE_CHECKING:
    from llmos.explain.answers import HelpOf

log = logging.getLogger(__name__)

HELP_TIMEOUT_S = 15.0
SURE = 0.7  # of a command that answers a question; nothing runs by it
NOT_IN_THE_MANUAL = "(Not found in the manual pages of this machine: these are the model's own words.)"
NOT_IN_THE_DATA = "(No line of what was piped in says so: these are the model's own words.)"
FROM_THE_DATA = "From what was piped in:"
A_BACKEND_READS_ALL = "(A backend reads all of a text that is to be worked on: --cloud.)"


# Before anything is imported for it: most requests are no questions.
_MAYBE = re.compile(r"(?i)\b(?:how|what|which|explain|describe|man|manual|command)\b|怎|如何|什么|有什么用")


class Grounding:
    """One request's."""

    def __init__(
        self,
        job: Job,
        hands: Hands,
        cancel: asyncio.Event,
        *,
        translate: Callable[[], Awaitable[Thought]],
        read: Read,
        progress: Progress,
    ) -> None:
        """`translate` asks the model for the request as a command line, `read` for words about a text."""
        self._job, self._hands, self._cancel, self._translate = job, hands, cancel, translate
        self._read, self._progress = read, progress
        self._looked_in_vain = False

    @functools.cached_property
    def of_data(self) -> bool:
        """Whether it asks what the piped data says."""
        if self._job.data is None:
            return False
        from llmos.explain import quoting

        return quoting.asks(self._job.text)

    def _may_be_one(self) -> bool:
        job = self._job
        if job.calls or job.data is not None or job.route == "cloud" or job.backend:
            return False  # a person who names who is to think wants to hear them
        if not _MAYBE.search(job.text):
            return False
        from llmos.explain import questions

        return questions.read(job.text) is not None

    async def look_up(self) -> str | None:
        """What the manual says, with sources; None where it is no such question, or nothing is found."""
        if not self._may_be_one():
            return None
        from llmos.explain import questions

        job = self._job
        entries = await asyncio.to_thread(request.entries, job.cwd, job.caller)
        if (asked := questions.read(job.text, entries)) is None:
            return None
        from llmos.explain import answers  # sqlite and three ways to unpack, for questions alone

        help_of = functools.partial(self._wait_for_help, asyncio.get_running_loop())
        if asked.words and (how := await self._how(asked.program, help_of)) is not None:
            return how
        try:
            quotes = await asyncio.to_thread(answers.answer, job.text, help_of, entries=entries)
        except LlmosError as error:  # a command line that cannot be taken apart is the model's to read
            log.info("not looked up: %s", error)
            return None
        self._looked_in_vain = quotes == ()
        return answers.told(quotes) if quotes else None

    async def _how(self, program: str, help_of: HelpOf) -> str | None:
        """The model's command and what each of its parts does; None where it is unsure or not documented."""
        from llmos.explain import answers

        try:
            thought = await self._translate()
            command = thought.command or ""
            if not command or thought.confidence < SURE or program not in command:
                return None
            quotes = await asyncio.to_thread(answers.taken_apart, command, help_of)
        except Cancelled:
            raise
        except LlmosError as error:
            log.info("no command for it: %s", error)
            return None
        return f"{command}\n{answers.told(quotes)}" if quotes else None

    @property
    def replaces(self) -> bool:
        """Whether the model's own words may give way to what the data says."""
        return self.of_data or (self._job.data is not None and pieces.asks_for_summary(self._job.text))

    async def reply(self, said: str, *, local: bool) -> str:
        """The answer in words, or what stands where it should have looked; `local`: a model here gave it."""
        if self._looked_in_vain:
            return f"{said}\n{NOT_IN_THE_MANUAL}"
        data = self._job.data
        if data is None:
            return said
        text = data.decode("utf-8", "replace")
        if self.of_data:
            from llmos.explain import quoting

            found = await asyncio.to_thread(quoting.lines, self._job.text, text)
            if found.lines:
                return f"{FROM_THE_DATA}\n{quoting.told(found)}"
        head = request.data_head(data) or ""
        shown = len(head[:SHOWN_DATA_CHARS])
        if local and shown + 1 < len(text):
            return await self._in_pieces(said, text, shown)
        if not local and not pieces.are_read_whole(self._job.text) and len(head) + 1 < len(text):
            return f"{said}\n{_part_was_read(len(head), text)}"
        return f"{said}\n{NOT_IN_THE_DATA}" if self.of_data else said

    async def _in_pieces(self, said: str, text: str, shown: int) -> str:
        """Instead of words about how a long text begins. Raises TooLong."""
        reading = pieces.Pieces(self._job.thought_id, text, self._read, self._progress)
        if self.of_data:
            return await reading.answer(self._job.text)
        if pieces.asks_for_summary(self._job.text):
            return await reading.summary()
        return f"{said}\n{_part_was_read(shown, text)} {A_BACKEND_READS_ALL}"

    # --- --help, in the sandbox ---

    def _wait_for_help(self, loop: asyncio.AbstractEventLoop, words: tuple[str, ...]) -> str:
        """Called in a thread of its own."""
        running = asyncio.run_coroutine_threadsafe(self._help(words), loop)
        try:
            return running.result(HELP_TIMEOUT_S)
        except (TimeoutError, CancelledError, LlmosError):
            running.cancel()
            return ""

    async def _help(self, words: tuple[str, ...]) -> str:
        """What `--help` says, where the policy lets that run unasked; else nothing."""
        flag = "-h" if words[0] == "git" and len(words) > 1 else "--help"
        call = ToolCall(tool="shell.run", args={"command": shlex.join((*words, flag))})
        judged = await asyncio.to_thread(self._hands.judge, call, self._job)
        if judged.verdict.decision is not Decision.ALLOW:
            return ""
        ran = await self._hands.run(
            judged, self._job, approved=False, on_output=lambda stream, text: None, cancel=self._cancel
        )
        return _text(ran.outcome)


def _part_was_read(read: int, text: str) -> str:
    return f"(The model read only the first {read:,} of {len(text):,} characters.)"


def _text(outcome: Outcome) -> str:
    return outcome.stdout or outcome.stderr if outcome.exit_code not in (None, 126, 127) else ""
