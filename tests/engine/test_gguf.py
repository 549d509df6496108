"""GGUF files: read as the `gguf` library reads them, unpacked as ggml specifies, refused when broken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.engine import gguf_format
from llmos.engine.dequantize import SUPPORTED, dequantize
from llmos.engine.engine import Engine
from llmos.engine.weights import open_source
from llmos.errors import ModelError
from tests.engine.tiny_gguf import write_gguf

Block = np.ndarray
Values = list[float]


def _half(block: Block, at: int) -> float:
    return float(block[at : at + 2].view(np.float16)[0])


def _nibbles(packed: Block) -> list[int]:
    """Low halves first, then high halves."""
    return [int(byte) & 15 for byte in packed] + [int(byte) >> 4 for byte in packed]


def _bits(packed: Block) -> list[int]:
    return [int(packed[n // 8]) >> n % 8 & 1 for n in range(8 * len(packed))]


def _q8_0(block: Block) -> Values:
    return [_half(block, 0) * int(q) for q in block[2:].view(np.int8)]


def _q4_0(block: Block) -> Values:
    return [_half(block, 0) * (q - 8) for q in _nibbles(block[2:])]


def _q4_1(block: Block) -> Values:
    return [_half(block, 0) * q + _half(block, 2) for q in _nibbles(block[4:])]


def _fives(high: Block, low: Block) -> list[int]:
    return [q | bit << 4 for q, bit in zip(_nibbles(low), _bits(high), strict=True)]


def _q5_0(block: Block) -> Values:
    return [_half(block, 0) * (q - 16) for q in _fives(block[2:6], block[6:])]


def _q5_1(block: Block) -> Values:
    return [_half(block, 0) * q + _half(block, 2) for q in _fives(block[4:8], block[8:])]


def _scale_and_min(packed: Block, j: int) -> tuple[int, int]:
    """ggml-quants.c, get_scale_min_k4: eight pairs of 6 bits in 12 bytes."""
    q = [int(byte) for byte in packed]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return q[j + 4] & 15 | q[j - 4] >> 6 << 4, q[j + 4] >> 4 | q[j] >> 6 << 4


def _super_block(block: Block, quants: list[int]) -> Values:
    """Q4_K and Q5_K: eight runs of 32, each with its scale and minimum."""
    values = []
    for j in range(8):
        scale, minimum = _scale_and_min(block[4:16], j)
        run = quants[32 * j : 32 * j + 32]
        values += [_half(block, 0) * scale * q - _half(block, 2) * minimum for q in run]
    return values


def _k_nibbles(packed: Block) -> list[int]:
    return [q for start in range(0, 128, 32) for q in _nibbles(packed[start : start + 32])]


def _q4_k(block: Block) -> Values:
    return _super_block(block, _k_nibbles(block[16:]))


def _q5_k(block: Block) -> Values:
    high = [int(block[16 + l]) >> j & 1 for j in range(8) for l in range(32)]  # noqa: E741 - ggml's name
    return _super_block(block, [q | bit << 4 for q, bit in zip(_k_nibbles(block[48:]), high, strict=True)])


def _q6_k(block: Block) -> Values:
    low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
    values = []
    for n in range(256):
        half, quarter, l = n // 128, n % 128 // 32, n % 32  # noqa: E741
        nibble = int(low[64 * half + 32 * (quarter % 2) + l]) >> 4 * (quarter // 2) & 15
        q = nibble | (int(high[32 * half + l]) >> 2 * quarter & 3) << 4
        values.append(_half(block, 208) * int(scales[n // 16]) * (q - 32))
    return values


# kind: (the specification in plain Python, where its half-precision scales stand)
SPECIFIED: dict[str, tuple[Callable[[Block], Values], tuple[int, ...]]] = {
    "Q8_0": (_q8_0, (0,)),
    "Q4_0": (_q4_0, (0,)),
    "Q4_1": (_q4_1, (0, 2)),
    "Q5_0": (_q5_0, (0,)),
    "Q5_1": (_q5_1, (0, 2)),
    "Q4_K": (_q4_k, (0, 2)),
    "Q5_K": (_q5_k, (0, 2)),
    "Q6_K": (_q6_k, (208,)),
}


def _random_blocks(kind: gguf.GGMLQuantizationType, count: int, scales: tuple[int, ...]) -> Block:
    random = np.random.default_rng(5)
    blocks = random.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for at in scales:
        blocks[:, at : at + 2] = random.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    return blocks


def _written(file: Path, kind: gguf.GGMLQuantizationType, data: np.ndarray) -> gguf_format.GgufTensor:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("odd", np.ones(3, dtype=np.float32))  # so that the next one needs its alignment
    writer.add_tensor("t", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_format.read(file).tensors["t"]


@pytest.mark.parametrize("name", sorted(SPECIFIED))
def test_quantised_blocks_as_specified(tmp_path: Path, name: str) -> None:
    specified, scales = SPECIFIED[name]
    kind = gguf.GGMLQuantizationType[name]
    blocks = _random_blocks(kind, 24, scales)
    tensor = _written(tmp_path / "t.gguf", kind, blocks.reshape(6, -1))
    ours = dequantize(tensor, torch.float32)
    assert ours.shape == (6, 4 * gguf.GGML_QUANT_SIZES[kind][0])
    expected = torch.tensor([specified(block) for block in blocks]).view(ours.shape)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours, torch.from_numpy(gguf.quants.dequantize(blocks.reshape(6, -1), kind)))
    assert torch.equal(dequantize(tensor, torch.bfloat16), ours.bfloat16())


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_numbers(tmp_path: Path, name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    stored = values.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name])
    tensor = _written(tmp_path / "t.gguf", kind, stored.view(torch.uint8).numpy())
    assert torch.equal(dequantize(tensor, torch.float32), stored.float())


def test_every_supported_kind_is_tested() -> None:
    assert {*SPECIFIED, "F32", "F16", "BF16"} == SUPPORTED


def test_large_tensors_are_unpacked_in_slices(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(1500, 512)).astype(np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    tensor = _written(tmp_path / "t.gguf", gguf.GGMLQuantizationType.Q8_0, packed)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(dequantize(tensor, torch.float32), torch.from_numpy(expected))


@pytest.mark.weights
def test_header_as_the_library_reads_it(tiny_model: Path) -> None:
    ours, theirs = gguf_format.read(tiny_model), gguf.GGUFReader(tiny_model)
    meta = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.fields == meta
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert mine.kind == tensor.tensor_type
        assert np.array_equal(mine.data, np.asarray(tensor.data).view(np.uint8).reshape(-1))


# --- broken files: an error with a next step, never a traceback -----------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    config = transformers.Qwen2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=260,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    built = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return built, write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", built, architecture="qwen2")


def _refused(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Engine.load(file, dtype="float32")
    assert caught.value.next_step
    return str(caught.value)


def test_the_whole_file_is_read(model: tuple[Any, Path]) -> None:
    assert Engine.load(model[1], dtype="float32").generate([1, 2], max_tokens=2).prompt_tokens == 2


def test_truncation_anywhere_is_an_error(model: tuple[Any, Path], tmp_path: Path) -> None:
    whole = model[1].read_bytes()
    file = tmp_path / "cut.gguf"
    for length in [0, 1, 4, 23, *range(24, len(whole), len(whole) // 60), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert "cut.gguf" in _refused(file)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_an_error_or_a_model(model: tuple[Any, Path], tmp_path: Path, data: Any) -> None:
    whole = bytearray(model[1].read_bytes())
    header = whole.index(b"blk.0.ffn_down") + 200
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    file = tmp_path / "flipped.gguf"
    file.write_bytes(whole)
    try:
        engine = Engine.load(file, dtype="float32", context_tokens=16)
    except ModelError as error:
        assert error.next_step
    else:
        assert engine.context_tokens <= 16


def test_lengths_beyond_the_file_cost_nothing(tmp_path: Path) -> None:
    """A string, an array and a tensor count that claim 2**62 bytes."""
    start = b"GGUF" + (3).to_bytes(4, "little")
    huge = (1 << 62).to_bytes(8, "little")
    one, zero = (1).to_bytes(8, "little"), bytes(8)
    key = one + b"k"
    for body in (
        zero + huge,
        huge + zero,
        zero + one + huge,
        zero + one + key + (8).to_bytes(4, "little") + huge,
        zero + one + key + (9).to_bytes(4, "little") + (0).to_bytes(4, "little") + huge,
        zero + one + key + (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + huge,
        zero + one + key + (77).to_bytes(4, "little") + huge,
    ):
        (tmp_path / "huge.gguf").write_bytes(start + body)
        assert "not a readable GGUF" in _refused(tmp_path / "huge.gguf")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable GGUF"),
        (b"PK\x03\x04" + bytes(100), "first bytes"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(100), "version 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(100), "version"),
        (b"GGUF" + (3).to_bytes(4, "little") + bytes(100), "architecture"),
    ],
)
def test_what_is_no_model_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert said in _refused(tmp_path / "x.gguf")


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    assert "no model" in _refused(tmp_path / "none.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no model" in _refused(tmp_path / "pipe.gguf")


def test_an_unsupported_quantisation_is_named(model: tuple[Any, Path], tmp_path: Path) -> None:
    whole = model[1].read_bytes()
    # The entry of blk.0.ffn_down.weight: name, two dimensions, then its type, which becomes IQ4_NL (20).
    at = whole.index(b"blk.0.ffn_down.weight") + len(b"blk.0.ffn_down.weight") + 4 + 16
    (tmp_path / "iq.gguf").write_bytes(whole[:at] + (20).to_bytes(4, "little") + whole[at + 4 :])
    assert "IQ4_NL" in _refused(tmp_path / "iq.gguf")
    assert open_source(model[1]).names, "the original is still fine"
