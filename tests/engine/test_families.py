"""The families beside the shipped weights: random models of `transformers`, as folders and as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from llmos.engine.engine import Engine
from llmos.engine.weights import open_source
from llmos.errors import ModelError
from tests.engine.tiny_gguf import write_gguf

IDS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(7))
BOUND = 1e-4

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 260,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
GEMMA = SHAPE | {
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def _config(family: str) -> Any:
    match family:
        case "qwen2":
            return transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True)
        case "qwen3":
            return transformers.Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False)
        case "llama":
            return transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False)
        case "llama3":
            return transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE)
        case "gemma3":
            return transformers.Gemma3TextConfig(**GEMMA, rope_parameters=GEMMA_ROPE)
    raise AssertionError(family)


def _tokenizer_files(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate([*alphabet, "<s>", "</s>"])}
    hf = HfTokenizer(models.BPE(vocab=vocab, merges=[]))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens(["<s>", "</s>"])
    hf.save(str(folder / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    values = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama", "llama3", "gemma3"])
def model(request: pytest.FixtureRequest) -> Any:
    """Random weights, large enough for every part (norms, biases, positions) to matter."""
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(
        _config(request.param), attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)  # about 1 for norms, 0 elsewhere
    return model


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(model.config.model_type)
    model.save_pretrained(path, max_shard_size="200KB")
    _tokenizer_files(path)
    assert len(list(path.glob("*.safetensors"))) > 1, "the sharded form is to be read"
    return path


def _logits(engine: Engine) -> torch.Tensor:
    """In one piece and, behind position 25, token by token; the two must agree."""
    with torch.inference_mode():
        whole = engine.model(IDS, engine.model.new_cache(2, 64), wanted=None)
        cache = engine.model.new_cache(2, 64)
        pieces = [engine.model(IDS[:, :25], cache, wanted=None)]
        pieces += [engine.model(IDS[:, at : at + 1], cache) for at in range(25, IDS.shape[1])]
    assert _relative_error(torch.cat(pieces, dim=1), whole) < BOUND
    return whole


def _relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_folder_as_transformers(model: Any, folder: Path) -> None:
    with torch.inference_mode():
        theirs = model(IDS).logits
    ours = _logits(Engine.load(folder, dtype="float32"))
    assert theirs.std() > 0.3, "logits that hardly vary would prove nothing"
    assert _relative_error(ours, theirs) < BOUND


def test_bf16_stays_near(model: Any, folder: Path) -> None:
    with torch.inference_mode():
        theirs = model(IDS).logits
        engine = Engine.load(folder, dtype="bfloat16")
        ours = engine.model(IDS, engine.model.new_cache(2, 64), wanted=None)
    assert ours.dtype == torch.bfloat16
    assert _relative_error(ours.float(), theirs) < 0.1


def test_older_config_keys_mean_the_same(model: Any, folder: Path, tmp_path: Path) -> None:
    """`rope_theta`, `rope_scaling` and `rope_local_base_freq` came before `rope_parameters`."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    values = json.loads((folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    full = rope.get("full_attention", rope)
    values["rope_theta"] = full["rope_theta"]
    values["rope_scaling"] = None if full["rope_type"] == "default" else full
    values["rope_local_base_freq"] = 10000.0
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_source(tmp_path).config == open_source(folder).config


def test_gguf_of_the_same_weights(model: Any, folder: Path, tmp_path: Path) -> None:
    """Names, llama.cpp's row order and rotary factors are undone: the logits are the folder's."""
    if model.config.model_type == "gemma3_text":
        with pytest.raises(ModelError, match="gemma3"):
            open_source(write_gguf(tmp_path / "gemma.gguf", model, architecture="gemma3"))
        return
    file = write_gguf(tmp_path / "model.gguf", model, architecture=model.config.model_type)
    assert (
        _relative_error(
            _logits(Engine.load(file, dtype="float32")), _logits(Engine.load(folder, dtype="float32"))
        )
        < 1e-5
    )


def test_folder_tokenizer_and_generation(folder: Path) -> None:
    engine = Engine.load(folder, dtype="float32", context_tokens=64)
    chat = engine.tokenizer.render_chat([{"role": "user", "content": "héllo"}])
    assert chat == "<s>héllo"
    ids = engine.tokenizer.encode(chat, special=True)
    assert len(ids) == 1 + len("héllo".encode())
    assert engine.tokenizer.eos_ids == {engine.tokenizer.hf.token_to_id("</s>")}
    done = engine.generate(ids, max_tokens=8)
    assert done.stop_reason in ("stop", "length")
    assert engine.tokenizer.decode(done.tokens) == done.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"num_attention_heads": 0}, "contradicts"),
        ({"hidden_size": "64"}, "contradicts"),
        ({"vocab_size": 261}, "does not fit"),
        ({"num_hidden_layers": 5}, "lacks the tensor"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    values = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=said) as caught:
        Engine.load(tmp_path, dtype="float32")
    assert caught.value.next_step


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "*.safetensors"])
def test_an_incomplete_folder_is_an_error(folder: Path, tmp_path: Path, missing: str) -> None:
    left_out = set(folder.glob(missing))
    for file in set(folder.iterdir()) - left_out:
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ModelError) as caught:
        Engine.load(tmp_path)
    assert caught.value.next_step


def test_a_truncated_shard_is_an_error(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    shard = min(tmp_path.glob("*.safetensors"))
    kept = shard.read_bytes()[:-1000]
    shard.unlink()
    shard.write_bytes(kept)
    with pytest.raises(ModelError, match=r"cannot be read") as caught:
        Engine.load(tmp_path)
    assert caught.value.next_step
