"""A session whose request has several steps: they are on disk, and it can go on where a daemon was killed.

    begin -> (a call begins -> what came of it) ... -> close, or put by for the next daemon

What was cut off in a call is never run again by itself: the person is asked whether to go on, the model is
told that nobody knows, and the same call once more needs a word at the terminal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmos.daemon import steplog, stepping
from llmos.daemon.accepted import steps_file
from llmos.daemon.carrying import LEAVING, Carrying, Ended, Question
from llmos.daemon.hands import Hands, Judged
from llmos.daemon.leaving import Word
from llmos.daemon.request import Job
from llmos.daemon.steplog import StepLog, Story
from llmos.errors import NeedsApproval
from llmos.messages import Event, JsonObject, Thought, ToolCall


class Stepwise(Carrying):
    def __init__(self, job: Job, hands: Hands, emit: Callable[[Event], None]) -> None:
        super().__init__(job, hands, emit)
        self._route = "local"
        self._thought: Thought | None = None
        self._heard = False  # a model has read what came of earlier calls
        self._steps: StepLog | None = None  # of a request in several
        self._thoughts = 1  # that the model has had
        self._may_go_on = False  # later, although it ends here

    async def take_up(self, story: Story) -> None:
        """`run` goes on from these steps. Raises UsageError where somebody else does already."""
        self._steps = await asyncio.to_thread(steplog.take_up, story, steps_file(self.job))
        self._thoughts = max((step.thought for step in story.steps), default=1)
        self._thought = Thought(id=self.job.id, route=story.route, more=True)
        self._route, self._heard = story.route, True

    @property
    def _taken_up(self) -> bool:
        return self._steps is not None and self._steps.story.id != self.job.id

    async def _begin_steps(self) -> None:
        if self._thought is not None and self._thought.more and not self.job.plan_only:
            file = steps_file(self.job)
            if self._steps is not None:  # of a reading that failed and left nothing
                await asyncio.to_thread(self._steps.close)
            self._steps = await asyncio.to_thread(StepLog.begin, self.job, file, self._thought.route)

    async def _close_steps(self) -> None:
        """What a stopping daemon cuts off may go on under the next one; all else has come to its end."""
        if self._steps is not None:
            put_by = self.stopped or self._may_go_on
            await asyncio.to_thread(self._steps.put_by if put_by else self._steps.close)

    async def _before_going_on(self, story: Story) -> None:
        """Tell what is behind, and ask about what nobody knows. Raises NeedsApproval, Ended."""
        self._send("notice", text=stepping.told(story.steps))
        unknown = stepping.cut_off(story.steps)
        if not unknown or self.job.consent == "yes":
            return
        self._may_go_on = True
        if self.job.consent == "none":
            named = "; ".join(step.command for step in unknown)
            raise NeedsApproval(f"{named}: {stepping.NOT_KNOWN}", "Go on at a terminal, or with --yes.")
        if await self._ask_whole(stepping.question(story.id, unknown)) == "no":
            raise Ended("needs_approval", "You said no, so it does not go on.")
        self._may_go_on = False

    async def _ask_whole(self, data: JsonObject) -> Word:
        """Put to the person what is about no one call: what would leave the machine, whether to go on."""
        self._question = Question(LEAVING, asyncio.get_running_loop().create_future())
        self._send("approval", index=LEAVING, **data)
        timeout_s = self._hands.gate.settings.server.approval_timeout_s
        try:
            with self._clock.asked():
                async with asyncio.timeout(timeout_s):
                    decision, _ = await self._unless_cancelled(self._question.answered)
        except TimeoutError as error:
            raise NeedsApproval(f"nobody answered within {timeout_s:g} seconds", "Ask again.") from error
        finally:
            self._question = None
        assert decision != "edit" and decision != "never"  # noqa: PLR1714 - mypy narrows by this
        return decision

    async def _judge(self, call: ToolCall, *, follows: bool = False) -> Judged:
        judged = await super()._judge(call, follows=follows)
        if not self._heard or self._steps is None:
            return judged
        there = self.job.consent == "interactive"
        return stepping.wary_of_repeats(stepping.wary(judged), self._steps.story.steps, somebody_there=there)

    async def _perform_or_tell(self, index: int) -> None:
        """In a request of several steps, on disk before and after."""
        if self._steps is None:
            await super()._perform_or_tell(index)
            return
        item = self._items[index]
        await asyncio.to_thread(self._steps.began, item.judged.plan, self._thoughts)
        await super()._perform_or_tell(index)
        if item.outcome is not None and not (item.outcome.cancelled or item.outcome.timed_out):
            await asyncio.to_thread(self._steps.ended, stepping.trimmed(item.outcome))
