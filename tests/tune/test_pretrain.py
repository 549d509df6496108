"""Transformers trained from scratch: against torch's and transformers' own, and by what they learn."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from llmos import cli
from llmos.engine.engine import Engine
from llmos.errors import ModelError, UsageError
from llmos.tune import corpus, folders, pretrain
from llmos.tune.vaswani import Batch, Block, MultiHeadAttention, Pair, Shape, Transformer2017, sinusoids

TINY = Shape(vocab_size=50, width=32, heads=4, inner=64, encoder_layers=2, decoder_layers=2, dropout=0.0)
ALONE = Shape(vocab_size=50, width=32, heads=4, inner=64, encoder_layers=0, decoder_layers=2, dropout=0.0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread: for models as small as these it is the fastest, and beside other work by far."""
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _pair(source: Sequence[int], target: Sequence[int]) -> Pair:
    ids = np.array(target, np.int32)
    return Pair(np.array(source, np.int32), ids, np.arange(len(ids)) > 0, np.zeros(len(ids), np.int32))


# --- against torch's reference modules ----------------------------------------------------------------


def test_attention_is_torchs() -> None:
    ours, theirs = MultiHeadAttention(TINY), nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        parts = [ours.q_proj, ours.k_proj, ours.v_proj]
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    seen = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    want, _ = theirs(x, memory, memory, key_padding_mask=~seen)
    torch.testing.assert_close(ours(x, memory, seen[:, None, None]), want)
    masked = nn.Transformer.generate_square_subsequent_mask(5)
    want, _ = theirs(x, x, x, attn_mask=masked, is_causal=True)
    torch.testing.assert_close(ours(x, x, None, causal=True), want)


def _as_torchs(block: Block, theirs: nn.Module, *, crosses: bool) -> None:
    def fill(attention: MultiHeadAttention, there: nn.MultiheadAttention) -> None:
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        there.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        there.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        there.out_proj.load_state_dict(attention.out_proj.state_dict())

    with torch.no_grad():
        fill(block.self_attn, theirs.self_attn)  # type: ignore[arg-type]
        norms = [block.self_attn_layer_norm, block.final_layer_norm]
        if crosses:
            fill(block.encoder_attn, theirs.multihead_attn)  # type: ignore[arg-type]
            norms.insert(1, block.encoder_attn_layer_norm)
        for number, norm in enumerate(norms, 1):
            getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
        theirs.linear1.load_state_dict(block.fc1.state_dict())  # type: ignore[union-attr]
        theirs.linear2.load_state_dict(block.fc2.state_dict())  # type: ignore[union-attr]


def test_blocks_are_torchs() -> None:
    x, memory = torch.randn(2, 6, 32), torch.randn(2, 4, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    encoder, decoder = Block(TINY, crosses=False), Block(TINY, crosses=True)
    theirs = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    _as_torchs(encoder, theirs, crosses=False)
    torch.testing.assert_close(encoder(x, None), theirs(x), rtol=1e-4, atol=1e-5)
    crossing = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    _as_torchs(decoder, crossing, crosses=True)
    want = crossing(x, memory, tgt_mask=mask, tgt_is_causal=True)
    torch.testing.assert_close(decoder(x, None, causal=True, memory=memory), want, rtol=1e-4, atol=1e-5)


def test_positions_are_the_papers() -> None:
    found = sinusoids(10, 8)
    assert found[7, 2] == pytest.approx(math.sin(7 / 10000 ** (4 / 8)), abs=1e-6)
    assert found[7, 4 + 2] == pytest.approx(math.cos(7 / 10000 ** (4 / 8)), abs=1e-6)


# --- against transformers' ---------------------------------------------------------------------------


def test_an_encoder_decoder_is_read_by_transformers_and_says_the_same(tmp_path: Path) -> None:
    ours = Transformer2017(TINY).eval()
    folders.save_2017(tmp_path, ours, end=1, pad=0)
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    batch = ours.collate([_pair([5, 6, 7, 1], [1, 9, 8, 1]), _pair([4, 1], [1, 3, 1])], CPU)
    assert batch.source is not None
    assert batch.source_mask is not None
    with torch.no_grad():
        want = theirs(
            input_ids=batch.source,
            attention_mask=batch.source_mask[:, 0, 0].long(),
            decoder_input_ids=batch.ids[:, :-1],
        ).logits
        torch.testing.assert_close(ours(batch), want, rtol=1e-4, atol=1e-4)
    again = folders.load_2017(tmp_path)
    torch.testing.assert_close(again(batch), ours(batch))


def test_a_decoder_alone_is_read_by_transformers_and_says_the_same(tmp_path: Path) -> None:
    ours = Transformer2017(ALONE).eval()
    folders.save_2017(tmp_path, ours, end=1, pad=0)
    theirs = transformers.MarianForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[1, 4, 9, 22, 30]])
    with torch.no_grad():
        torch.testing.assert_close(ours.decode(ids), theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_the_future_and_the_padding_are_not_seen() -> None:
    ours = Transformer2017(TINY).eval()
    one = ours.collate([_pair([5, 6, 1], [1, 9, 8, 7, 1])], CPU)
    two = ours.collate([_pair([5, 6, 1], [1, 9, 3, 2, 1]), _pair([5, 6, 9, 9, 9, 1], [1, 4, 1])], CPU)
    torch.testing.assert_close(ours(one)[0, :2], ours(two)[0, :2], rtol=1e-4, atol=1e-5)


def test_the_loss_is_smoothed_while_learning_and_plain_when_judged() -> None:
    ours = Transformer2017(TINY)
    batch = ours.collate([_pair([5, 1], [1, 9, 8, 1])], CPU)
    logits, targets = ours(batch)[0], torch.tensor([9, 8, 1])
    losses, _ = ours.eval().losses(batch)
    torch.testing.assert_close(losses, nn.functional.cross_entropy(logits, targets, reduction="none"))
    smoothed = nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(ours.train().losses(batch)[0], smoothed)


# --- text ---------------------------------------------------------------------------------------------


def test_text_is_found_cleaned_and_parted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(40):
        (tmp_path / "deep" / f"{number}.txt").write_text(f"document {number}\r\nof text")
    (tmp_path / "twice.txt").write_text("document 3\nof text")
    (tmp_path / "image").write_bytes(b"\x89PNG\0\0\0")
    found = corpus.read_texts([tmp_path])
    texts = {document[0] for document in (*found.train, *found.valid)}
    assert texts == {f"document {number}\nof text" for number in range(40)}
    assert (len(found.valid), found.left_out) == (2, 1)
    assert not set(found.train) & set(found.valid)


def test_one_file_is_parted_by_its_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(
        "\n\n".join(f"paragraph {number} of a text that is longer" for number in range(60))
    )
    found = corpus.read_texts([tmp_path / "one"])
    assert (len(found.train), len(found.valid)) == (57, 3)


def test_what_cannot_be_learnt_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text at"):
        corpus.read_texts([tmp_path / "gone"])
    with pytest.raises(UsageError, match="too little text"):
        corpus.read_texts([tmp_path])
    (tmp_path / "pairs").write_text("one\ttwo\nno tab here\n")
    with pytest.raises(UsageError, match="line 2, is no pair"):
        corpus.read_pairs(tmp_path / "pairs")
    with pytest.raises(ModelError, match="is no folder of"):
        folders.load_2017(tmp_path)


def test_the_tokenizer_gives_every_text_back_and_no_text_spells_a_mark() -> None:
    text = corpus.Corpus((("the disk is full\tüñí 磁盘满了",),), (("x",),))
    tokenizer = corpus.train_tokenizer(text, 320)
    said = "磁盘 <|endoftext|>\n\tdisk"
    ids = tokenizer.encode(said).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == said
    assert corpus.mark_id(tokenizer, corpus.END) not in ids


# --- whole runs ----------------------------------------------------------------------------------------


def _text(folder: Path) -> Path:
    folder.mkdir()
    for number in range(30):
        lines = (f"to list folder {(number + n) % 9} run ls -l f{(number + n) % 9}" for n in range(12))
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


SMALL = ("--layers", "2", "--width", "64", "--heads", "4", "--vocab-size", "400", "--context", "64")


def test_a_decoder_learns_and_runs_in_the_engine_and_in_transformers(tmp_path: Path) -> None:
    text, out = _text(tmp_path / "text"), tmp_path / "model"
    steps = ("--max-steps", "80", "--batch-tokens", "1024", "--learning-rate", "4e-3", "--validations", "2")
    assert pretrain.main(["--text", str(text), "--out", str(out), *SMALL, *steps]) == 0
    report = json.loads((out / "report.json").read_text())
    curve = json.loads((out / "curve.json").read_text())
    assert report["perplexity"] < 3 < math.exp(curve["validations"][0]["text"]["loss"])
    assert (out / "curve.svg").read_text().startswith("<svg")
    engine = Engine.load(out, dtype="float32", threads=1, context_tokens=64)
    ids = engine.tokenizer.encode("to list folder 7 run")
    ours = engine.model(torch.tensor([ids]), engine.model.new_cache(1, 64), wanted=None)
    theirs = transformers.LlamaForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(torch.tensor([ids])).logits, rtol=1e-3, atol=1e-3)
    assert engine.tokenizer.decode([int(ours[0, -1].argmax())]) == " ls"


def test_an_encoder_decoder_learns_to_turn_words_round(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcd"), 4)) for _ in range(600)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in set(words)))
    given = [
        "--pairs",
        str(tmp_path / "pairs.tsv"),
        "--kind",
        "encoder-decoder",
        "--out",
        str(tmp_path / "m"),
    ]
    shape = ["--layers", "2", "--width", "64", "--heads", "4", "--vocab-size", "260", "--context", "16"]
    steps = ["--max-steps", "250", "--batch-tokens", "640", "--learning-rate", "3e-3", "--validations", "1"]
    assert pretrain.main([*given, *shape, *steps, "--dropout", "0"]) == 0
    model = folders.load_2017(tmp_path / "m")
    tokenizer = corpus.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    end = corpus.mark_id(tokenizer, corpus.END)
    held = corpus.read_pairs(tmp_path / "pairs.tsv").valid
    right = 0
    for source, target in held:
        said = model.greedy([end], [*tokenizer.encode(source).ids, end], most=8, ends=frozenset({end}))
        right += tokenizer.decode(said) == target
    assert right > 0.8 * len(held), f"{right} of {len(held)}"


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    text, out = _text(tmp_path / "text"), tmp_path / "model"
    steps = ("--max-steps", "30", "--batch-tokens", "512", "--keep-every-s", "0", "--validations", "1")
    argv = ["--text", str(text), "--out", str(out), *SMALL, *steps]
    program = "import sys; from llmos.tune.pretrain import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, *argv], stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while not (out / "state" / "state.pt").exists():
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    before = torch.load(out / "state" / "state.pt", weights_only=True)["step"]
    assert pretrain.main(argv) == 0
    steps_seen = [line["step"] for line in json.loads((out / "curve.json").read_text())["steps"]]
    assert 0 < before < 30
    assert steps_seen[-1] == 30
    with pytest.raises(UsageError, match="other text"):
        pretrain.main([*argv, "--vocab-size", "500"])


def test_a_model_from_scratch_is_tuned_whole_on_calls(tmp_path: Path) -> None:
    text, base, out = _text(tmp_path / "text"), tmp_path / "base", tmp_path / "tuned"
    pretrain.main(["--text", str(text), "--out", str(base), *SMALL, "--max-steps", "1", "--validations", "1"])
    row = {
        "kind": "call", "say": "list f3", "entries": None, "data_head": None, "source": "hand", "avoid": [],
        "calls": [{"tool": "file.list", "args": {"path": "f3"}}],
    }  # fmt: skip
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row | {"say": f"list f3 {n}"}) + "\n" for n in range(2)))
    given = ["train", "--rows", str(rows), "--valid", str(rows), "--model", str(base), "--out", str(out)]
    steps = ["--max-steps", "4", "--batch-tokens", "2048", "--accumulate", "1", "--learning-rate", "2e-2"]
    assert cli.main(["tune", *given, *steps, "--validations", "1", "--mode", "full"]) == 0
    judged = json.loads((out / "curve.json").read_text())["validations"]
    assert judged[-1]["calls"]["loss"] < 0.9 * judged[0]["calls"]["loss"]
    engine = Engine.load(out, dtype="float32", threads=1, context_tokens=64)
    assert engine.tokenizer.render_chat([{"role": "user", "content": "x"}]).startswith("<|im_start|>user\nx")
    assert cli.main(["tune", *given, *steps]) == 2  # an adapter belongs to a weights file


def test_tune_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune"]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert cli.main(["tune", "my", "guitar"]) == 2
    assert 'llmos "tune my guitar"' in capsys.readouterr().err


def test_a_batch_without_a_source_is_a_decoders() -> None:
    batch = Transformer2017(ALONE).collate([_pair([], [1, 4, 1])], CPU)
    assert isinstance(batch, Batch)
    assert batch.source is None
