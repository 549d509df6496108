"""Packed weights compute what torch computes with the same rounded numbers, in every family's variant.

The reference is `model.Transformer` with the unpacked weights, its linear layers rounding their input as the
kernels do. The order of additions differs, and now and then that flips the rounding of an activation: hence
the bound on the median token is that of float32, and the mean one's is wider.

conftest.py has this file collected where the kernels can be built at all; what happens elsewhere is
test_packed.py's to show.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llmos.engine import adapter as adapters
from llmos.engine import native
from llmos.engine.adapter import CARD_FILE, WEIGHTS_FILE, Adapter
from llmos.engine.engine import Engine
from llmos.engine.groups import GROUP, Grouped, Kind, pack, rounded
from llmos.engine.model import ModelConfig, Transformer
from llmos.engine.packed import PackedTransformer, fits
from llmos.engine.sampling import Ahead, Sampling
from llmos.errors import ModelError
from tests.bench import calls, guesses

MEDIAN_BOUND, MEAN_BOUND = 1e-5, 5e-3

PLAIN = ModelConfig(
    architecture="llama",
    num_layers=3,
    hidden_size=128,
    intermediate_size=224,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=80,
    max_positions=512,
    rms_eps=1e-6,
    rope_theta=10000.0,
)
FAMILIES = {
    "llama": PLAIN,
    "qwen2": replace(PLAIN, architecture="qwen2", qkv_bias=True, tied=False),
    "qwen3": replace(PLAIN, architecture="qwen3", qk_norm=True),
    "gemma3": replace(
        PLAIN,
        architecture="gemma3",
        qk_norm=True,
        post_norms=True,
        gelu=True,
        embedding_scale=11.3,
        attention_scale=0.2,
        sliding_window=24,
        global_layers=(1,),
        local_rope_theta=1000.0,
    ),
}


def random_matrix(kind: Kind, rows: int, columns: int) -> Grouped:
    values = torch.randint(0, {Kind.BITS_7: 128, Kind.BITS_5: 32}.get(kind, 16), (rows, columns))
    by_group = (rows, columns // GROUP)
    scales = (torch.rand(by_group) * 2 + 0.2).half() / kind_width(kind)
    minima = (torch.rand(by_group)).half() if kind is Kind.BITS_4_MIN else None
    return Grouped(kind, values.to(torch.uint8), scales, minima)


def kind_width(kind: Kind) -> float:
    return {Kind.BITS_7: 64, Kind.BITS_5: 16}.get(kind, 8) * 8.0


def eighth(x: Tensor) -> Tensor:
    """Activations as the kernels round them."""
    groups = x.view(*x.shape[:-1], -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale == 0, 0, (groups / scale).round() * scale).view(x.shape)


class Rounding(nn.Module):
    """A linear layer, and where there is an adapter its `low` and `high` beside it."""

    def __init__(self, inner: nn.Module, added: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.inner, self.added = inner, added

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(eighth(x))
        if self.added is None:
            return out
        low, high = self.added
        return out + eighth(eighth(x) @ low.T) @ high.T


def both(config: ModelConfig, rank: int = 0) -> tuple[PackedTransformer, Transformer]:
    """The same random weights, of every kind in turn, packed and plain; with an adapter of this rank."""
    torch.manual_seed(1)
    plain = Transformer(replace(config, tied=False), positions=512).requires_grad_(False)
    kinds = [Kind.BITS_5, Kind.BITS_4_MIN, Kind.BITS_7, Kind.BITS_4]
    tensors: dict[str, Tensor] = {}
    for number, (name, module) in enumerate(list(plain.named_modules())):
        if isinstance(module, nn.Linear):
            sizes = [module.out_features // 2 // 8 * 8, 0]
            sizes[1] = module.out_features - sizes[0]
            parts = [
                random_matrix(kinds[(number + i) % 4], rows, module.in_features)
                for i, rows in enumerate(sizes)
            ]
            module.weight.copy_(torch.cat([part.plain() for part in parts]))
            for index, part in enumerate(parts):
                tensors[f"{name}.weight.{index}.{part.kind.name}"] = pack(part)
            if module.bias is not None:
                tensors[f"{name}.bias"] = module.bias.normal_()
            added = None
            if rank and name != "head":
                low = rounded(torch.randn(rank, module.in_features) / 16, 7)
                high = rounded(torch.randn(module.out_features, rank) / 16, 7)
                tensors |= {f"{name}.low": pack(low), f"{name}.high": pack(high)}
                added = (low.plain(), high.plain())
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, Rounding(module, added))
        elif hasattr(module, "eps"):
            tensors[f"{name}.weight"] = module.weight.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    tensors["embedding.weight"] = plain.embedding.weight.normal_()
    return PackedTransformer(config, tensors, positions=512), plain


@torch.inference_mode()
@pytest.mark.parametrize("rank", [0, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_reference_s(family: str, rank: int) -> None:
    ours, theirs = both(FAMILIES[family], rank)
    ids = torch.randint(0, 80, (1, 200))
    expected = theirs(ids, theirs.new_cache(1, 512), wanted=None)
    off = (ours(ids, ours.new_cache(1, 512), wanted=None) - expected)[0].norm(dim=-1) / expected[0].norm(
        dim=-1
    )
    assert off.median() < MEDIAN_BOUND
    assert off.mean() < MEAN_BOUND


@torch.inference_mode()
@pytest.mark.parametrize("rank", [0, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_pieces_changes_nothing(family: str, rank: int) -> None:
    """Every count of tokens that the kernels treat apart, across a growing cache."""
    ours, _ = both(FAMILIES[family], rank)
    ids = torch.randint(0, 80, (1, 512))
    whole = ours(ids, ours.new_cache(1, 512), wanted=None)[0]
    cache, start, pieces = ours.new_cache(1, 512), 0, []
    for count in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 65, 1, 331):
        pieces.append(ours(ids[:, start : start + count], cache, wanted=None)[0])
        start += count
    assert start == cache.length == 512
    assert torch.equal(torch.cat(pieces), whole), "bit for bit: guessing relies on it"
    assert torch.equal(ours(ids, ours.new_cache(1, 512), wanted=3)[0], whole[-3:])
    cache.truncate(100)
    again = ours(ids[:, 100:101], cache)[0]
    assert torch.equal(again[0], whole[100])


@torch.inference_mode()
def test_a_few_rows_of_the_output_are_those_of_all() -> None:
    ours, _ = both(FAMILIES["qwen2"])
    states = ours.states(torch.randint(0, 80, (1, 9)), ours.new_cache(1, 512), wanted=3)[0]
    whole = ours.logits(states)
    for ids in ([5], [0, 1, 79], [40, 41, 7, 48], list(range(80))):
        assert torch.equal(ours.logits_of(states[1], torch.tensor(ids)), whole[1, ids])


@torch.inference_mode()
def test_what_is_chosen_does_not_depend_on_what_was_computed_before() -> None:
    """A position among few tokens is computed alone, or taken from what another one asked for."""
    ours, _ = both(FAMILIES["qwen2"])
    ids = torch.randint(0, 80, (1, 9))
    states = ours.states(ids, ours.new_cache(1, 512), wanted=2)[0]
    few = torch.zeros(80, dtype=torch.bool)
    few[[3, 8, 50]] = True
    alone, after = Ahead(ours, states), Ahead(ours, states)
    any_token = after.choose(0, None, Sampling(), None)
    assert alone.choose(1, few, Sampling(), None) == after.choose(1, few, Sampling(), None)
    assert alone.choose(0, None, Sampling(), None) == any_token
    scores = ours.logits(states)[1][few]
    token, logprob = alone.choose(1, few, Sampling(), None)
    assert token == [3, 8, 50][int(scores.argmax())]
    assert logprob == pytest.approx(float(scores.log_softmax(0).max()))


def spin() -> None:
    while True:
        pass


@torch.inference_mode()
def test_busy_neighbours_change_no_bit() -> None:
    """Helpers are put aside in the middle of their pieces, which are then taken from them."""
    ours, _ = both(replace(PLAIN, num_layers=2, hidden_size=512, intermediate_size=8192), 32)
    ids = torch.randint(0, 80, (1, 40))
    native.start(4)
    expected = ours(ids, ours.new_cache(1, 512), wanted=None)
    neighbours = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    try:
        for neighbour in neighbours:
            neighbour.start()
        for _ in range(30):
            assert torch.equal(ours(ids, ours.new_cache(1, 512), wanted=None), expected)
    finally:
        for neighbour in neighbours:
            neighbour.kill()


def written(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Adapter:
    """An adapter of rank 3 with a scale of 2 and normally distributed matrices."""
    data = save({name: torch.randn(shape) for name, shape in shapes.items()})
    (folder / WEIGHTS_FILE).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    card = {"base_sha256": "0", "sha256": sha256, "alpha": 6, "rank": 3, "form": "signatures"}
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in (card | {"shots": 1, "command_shots": 0}).items()
    ]
    (folder / CARD_FILE).write_text("\n".join(lines))
    return adapters.read(folder)


def test_an_adapter_keeps_its_scale_and_is_filled_up_to_whole_groups(tmp_path: Path) -> None:
    adapter = written(tmp_path, {"x.a": (3, 64), "x.b": (16, 3)})
    made = adapters.packed(adapter, {"x"})
    assert made["x.low"].shape == (32 // 8, 2 * Kind.BITS_7.block_bytes)
    assert made["x.high"].shape == (16 // 8, Kind.BITS_7.block_bytes)
    blocks = made["x.high"].view(2, Kind.BITS_7.block_bytes)
    scales = blocks[:, :16].contiguous().view(torch.float16).float().view(16, 1)
    steps = blocks[:, 16:].reshape(2, 8, 8, 4).transpose(1, 2).reshape(16, 32)
    high = load_file(adapter.weights)["x.b"]
    found = (steps.float() - 64) * scales
    assert torch.allclose(found[:, :3], 2 * high, atol=0.6 * float(scales.max()))
    assert not found[:, 3:].any()


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    adapter = written(tmp_path, {"x.a": (3, 64), "x.b": (16, 3)})
    with pytest.raises(ModelError, match="there is no x"):
        adapters.packed(adapter, {"y"})
    name = "blocks.0.attention.out"
    narrow = written(tmp_path, {f"{name}.a": (3, 64), f"{name}.b": (16, 3)})
    ours, _ = both(PLAIN)
    with pytest.raises(ModelError, match=f"{name} has 128 rows of 192"):
        PackedTransformer(PLAIN, ours._tensors | adapters.packed(narrow, {name}), positions=512)


def test_an_adapter_is_changed_beside_the_same_weights() -> None:
    ours, ids = both(PLAIN)[0], torch.randint(0, 80, (1, 9))
    base = dict(ours._tensors)
    adapters_ = [
        {name: tensor for name, tensor in both(PLAIN, rank)[0]._tensors.items() if name not in base}
        for rank in (32, 64)
    ]
    places = {name: tensor.data_ptr() for name, tensor in base.items()}

    def logits(model: PackedTransformer) -> torch.Tensor:
        return model(ids, model.new_cache(1, 16), wanted=None)

    for added in (*adapters_, {}, adapters_[0]):
        ours.adapt(added)
        expected = logits(PackedTransformer(PLAIN, base | added, positions=512))
        assert torch.equal(logits(ours), expected)
    name = next(iter(added))
    with pytest.raises(ModelError, match="does not fit"):
        ours.adapt({**added, name: added[name][:, 40:].contiguous()})
    assert torch.equal(logits(ours), expected), "as before"
    assert places == {name: ours._tensors[name].data_ptr() for name in places}, "nothing was copied"


def test_a_model_that_does_not_divide_is_not_packed() -> None:
    assert fits(PLAIN)
    assert not fits(replace(PLAIN, intermediate_size=225))
    assert not fits(replace(PLAIN, vocab_size=81))


def test_a_library_that_others_could_change_is_not_loaded(tmp_path: Path) -> None:
    """A file or folder that others may write to, and a link: nothing of them is loaded."""
    code = "from llmos.engine import native; print(native.library() is None)"

    def refused() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"LLMOS_MODELS_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout.strip() == "True"

    assert not refused(), "built into a folder of its own"
    (made,) = (tmp_path / "kernels").glob("*.so")
    made.chmod(0o666)
    assert refused()
    made.chmod(0o600)
    (tmp_path / "kernels").chmod(0o777)
    assert refused()
    (tmp_path / "kernels").chmod(0o700)
    made.rename(tmp_path / "elsewhere.so")
    made.symlink_to(tmp_path / "elsewhere.so")
    assert refused()


@pytest.mark.weights
def test_guesses_change_no_reply(tiny_model: Path) -> None:
    """A sample of what `python -m tests.bench.guesses` does at length: to the last bit of a confidence."""
    wanted = ("ask", "file.copy", "file.delete", "file.find")
    tools = [spec for spec in calls.specs() if spec.name in wanted]
    engine = Engine.load(tiny_model, dtype="packed", context_tokens=1024)
    pair = guesses.Pair(engine, tools)
    for say in ("copy notes.txt to b.txt", "find *.py", "delete it"):
        with_guesses, without = pair.replies(say)
        assert with_guesses == without
        assert without.num_tokens > 0
