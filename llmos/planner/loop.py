"""One turn: a request becomes a prompt, the model's constrained reply, and a typed Thought.

    Think -> chat -> tokens -> Engine.generate under the grammar -> parse_calls -> Thought

A reply that ran out of tokens is never used: the head of `rm -r build/tmp` is `rm -r build`. Input that
does not fit is refused with its numbers, never shortened in silence. Nothing is carried out here.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmos.engine.adapter import Adapter
from llmos.engine.cache import common_prefix
from llmos.engine.engine import Engine
from llmos.engine.generate import Generation
from llmos.engine.grammar import ALONE, CallConstraint, LineConstraint, parse_calls, render_call
from llmos.engine.otherwise import Otherwise, others
from llmos.engine.perplexity import likelihood
from llmos.errors import Cancelled, NotUnderstood, TooLong, UsageError
from llmos.messages import Think, Thought, Timing, ToolCall, ToolSpec
from llmos.planner import hints, prompt, steps
from llmos.planner.choosing import Chooser
from llmos.planner.copying import Copies
from llmos.planner.keys import as_named
from llmos.planner.piped import of_data
from llmos.planner.retrieval import Retriever, Shot
from llmos.planner.shown import LOOKS, as_shown

log = logging.getLogger(__name__)

NUM_SHOTS = 6
_ONCE = frozenset(
    {"file.delete", "file.mkdir", "file.move", "file.trash", "text.query", "text.replace", "text.set"}
)
NUM_COMMAND_SHOTS = 4
MAX_REPLY_TOKENS = 192
RECENT = (
    32  # requests whose next best replies may still be asked for: far more than are thought about at once
)
SHELL_TOOL = "shell.run"
LEAST_SURPRISE, INTERCEPT, SLOPE = 1e-3, 0.442, -1.519  # of `probability`; nats

OnText = Callable[[str], None]


@dataclass(slots=True)
class _Asked:
    """A request that was thought about, so that its next best replies cost no more than themselves."""

    think: Think
    ids: list[int]
    first: Generation
    others: list[Generation] | None = None


class Loop:
    """The planner's state between requests: the model, the tools in force, what follows from them.

    Several threads may `think` at a time; none while another one teaches.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        context_tokens: int,
        max_reply_tokens: int = MAX_REPLY_TOKENS,
    ) -> None:
        self._engine = engine
        self._context_tokens = context_tokens
        self._max_reply_tokens = max_reply_tokens
        self._line = LineConstraint(engine.tokenizer)
        self._prompts_as_trained()
        self.teach(())

    def adapt(self, adapter: Adapter | None) -> None:
        """Go on with another adapter, or none, beside the same weights. Raises ModelError."""
        self._engine.adapt(adapter)
        self._prompts_as_trained()
        self.teach(self._specs)
        self.read_ahead()

    def _prompts_as_trained(self) -> None:
        asked = self._engine.asked
        self._form = prompt.PromptForm(asked.form) if asked else prompt.PromptForm.EXAMPLES
        self._num_shots = asked.shots if asked else NUM_SHOTS
        self._num_command_shots = asked.command_shots if asked else NUM_COMMAND_SHOTS
        self._heads = asked.heads if asked else True  # as it comes, a model reads whatever it is told

    def teach(self, tools: Sequence[ToolSpec]) -> None:
        """Put these tools in force. One that no grammar can enforce or write is left out, and logged."""
        self._specs = self._usable(tools)
        self._by_name = {spec.name: spec for spec in self._specs}
        self._retriever = Retriever(self._specs)
        self._commands = Retriever([spec for spec in self._specs if spec.name == SHELL_TOOL])
        self._chooser = Chooser(self._specs, self._retriever)
        self._calls = CallConstraint(self._engine.tokenizer, self._specs) if self._specs else None
        self._fixed = self._fixed_ids()
        self._recent: deque[_Asked] = deque(maxlen=RECENT)  # newest first

    def read_ahead(self) -> None:
        """Read how every prompt begins, unless an earlier process has kept it on disk."""
        if self._calls is not None and len(self._fixed) + 1 <= self._context_tokens:
            self._engine.read_ahead(self._fixed)

    def _fixed_ids(self) -> list[int]:
        """How every prompt begins; the last few may be cut otherwise where the text goes on."""
        tokenizer, system = self._engine.tokenizer, prompt.system_text(self._chooser.common, self._form)
        chat = tokenizer.render_chat([{"role": "system", "content": system}], add_generation_prompt=False)
        return tokenizer.encode(chat, special=True)

    def _usable(self, tools: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
        """Compiled all at once, which is a fifth of the work, and one by one only where that fails."""
        written = [spec for spec in tools if self._is_fit(spec, _render_examples)]
        try:
            if written:
                CallConstraint(self._engine.tokenizer, written)
            return tuple(written)
        except UsageError:
            return tuple(spec for spec in written if self._is_fit(spec, self._compile))

    def _compile(self, spec: ToolSpec) -> None:
        CallConstraint(self._engine.tokenizer, (spec,))

    def _is_fit(self, spec: ToolSpec, attempt: Callable[[ToolSpec], None]) -> bool:
        try:
            attempt(spec)
        except UsageError as error:  # ConfigError is one
            log.warning("tool left out: %s. %s", error, error.next_step)
            return False
        return True

    def think(self, think: Think, *, cancel: threading.Event, on_text: OnText) -> Thought:
        """One request's thought. Raises NotUnderstood, UsageError (too long), Cancelled, ModelError."""
        started = time.perf_counter()
        if think.mode == "weigh":
            return self._weigh(think, cancel, started)
        if think.mode == "tell":
            return self._tell(think, cancel, started)
        think = think if self._heads else think.model_copy(update={"heads": ()})
        translate = think.mode == "translate"
        if translate:
            generation = self._translate(think, cancel)
        elif think.attempt:
            generation = self._other(think, cancel)
        else:
            generation = self._asked(think, cancel, on_text).first
        return Thought(
            id=think.id,
            calls=() if translate else self._read(generation.text, think),
            command=generation.text if translate else None,
            confidence=(confidence if translate else probability)(generation.logprobs),
            timing=_timing(generation, total_ms=1000 * (time.perf_counter() - started)),
        )

    def _read(self, text: str, think: Think) -> tuple[ToolCall, ...]:
        """The calls of a reply, with what was copied wrongly put right, and tables shown that were to be."""
        tokenizer = self._engine.tokenizer
        read = "\n".join([think.text, *think.heads, *(step.outcome for step in think.taken)])
        copies = Copies(read, think.entries, lambda word: len(tokenizer.encode(f" {word}")))
        calls = copies.mended(_once(parse_calls(text, self._specs)), self._by_name)
        calls = as_named(of_data(calls, think), think.heads)
        return as_shown(calls, think.text) if LOOKS in self._by_name else calls

    def _asked(self, think: Think, cancel: threading.Event, on_text: OnText) -> _Asked:
        if self._calls is None:
            raise NotUnderstood("no tools are loaded", "Run: llmos doctor")
        step = _left_of(think)
        shots = self._retriever.nearest(step.text, self._num_shots)
        own = self._own(think)
        named = {call.tool for worked in think.examples for call in worked.calls} if own else set()
        listed = self._chooser.listed(step.text, also=named)
        chat = prompt.call_chat(listed, shots, step, self._form, own=own, done=self._done(think))
        ids = self._encode(chat, shots)
        calls = self._calls.copy()
        likely = hints.tokens(self._engine.tokenizer.encode, self._retriever, step.text, ids[-2:])
        generation = self._generate(ids, calls, cancel, AnswerText(on_text), likely)
        asked = _Asked(_same(think), ids, generation)
        self._recent.appendleft(asked)
        return asked

    def _other(self, think: Think, cancel: threading.Event) -> Generation:
        """The next best reply to a request; raises NotUnderstood where there is none left."""
        same = _same(think)
        asked = next((known for known in tuple(self._recent) if known.think == same), None)
        if asked is None:  # another process gave the first one, or too many came between
            asked = self._asked(think, cancel, lambda text: None)
        assert self._calls is not None
        if asked.others is None:
            asked.others = others(
                asked.first, self._calls.copy(), lambda other: self._generate(asked.ids, other, cancel, None)
            )
        if think.attempt > len(asked.others):
            raise NotUnderstood("there is no other reading of it", "Say it in other words.")
        return asked.others[think.attempt - 1]

    def _own(self, think: Think) -> list[tuple[str, str]]:
        """The person's own examples as turns, those that the tools in force can still write."""
        written = ((worked.say, self._written(worked.calls)) for worked in think.examples)
        return [(say, reply) for say, reply in written if reply]

    def _done(self, think: Think) -> list[tuple[str, str]]:
        """The steps that were taken as turns: what was said of each, and its call."""
        calls = [step.call for step in think.taken]
        written = zip(steps.named(think.text), (self._written([call]) for call in calls), strict=False)
        return [(say, reply) for say, reply in written if reply]

    def _written(self, calls: Sequence[ToolCall]) -> str:
        """Calls as a reply; empty where the tools in force cannot write them."""
        try:
            return "\n".join(render_call(self._by_name[call.tool], call.args) for call in calls)
        except (KeyError, UsageError):
            return ""

    def _translate(self, think: Think, cancel: threading.Event) -> Generation:
        limit = self._num_command_shots
        shots = self._commands.nearest(think.text, limit, per_tool=limit)
        ids = self._encode(prompt.translate_chat(shots, think), shots)
        return self._generate(ids, self._line.copy(), cancel, None)

    def _weigh(self, think: Think, cancel: threading.Event, started: float) -> Thought:
        """How likely the question is after each passage: what answers it makes one ask it (query likelihood,
        Ponte and Croft 1998). A small model ranks by that far better than it says whether a text tells.
        """
        encode, weights, read = self._engine.tokenizer.encode, [], 0
        asked = encode(f"Question: {prompt.plain(think.text)}")
        for passage in think.passages:
            if cancel.is_set():
                raise Cancelled("the request was cancelled")
            before = encode(f"{prompt.plain(passage)}\n")[: self._context_tokens - len(asked)]
            weights.append(likelihood(self._engine, before, asked))
            read += len(before) + len(asked)
        total_ms = 1000 * (time.perf_counter() - started)
        timing = Timing(prefill_ms=total_ms, total_ms=total_ms, prompt_tokens=read)
        return Thought(id=think.id, weights=tuple(weights), timing=timing)

    def _tell(self, think: Think, cancel: threading.Event, started: float) -> Thought:
        ids = self._encode(prompt.tell_chat(think), ())
        generation = self._generate(ids, self._line.copy(), cancel, None)
        return Thought(
            id=think.id,
            said=generation.text,
            confidence=confidence(generation.logprobs),
            timing=_timing(generation, total_ms=1000 * (time.perf_counter() - started)),
        )

    def _encode(self, chat: prompt.Chat, shots: Sequence[Shot]) -> list[int]:
        """The prompt's tokens; raises TooLong, with the numbers, when they do not fit."""
        tokenizer = self._engine.tokenizer
        ids = tokenizer.encode(tokenizer.render_chat(chat), special=True)
        room = self._context_tokens - self._max_reply_tokens
        if len(ids) <= room:
            return ids
        request = len(tokenizer.encode(chat[-1]["content"]))
        raise TooLong(
            f"the request has {request} tokens and {max(0, room - len(ids) + request)} fit",
            "Shorten it, name a file instead of pasting it, or raise model.context_tokens.",
        )

    def _generate(
        self,
        ids: list[int],
        constraint: CallConstraint | LineConstraint | Otherwise,
        cancel: threading.Event,
        on_text: OnText | None,
        likely: Sequence[Sequence[int]] = (),
    ) -> Generation:
        constraint.restart()
        generation = self._engine.generate(
            ids,
            max_tokens=self._max_reply_tokens,
            fixed_tokens=common_prefix(self._fixed, ids),
            hints=likely,
            constraint=constraint,
            cancel=cancel,
            on_text=on_text,
        )
        if generation.stop_reason == "cancelled":
            raise Cancelled("the request was cancelled")
        if generation.stop_reason == "length" or not constraint.complete:
            raise NotUnderstood(
                f"the model came to no end within {self._max_reply_tokens} tokens",
                "Ask for less in one request, or say it in other words.",
            )
        return generation


def _left_of(think: Think) -> Think:
    """The request without the steps that were taken; all of it where it names no others."""
    if not think.taken:
        return think
    left = steps.left(think.text, (step.call for step in think.taken)) or think.text
    return think.model_copy(update={"text": steps.resolved(left, think.taken[-1].outcome)})


def _same(think: Think) -> Think:
    """The request without what tells its attempts apart."""
    return think.model_copy(update={"id": "", "attempt": 0})


def _render_examples(spec: ToolSpec) -> None:
    for example in spec.examples:
        render_call(spec, example.args)


class AnswerText:
    """Passes on the text of `answer` and `ask` as it comes; calls are shown once they are judged."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._head: str | None = ""  # the tool's name while it is being written; None once passing on

    def __call__(self, text: str) -> None:
        if self._head is None:
            self._on_text(text)
            return
        self._head += text
        name, blank, rest = self._head.partition(" ")
        if blank and name in ALONE:
            self._head = None
            if rest:
                self._on_text(rest)


def confidence(logprobs: Sequence[float]) -> float:
    """Geometric mean probability, 0..1, of the tokens that were chosen; 1 when all were forced."""
    return min(1.0, math.exp(sum(logprobs) / len(logprobs))) if logprobs else 1.0


def probability(logprobs: Sequence[float]) -> float:
    """How probable it is that calls with these tokens are right, 0..1.

    A logistic fit (Platt 1999) on the log of the joint surprise, which tells right from wrong better than the
    mean does. `tests.bench.calibration` fits it: the default model and its adapter, on blind sentences.
    """
    surprise = LEAST_SURPRISE - min(0.0, sum(logprobs))
    return 1.0 / (1.0 + math.exp(-(INTERCEPT + SLOPE * math.log(surprise))))


def _once(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Without a call that is the one before it once more, where that can only fail or change nothing."""
    pairs = zip((None, *calls), calls, strict=False)
    return [call for before, call in pairs if call != before or call.tool not in _ONCE]


def _timing(generation: Generation, *, total_ms: float) -> Timing:
    return Timing(
        prefill_ms=generation.prefill_ms,
        decode_ms=generation.decode_ms,
        total_ms=total_ms,
        prompt_tokens=generation.prompt_tokens,
        cached_tokens=generation.cached_tokens,
        generated_tokens=generation.generated_tokens,
        forced_tokens=generation.forced_tokens,
    )
