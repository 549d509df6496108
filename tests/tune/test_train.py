"""Training and the adapter: numbers against transformers and autograd, chats against the prompt builder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

from llmos import cli
from llmos.engine import adapter as adapters
from llmos.engine.engine import Engine
from llmos.engine.model import ModelConfig, Transformer
from llmos.engine.weights import open_source
from llmos.errors import ConfigError, ModelError
from llmos.messages import Think, ToolSpec
from llmos.paths import adapters_dir, tool_dirs
from llmos.planner import prompt
from llmos.planner.choosing import Chooser
from llmos.planner.loop import Loop
from llmos.planner.retrieval import Retriever
from llmos.toolbox import catalog
from llmos.tune import options as tune_options
from llmos.tune.chats import Composer, Sample, single
from llmos.tune.lora import Trainee
from llmos.tune.network import collate
from llmos.tune.pools import Pools, used_tokens
from llmos.tune.prepare import Preparer
from llmos.tune.train import Run, Settings, batches, rate_at

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CPU = torch.device("cpu")


def sample(*ids: int, learnt: int = 4) -> Sample:
    """A chat whose last `learnt` tokens are one reply."""
    marks = np.arange(len(ids)) >= len(ids) - learnt
    return Sample(np.array(ids, np.int32), marks, np.where(marks, 0, -1).astype(np.int32))


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(3)
    config = transformers.Qwen2Config(**SHAPE, vocab_size=100, tie_word_embeddings=False)
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def base(theirs: Any) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The same weights under the engine's names."""
    state, config = theirs.state_dict(), theirs.config
    ours = {"embedding.weight": state["model.embed_tokens.weight"], "norm.weight": state["model.norm.weight"]}
    ours["head.weight"] = state["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        here, there = f"blocks.{layer}", f"model.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [state[f"{there}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            ours[f"{here}.attention.qkv.{kind}"] = torch.cat(parts)
        ours[f"{here}.attention.out.weight"] = state[f"{there}.self_attn.o_proj.weight"]
        ours[f"{here}.feed_forward.gate_up.weight"] = torch.cat(
            [state[f"{there}.mlp.{p}_proj.weight"] for p in ("gate", "up")]
        )
        ours[f"{here}.feed_forward.down.weight"] = state[f"{there}.mlp.down_proj.weight"]
        ours[f"{here}.attention_norm.weight"] = state[f"{there}.input_layernorm.weight"]
        ours[f"{here}.feed_forward_norm.weight"] = state[f"{there}.post_attention_layernorm.weight"]
    shape = ModelConfig(
        architecture="qwen2", num_layers=2, hidden_size=32, intermediate_size=48, num_heads=4, num_kv_heads=2,
        head_dim=8, vocab_size=100, max_positions=512, rms_eps=config.rms_norm_eps, rope_theta=10000.0,
        qkv_bias=True, tied=False,
    )  # fmt: skip
    return shape, {name: tensor.detach().clone() for name, tensor in ours.items()}


def trainee(base: tuple[ModelConfig, dict[str, torch.Tensor]], *, moved: bool = False) -> Trainee:
    torch.manual_seed(5)
    made = Trainee(*base, rank=4, alpha=8, positions=128)
    if moved:
        for high in made.lora.high:
            high.data.normal_(std=0.1)
    return made


CHATS = [sample(*range(1, 30)), sample(*range(50, 70), learnt=7)]


def test_the_loss_of_padded_chats_is_that_of_transformers(theirs: Any, base: Any) -> None:
    losses, hits = trainee(base).losses(collate(CHATS, CPU))
    expected = []
    for chat in CHATS:
        ids = torch.from_numpy(chat.ids).long()
        with torch.no_grad():
            logits = theirs(ids[None]).logits[0]
        places = torch.from_numpy(np.flatnonzero(chat.learnt))
        expected.append(F.cross_entropy(logits[places - 1], ids[places], reduction="none"))
    assert torch.allclose(losses, torch.cat(expected), atol=1e-4)
    assert len(hits) == 11


def test_gradients_are_those_of_the_merged_matrices(base: Any) -> None:
    ours = trainee(base, moved=True)
    batch = collate(CHATS, CPU)
    ours.losses(batch)[0].sum().backward()
    # Autograd's own way to the same: the merged matrices as leaves, then the chain rule by hand.
    config, tensors = base
    names, scale = ours.lora.names, ours.lora.scale
    leaves = {
        name: adapters.merged(
            tensors[f"{name}.weight"], *map(torch.Tensor.detach, ours.lora.pair(name)), scale
        ).requires_grad_()
        for name in names
    }
    plain = Transformer(config, positions=128)
    state = tensors | {f"{name}.weight": leaf for name, leaf in leaves.items()}
    logits = torch.func.functional_call(plain, state, (batch.ids, plain.new_cache(2, 64)), {"wanted": None})
    F.cross_entropy(logits[batch.rows, batch.columns], batch.targets, reduction="sum").backward()
    for name, leaf in leaves.items():
        low, high = ours.lora.pair(name)
        assert leaf.grad is not None and low.grad is not None and high.grad is not None
        assert torch.allclose(low.grad, scale * high.detach().t() @ leaf.grad, atol=1e-3), name
        assert torch.allclose(high.grad, scale * leaf.grad @ low.detach().t(), atol=1e-3), name


def run(base: Any, folder: Path, steps: int, **changes: Any) -> Run:
    def forever() -> Any:
        while True:
            yield from CHATS

    settings = Settings(
        max_steps=steps,
        learning_rate=0.02,
        batch_tokens=64,
        accumulate=2,
        validations=2,
        warmup_share=0.2,
        keep_every_s=0.0,
    )
    settings = replace(settings, **changes)
    return Run(
        trainee(base),
        forever(),
        settings,
        device=CPU,
        folder=folder,
        validation={"same": CHATS},
        on_progress=lambda line: None,
    )


def test_a_run_learns_and_one_that_was_stopped_goes_on(base: Any, tmp_path: Path) -> None:
    curve = run(base, tmp_path, 20).go()
    first, last = curve.validations[0]["same"], curve.validations[-1]["same"]
    assert last["loss"] < first["loss"] / 2 and last["replies"] == 2
    again = run(base, tmp_path, 40)
    assert again.step == 20
    assert again.go().validations[-1]["same"]["exact"] == 1.0
    assert again.step == 40 and not list(tmp_path.glob("*.new"))


def test_a_run_without_progress_ends_with_the_best_weights(base: Any, tmp_path: Path) -> None:
    """Far too high a rate makes it worse before long."""
    wild = run(base, tmp_path, 60, patience=2, validations=20, learning_rate=30.0)
    losses = [found["same"]["loss"] for found in wild.go().validations]
    assert wild.step < 60
    assert losses[-1] == min(loss for loss in losses if not np.isnan(loss))
    assert not losses[-2] <= losses[-1]


def test_the_rate_rises_then_falls_to_its_least() -> None:
    settings = Settings(max_steps=1, learning_rate=1.0, warmup_share=0.1, least_share=0.05)
    assert rate_at(0.0, settings) < 0.01 < rate_at(0.05, settings) < rate_at(0.1, settings)
    assert rate_at(1.0, settings) == pytest.approx(0.05) and rate_at(0.1, settings) == pytest.approx(1.0)


def test_batches_hold_every_chat_once_and_stay_below_their_size() -> None:
    chats = [sample(*range(n)) for n in range(5, 60)]
    groups = list(batches(iter(chats), 200, seed=1))
    assert sorted(len(s.ids) for group in groups for s in group) == list(range(5, 60))
    assert all(len(group) == 1 or len(group) * max(len(s.ids) for s in group) <= 200 for group in groups)


# --- adapters


def stored(
    folder: Path, tensors: dict[str, torch.Tensor], *, base_sha256: str, **card: object
) -> adapters.Adapter:
    folder.mkdir(parents=True)
    save_file(tensors, folder / adapters.WEIGHTS_FILE)
    sha256 = hashlib.sha256((folder / adapters.WEIGHTS_FILE).read_bytes()).hexdigest()
    values = {
        "base_sha256": base_sha256,
        "sha256": sha256,
        "rank": 4,
        "alpha": 8,
        "form": "signatures",
        "shots": 1,
        "command_shots": 0,
        **card,
    }
    (folder / adapters.CARD_FILE).write_text("".join(f"{k} = {v!r}\n" for k, v in values.items()))
    return adapters.read(folder)


def test_an_adapter_is_added_exactly_and_only_where_it_belongs(base: Any, tmp_path: Path) -> None:
    _, tensors = base
    ours = trainee(base, moved=True)
    kept = {name: t.to(torch.bfloat16).contiguous() for name, t in ours.lora.tensors().items()}
    adapter = stored(tmp_path / "one", kept, base_sha256="a" * 64)
    assert adapters.find("a" * 64, tmp_path) == adapter and adapters.find("b" * 64, tmp_path) is None
    name = "blocks.1.feed_forward.down"
    change, plain = adapters.change(adapter), tensors[f"{name}.weight"]
    delta = 2.0 * kept[f"{name}.b"].double() @ kept[f"{name}.a"].double()
    changed = change.apply(f"{name}.weight", plain)
    assert torch.allclose(changed.double(), plain.double() + delta, atol=1e-6)
    assert "norm.weight" not in change.names and f"{name}.weight" in change.names
    for where, matrix in (("other.weight", plain), (f"{name}.weight", torch.zeros(2, 3))):
        with pytest.raises(ModelError, match="does not fit"):
            change.apply(where, matrix)


def test_a_changed_adapter_and_a_poor_card_are_refused(base: Any, tmp_path: Path) -> None:
    adapter = stored(tmp_path / "one", {"x.a": torch.zeros(4, 2)}, base_sha256="a" * 64)
    adapter.weights.write_bytes(adapter.weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="not what its card says"):
        adapters.change(adapter)
    (adapter.folder / adapters.CARD_FILE).write_text("rank = 4\n")
    with pytest.raises(ConfigError, match=r"card\.toml"):
        adapters.read(adapter.folder)


def test_training_goes_on_from_an_adapter(base: Any, tmp_path: Path) -> None:
    ours = trainee(base, moved=True)
    kept = {name: t.to(torch.bfloat16).contiguous() for name, t in ours.lora.tensors().items()}
    again = Trainee.going_on(stored(tmp_path / "one", kept, base_sha256="a" * 64), *base, positions=128)
    assert (again.lora.rank, again.lora.alpha) == (4, 8)
    assert all(torch.equal(t, kept[name].float()) for name, t in again.lora.tensors().items())
    losses = [one.losses(collate(CHATS, CPU))[0] for one in (ours, again, trainee(base))]
    assert torch.allclose(losses[0], losses[1], atol=0.05) and not torch.allclose(*losses[1:], atol=0.05)
    with pytest.raises(ModelError, match="no adapter of all"):
        del kept["blocks.1.attention.out.a"]
        Trainee.going_on(stored(tmp_path / "part", kept, base_sha256="a" * 64), *base, positions=128)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--mode", "full"), "makes none"), (("--model", "tiny"), "other weights")],
)
def test_an_adapter_is_gone_on_with_for_its_own_weights_alone(
    words: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows").touch()
    start = next(adapters_dir().glob(f"*/{adapters.CARD_FILE}")).parent
    rows = ("--rows", str(tmp_path / "rows"), "--valid", str(tmp_path / "rows"), "--max-steps", "1")
    argv = ("tune", "train", *rows, "--out", str(tmp_path / "out"), "--start", str(start), *words)
    assert cli.main(argv) == 2 and said in capfd.readouterr().err


def test_every_shipped_adapter_is_whole() -> None:
    cards = list(adapters_dir().glob(f"*/{adapters.CARD_FILE}"))
    assert cards
    for adapter in map(adapters.read, (card.parent for card in cards)):
        data = adapter.weights.read_bytes()
        assert hashlib.sha256(data).hexdigest() == adapter.sha256 and len(data) < 45e6
        assert prompt.PromptForm(adapter.form) is prompt.PromptForm.SIGNATURES


# --- chats


ROWS: list[dict[str, Any]] = [
    {
        "kind": "call",
        "say": say,
        "entries": entries,
        "data_head": data,
        "calls": calls,
        "source": "hand",
        "avoid": avoid,
    }
    for say, entries, data, calls, avoid in [
        (
            "show notes.txt.",
            ["notes.txt", "a b"],
            None,
            [{"tool": "file.read", "args": {"path": "notes.txt"}}],
            [],
        ),
        ("数一数这里有多少行", None, "x\ny\n", [{"tool": "text.count", "args": {}}], ["elsewhere"]),
        (
            "list, then memory",
            None,
            None,
            [{"tool": "file.list", "args": {}}, {"tool": "system.memory", "args": {}}],
            [],
        ),
    ]
] + [
    {
        "kind": "translate",
        "say": "count lines?",
        "entries": None,
        "data_head": None,
        "command": "wc -l *",
        "source": "nl2bash",
    }
]


@pytest.mark.weights
def test_chats_are_the_tokens_that_the_prompt_builder_makes(tiny_model: Path, tmp_path: Path) -> None:
    """Text by text what a request would read, so that training meets what use will bring."""
    tokenizer = open_source(tiny_model).tokenizer
    ours = catalog.load(tool_dirs()[:1]).specs
    foreign = ToolSpec(
        name="elsewhere.go", summary="Go", parameters={"type": "object", "properties": {}}, examples=()
    )
    maker = Preparer(tokenizer, (*ours, foreign), len(ours))
    maker.pools(ROWS, looked_up=1.0).save(tmp_path / "pools.npz")
    pools = Pools.load(tmp_path / "pools.npz")
    one = single(pools, 1, 2)
    shots = maker._retriever.nearest(ROWS[1]["say"], 2)
    chooser = Chooser(ours, Retriever(ours))  # as the planner's loop has it
    chat = prompt.call_chat(
        chooser.listed(ROWS[1]["say"]),
        shots,
        Think(id="", text=ROWS[1]["say"], data_head="x\ny\n"),
        prompt.PromptForm.SIGNATURES,
    )
    read = one.ids[~one.learnt].tolist()
    assert read == tokenizer.encode(tokenizer.render_chat(chat), special=True)
    assert tokenizer.decode(one.ids[one.learnt].tolist()) == "text.count {}<|im_end|>"
    known = set(used_tokens([pools]).tolist())
    for chat_made in islice(Composer(pools, seed=2, max_tokens=900), 12):
        text = tokenizer.decode(chat_made.ids.tolist())
        assert tokenizer.encode(text, special=True) == chat_made.ids.tolist()
        assert set(chat_made.ids.tolist()) <= known
        assert not ("elsewhere.go" in text and "数一数" in text)
        assert chat_made.learnt.any() and chat_made.ids[0] == pools.head[0]
        assert text.split("<|im_end|>")[0].count("\n") < 75, "not every tool is listed"


@pytest.mark.weights
def test_a_model_is_loaded_with_its_adapter_and_prompted_as_it_was_taught(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_MODELS_DIR", str(tmp_path / "models"))
    name, rows, columns = "blocks.0.feed_forward.down", 576, 1536
    parts = {f"{name}.a": torch.randn(4, columns), f"{name}.b": torch.randn(rows, 4) / 50}
    adapter = stored(tmp_path / "one", parts, base_sha256="a" * 64)
    first, kept = (Engine.load(tiny_model, adapter=adapter) for _ in range(2))
    plain = open_source(tiny_model).get("model.layers.0.mlp.down_proj.weight", torch.bfloat16)
    wanted = adapters.merged(plain, parts[f"{name}.a"], parts[f"{name}.b"], 2.0)
    for engine in (first, kept):  # the second comes from the prepared form
        assert torch.equal(dict(engine.model.named_parameters())[f"{name}.weight"], wanted)
    loop = Loop(first, context_tokens=2048)
    assert loop._form is prompt.PromptForm.SIGNATURES and loop._num_shots == 1


def test_frozen_weights_are_narrow_only_where_they_are_multiplied_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_options, "multiplies_bfloat16", lambda: False)
    assert tune_options.frozen(CPU) is torch.float32
    assert tune_options.frozen(torch.device("cuda")) is torch.bfloat16
    monkeypatch.setattr(tune_options, "multiplies_bfloat16", lambda: True)
    assert tune_options.frozen(CPU) is torch.bfloat16
