"""What is kept on disk of a prompt's fixed beginning saves reading and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmos.engine.engine import Engine
from llmos.engine.generate import Generation
from llmos.engine.prefix import FEWEST, FILE, Prefix

pytestmark = pytest.mark.weights
FIXED = FEWEST + 8


class Started:
    """A process after another: engines that share a folder and the model, and nothing in memory."""

    def __init__(self, base: Engine, folder: Path, prose: str) -> None:
        self._base, self.folder = base, folder
        self.ids = base.tokenizer.encode(prose)[: FIXED + 8]

    def reply(self, ids: list[int] | None = None, *, fixed: int = FIXED, identity: str = "one") -> Generation:
        base, prefix = self._base, Prefix(self.folder, identity)
        engine = Engine("started", base.model, base.tokenizer, base.context_tokens, prefix)
        return engine.generate(ids or self.ids, max_tokens=2, fixed_tokens=fixed)


@pytest.fixture
def started(tiny_fp32: Engine, tmp_path: Path, prose: str) -> Started:
    return Started(tiny_fp32, tmp_path / "form", prose)


def test_the_next_process_reads_only_what_is_new(started: Started, tmp_path: Path) -> None:
    first, second = started.reply(), started.reply()
    assert (first.cached_tokens, second.cached_tokens) == (0, FIXED)
    assert second.tokens == first.tokens
    assert second.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["form"], "nothing half written is left"


def test_only_the_fixed_beginning_is_written(started: Started, tmp_path: Path) -> None:
    started.reply()
    held = load_file(tmp_path / "form" / FILE)
    assert held["ids"].tolist() == started.ids[:FIXED]
    assert held["kept"].shape[-2] == FIXED
    assert started.reply(started.ids[FIXED:], fixed=FEWEST - 1).cached_tokens == 0, "another beginning"
    assert load_file(tmp_path / "form" / FILE)["ids"].tolist() == started.ids[:FIXED]


def test_a_beginning_that_was_changed_is_used_as_far_as_it_goes(started: Started) -> None:
    first = started.reply()
    other = [*started.ids[: FIXED - 5], *reversed(started.ids[FIXED - 5 :])]
    assert started.reply(other).cached_tokens == FIXED - 5
    assert started.reply(other).cached_tokens == FIXED, "it has taken the place of the first"
    assert started.reply().tokens == first.tokens


@pytest.mark.parametrize("damage", [b"\xff" * 64, None])
def test_a_broken_file_is_passed_over(started: Started, tmp_path: Path, damage: bytes | None) -> None:
    whole = started.reply()
    file = tmp_path / "form" / FILE
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    again = started.reply()
    assert (again.cached_tokens, again.tokens) == (0, whole.tokens)
    assert started.reply().cached_tokens == FIXED, "it was written anew"


def test_what_other_kernels_computed_is_not_used(started: Started) -> None:
    started.reply()
    assert started.reply(identity="two").cached_tokens == 0


def test_where_nothing_can_be_written_a_reply_comes_all_the_same(tiny_fp32: Engine, prose: str) -> None:
    assert Started(tiny_fp32, Path("/dev/null/form"), prose).reply().tokens


def test_another_model_s_file_is_not_filled_in(started: Started, tiny_bf16: Engine) -> None:
    started.reply()
    prefix = Prefix(started.folder, "one")
    assert not prefix.fill(tiny_bf16.model.new_cache(1, 512), FIXED)
    assert prefix.ids == []
