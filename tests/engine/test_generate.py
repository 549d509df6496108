"""Decoding on real weights: what ends it, what streams out of it, what the kept caches save."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.engine.cache import KVCache, common_prefix
from llmos.engine.engine import Engine, default_threads
from llmos.engine.generate import Generation, Output
from llmos.engine.sampling import Sampling, choose
from llmos.errors import ModelError, UsageError

weights = pytest.mark.weights
QUESTION = "List the first five letters of the alphabet, then count from one to ten in words."


def _chat(engine: Engine, text: str = QUESTION) -> list[int]:
    chat = engine.tokenizer.render_chat([{"role": "user", "content": text}])
    return engine.tokenizer.encode(chat, special=True)


# --- greedy, against the reference ------------------------------------------------------------


@weights
def test_greedy_is_the_reference_s_greedy(tiny_fp32: Engine, tiny_model: Path, reference: Any) -> None:
    prompt = _chat(tiny_fp32)
    ours = tiny_fp32.generate(prompt, max_tokens=32)
    theirs = (
        reference(tiny_model, torch.float32)
        .generate(
            torch.tensor([prompt]),
            max_new_tokens=32,
            do_sample=False,
            eos_token_id=sorted(tiny_fp32.tokenizer.eos_ids),
        )[0, len(prompt) :]
        .tolist()
    )
    ends = [index for index, token in enumerate(theirs) if token in tiny_fp32.tokenizer.eos_ids]
    assert list(ours.tokens) == theirs[: ends[0] if ends else 32]
    assert len(ours.logprobs) == ours.generated_tokens
    assert all(value <= 0 for value in ours.logprobs)


# --- what ends it -----------------------------------------------------------------------------


@weights
def test_ends_at_the_model_s_own_mark(tiny_fp32: Engine) -> None:
    done = tiny_fp32.generate(_chat(tiny_fp32, "Say only the word yes."), max_tokens=400)
    assert done.stop_reason == "stop"
    assert not tiny_fp32.tokenizer.eos_ids & set(done.tokens)


@weights
def test_ends_at_max_tokens(tiny_fp32: Engine) -> None:
    done = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=5)
    assert (done.stop_reason, done.generated_tokens) == ("length", 5)
    assert tiny_fp32.generate(_chat(tiny_fp32), max_tokens=0).tokens == ()


@weights
def test_stop_string_is_cut_off_and_never_streamed(tiny_fp32: Engine) -> None:
    whole = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=40).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    pieces: list[str] = []
    done = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=40, stop=("\0never", stop), on_text=pieces.append)
    assert done.stop_reason == "stop"
    assert done.text == "".join(pieces) == whole[: whole.index(stop)]


@weights
def test_streamed_text_is_the_text(tiny_fp32: Engine) -> None:
    pieces: list[str] = []
    done = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=30, on_text=pieces.append)
    assert len(pieces) > 5
    assert "".join(pieces) == done.text == tiny_fp32.tokenizer.decode(done.tokens)


@weights
def test_cancel_takes_effect_before_the_next_token(tiny_fp32: Engine) -> None:
    cancel = threading.Event()
    pieces: list[str] = []

    def after_three(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            cancel.set()

    done = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=100, cancel=cancel, on_text=after_three)
    assert done.stop_reason == "cancelled"
    assert len(pieces) == 3
    assert "".join(pieces) == done.text


@weights
def test_cancel_while_the_prompt_is_read(tiny_fp32: Engine, prose: str) -> None:
    """Within a chunk of the prompt, and the cache that was filled so far is still right."""
    prompt = tiny_fp32.tokenizer.encode(prose * 2)[:1500]
    cancel = threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    done = tiny_fp32.generate(prompt, max_tokens=5, cancel=cancel)
    timer.join()
    assert (done.stop_reason, done.tokens) == ("cancelled", ())
    again = tiny_fp32.generate(prompt[:300], max_tokens=5)
    fresh = Engine("fresh", tiny_fp32.model, tiny_fp32.tokenizer, 2048).generate(prompt[:300], max_tokens=5)
    assert again.tokens == fresh.tokens


@weights
def test_an_event_already_set_reads_nothing(tiny_fp32: Engine) -> None:
    cancel = threading.Event()
    cancel.set()
    started = time.perf_counter()
    done = tiny_fp32.generate([1] * 2000, max_tokens=5, cancel=cancel)
    assert done.stop_reason == "cancelled"
    assert time.perf_counter() - started < 0.5


@weights
@pytest.mark.parametrize(("prompt", "room"), [(2040, 9), (2049, 0), (1, 2048)])
def test_context_overflow_names_both_numbers(tiny_fp32: Engine, prompt: int, room: int) -> None:
    with pytest.raises(UsageError, match=str(prompt)) as caught:
        tiny_fp32.generate([1] * prompt, max_tokens=room)
    assert "2048" in str(caught.value)
    assert "context_tokens" in caught.value.next_step


@weights
def test_an_empty_prompt_is_an_error(tiny_fp32: Engine) -> None:
    with pytest.raises(UsageError, match="empty"):
        tiny_fp32.generate([], max_tokens=1)


# --- what the kept caches save, and that they change nothing ------------------------------------


def _same(left: Generation, right: Generation) -> bool:
    close = torch.allclose(torch.tensor(left.logprobs), torch.tensor(right.logprobs), atol=1e-3)
    return left.tokens == right.tokens and left.stop_reason == right.stop_reason and close


@weights
def test_a_common_prefix_is_read_once(tiny_fp32: Engine) -> None:
    engine = Engine("fresh", tiny_fp32.model, tiny_fp32.tokenizer, 2048)
    first = engine.generate(_chat(engine), max_tokens=12)
    again = engine.generate(_chat(engine), max_tokens=12)
    assert first.cached_tokens == 0
    assert again.cached_tokens == again.prompt_tokens - 1
    assert _same(first, again)
    longer = [*_chat(engine), *first.tokens, *engine.tokenizer.encode(" And then?")]
    onward = engine.generate(longer, max_tokens=12)
    assert onward.cached_tokens >= len(_chat(engine)) + len(first.tokens) - 1
    assert _same(onward, Engine("x", engine.model, engine.tokenizer, 2048).generate(longer, max_tokens=12))


@weights
def test_prompts_of_several_kinds_keep_their_caches(tiny_fp32: Engine) -> None:
    engine = Engine("fresh", tiny_fp32.model, tiny_fp32.tokenizer, 2048)
    kinds = [engine.tokenizer.encode(f"{word} " * 60) for word in ("plan", "translate", "explain")]
    for prompt in kinds:
        assert engine.generate([*prompt, 5], max_tokens=2).cached_tokens < 10
    for prompt in kinds:
        assert engine.generate([*prompt, 6], max_tokens=2).cached_tokens >= len(prompt) - 1


@weights
@settings(max_examples=6, deadline=None)
@given(turns=st.lists(st.lists(st.integers(5, 40), min_size=1, max_size=20), min_size=2, max_size=3))
def test_whatever_came_before_changes_nothing(tiny_fp32: Engine, turns: list[list[int]]) -> None:
    engine = Engine("used", tiny_fp32.model, tiny_fp32.tokenizer, 2048)
    for prompt in turns:
        used = engine.generate(prompt, max_tokens=3)
        fresh = Engine("fresh", engine.model, engine.tokenizer, 2048).generate(prompt, max_tokens=3)
        assert _same(used, fresh)


# --- constraints ------------------------------------------------------------------------------


class Phrase:
    """A constraint that forces `head`, leaves a choice between `options`, and forces `tail`."""

    def __init__(self, vocab_size: int, head: list[int], options: list[int], tail: list[int]) -> None:
        self.vocab_size, self.options = vocab_size, options
        self.plan: list[list[int]] = [*([t] for t in head), options, *([t] for t in tail)]
        self.seen: list[int] = []

    def forced(self) -> list[int]:
        ids = []
        for allowed in self.plan[len(self.seen) :]:
            if len(allowed) > 1:
                break
            ids += allowed
        return ids

    def mask(self) -> torch.Tensor:
        mask = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask[self.plan[len(self.seen)]] = True
        return mask

    def accept(self, ids: Sequence[int]) -> None:
        for token in ids:
            assert token in self.plan[len(self.seen)]
            self.seen.append(token)

    @property
    def finished(self) -> bool:
        return len(self.seen) == len(self.plan)


@weights
def test_forced_tokens_are_not_decoded(tiny_fp32: Engine) -> None:
    encode = tiny_fp32.tokenizer.encode
    head, tail, options = (
        encode("The sky is"),
        encode(", said nobody"),
        [encode(" blue")[0], encode(" black")[0]],
    )
    phrase = Phrase(tiny_fp32.tokenizer.vocab_size, head, options, tail)
    pieces: list[str] = []
    done = tiny_fp32.generate(
        _chat(tiny_fp32, "What colour is the sky?"), max_tokens=50, constraint=phrase, on_text=pieces.append
    )
    assert done.stop_reason == "grammar"
    assert done.text == "".join(pieces) == "The sky is blue, said nobody"
    assert list(done.tokens) == phrase.seen
    assert done.forced_tokens == len(head) + len(tail)
    assert len(done.logprobs) == 1, "one token was chosen"
    assert done.logprobs[0] < 0, "between two, so not for certain"


@weights
def test_forced_tokens_stop_at_max_tokens(tiny_fp32: Engine) -> None:
    phrase = Phrase(tiny_fp32.tokenizer.vocab_size, [5, 6, 7, 8], [9, 10], [])
    done = tiny_fp32.generate(_chat(tiny_fp32), max_tokens=3, constraint=phrase)
    assert (done.stop_reason, done.tokens) == ("length", (5, 6, 7))


# --- sampling ---------------------------------------------------------------------------------


@weights
def test_a_seed_makes_a_run_repeatable(tiny_fp32: Engine) -> None:
    runs = [
        tiny_fp32.generate(_chat(tiny_fp32), max_tokens=15, sampling=Sampling(temperature=1.2, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert runs[0].tokens == runs[1].tokens != runs[2].tokens


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])


def _drawn(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(42)
    tokens = [choose(LOGITS, sampling, generator)[0] for _ in range(count)]
    return torch.bincount(torch.tensor(tokens), minlength=5) / count


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1), 4),
        (Sampling(temperature=0.5), 4),
        (Sampling(temperature=1, top_k=2), 2),
        (Sampling(temperature=1, top_k=99), 4),
        (Sampling(temperature=1, top_p=0.7), 2),
        (Sampling(temperature=1, top_p=0.0), 1),
        (Sampling(temperature=1, min_p=0.3), 2),
        (Sampling(temperature=1, top_k=3, top_p=0.9, min_p=0.3), 2),
    ],
)
def test_draws_follow_the_cut_distribution(sampling: Sampling, kept: int) -> None:
    expected = (LOGITS[:kept] / sampling.temperature).softmax(0)
    drawn = _drawn(sampling)
    assert torch.allclose(drawn[:kept], expected, atol=0.03)
    assert drawn[kept:].sum() == 0


def test_greedy_takes_the_best_and_says_how_likely() -> None:
    token, logprob = choose(LOGITS, Sampling(), None)
    assert token == 0
    assert logprob == pytest.approx(float(LOGITS.log_softmax(0)[0]))


# --- parts ------------------------------------------------------------------------------------


class Letters:
    """A stream of one character a token, as `TextStream` would give it."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def finish(self) -> str:
        return ""


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab\n", max_size=30),
    stop=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
)
def test_output_streams_exactly_what_stands_before_the_first_stop(text: str, stop: list[str]) -> None:
    sent: list[str] = []
    output = Output(Letters(), tuple(stop), sent.append)  # type: ignore[arg-type]
    for letter in text:
        if not output.stopped:
            output.push(ord(letter))
    # The mark that is completed first ends it; of those completed together the one that began first.
    ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
    seen = text[: min(ends)] if ends else text
    expected = seen[: min((seen.index(mark) for mark in stop if mark in seen), default=len(seen))]
    assert output.finish() == "".join(sent) == expected


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    count = common_prefix(left, right)
    assert left[:count] == right[:count]
    assert count in (len(left), len(right)) or left[count] != right[count]


def test_cache_grows_and_keeps_what_it_holds() -> None:
    cache = KVCache(layers=2, batch=1, kv_heads=1, head_dim=4, max_tokens=1500, dtype=torch.float32)
    written = torch.arange(1500.0).view(1, 1, 1500, 1).expand(1, 1, 1500, 4)
    for start, count in ((0, 500), (500, 1), (501, 999)):
        cache.reserve(count)
        part = written[:, :, start : start + count]
        for layer in range(2):
            keys, values = cache.append(layer, part + layer, -part - layer)
        cache.advance(count)
        assert torch.equal(keys, written[:, :, : start + count] + 1)
        assert torch.equal(values, -keys)
    assert cache.length == cache.capacity == 1500


def test_threads_are_within_what_we_may_use() -> None:
    import os

    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


@weights
def test_loading_reports_progress_and_shares_the_tied_head(tiny_model: Path) -> None:
    seen: list[float] = []
    engine = Engine.load(tiny_model, dtype="float32", context_tokens=64, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert engine.model.head.weight is engine.model.embedding.weight
    assert engine.name == tiny_model.stem


def test_no_such_model() -> None:
    with pytest.raises(ModelError) as caught:
        Engine.load("/nowhere/model.gguf")
    assert "llmos model" in caught.value.next_step
