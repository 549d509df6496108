"""Text of the user's own as training data: files found and read, cleaned, parted, and cut into blocks.

Documents are UTF-8 text; what holds a zero byte is no text and is left out, and counted. The same text twice
is read once. Which documents are kept aside to judge by is decided by their hashes, not by names or order.
The tokenizer is byte-level BPE (Sennrich et al. 2016; GPT-2's byte alphabet) by the `tokenizers`
library, trained on the training part alone.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llmos.errors import UsageError
from llmos.tune.chats import Sample
from llmos.tune.vaswani import Pair

END, START_TURN, END_TURN, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
_MARKS = (PAD, END, START_TURN, END_TURN)  # 0 pads
_MAX_FILE_BYTES = 1 << 28
_SHORTEST = 32  # characters of a part that is worth being a document of its own


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts, and of an encoder-decoder's pairs both sides, joined by no mark."""

    train: tuple[tuple[str, ...], ...]
    valid: tuple[tuple[str, ...], ...]
    left_out: int = 0

    @property
    def valid_bytes(self) -> int:
        return sum(len(document[-1].encode()) for document in self.valid)


def read_texts(places: Sequence[Path], *, valid_share: float = 0.05) -> Corpus:
    """Files, and every file below folders. Raises UsageError where nothing readable is found."""
    left_out, seen = 0, {}
    for file in _files(places):
        if (text := _text(file)) is None:
            left_out += 1
        elif text:
            seen[_digest(text)] = text
    parts = list(seen.values())
    if len(parts) < 2:  # one long file is still enough to be judged by
        parts = [part for text in parts for part in _parts(text)]
    return _parted([(part,) for part in parts], valid_share, left_out)


def read_pairs(file: Path, *, valid_share: float = 0.05) -> Corpus:
    """JSON lines {"source", "target"}, or two columns with a tab between. Raises UsageError with the line."""
    pairs: dict[str, tuple[str, str]] = {}
    for number, line in enumerate((_text(file) or "").splitlines(), 1):
        if not line.strip():
            continue
        try:
            if line.startswith("{"):
                found = json.loads(line)
                source, target = str(found["source"]), str(found["target"])
            else:
                source, target = line.split("\t")
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"{file}, line {number}, is no pair: {error}",
                'Give {"source": "…", "target": "…"} a line, or two columns with a tab between.',
            ) from None
        pairs[_digest(f"{source}\0{target}")] = source, target
    return _parted(list(pairs.values()), valid_share, 0)


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            for top, folders, names in os.walk(place):
                folders.sort()
                yield from (Path(top, name) for name in sorted(names) if Path(top, name).is_file())
        elif place.is_file():
            yield place
        else:
            raise UsageError(f"there is no text at {place}", "Name files of text, or folders of them.")


def _text(file: Path) -> str | None:
    """None for what is no text, or more of it than fits."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            data = opened.read(_MAX_FILE_BYTES + 1)
    except (OSError, EOFError):
        return None
    if b"\0" in data or len(data) > _MAX_FILE_BYTES:
        return None
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n").strip()


def _parts(text: str) -> Iterator[str]:
    """Paragraphs, short ones with what follows them."""
    held = ""
    for part in text.split("\n\n" if "\n\n" in text else "\n"):
        held = f"{held}\n\n{part}" if held else part
        if len(held) >= _SHORTEST:
            yield held
            held = ""
    if held:
        yield held


def _parted(documents: Sequence[tuple[str, ...]], share: float, left_out: int) -> Corpus:
    if len(documents) < 2:
        raise UsageError(
            "there is too little text: at least two documents or paragraphs are needed",
            "Name more files or folders of UTF-8 text.",
        )
    ordered = sorted(documents, key=lambda document: _digest("\0".join(document)))
    held = max(1, round(len(ordered) * share))
    return Corpus(tuple(ordered[held:]), tuple(ordered[:held]), left_out)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


# --- tokens ----------------------------------------------------------------------------------------


def train_tokenizer(corpus: Corpus, vocab_size: int) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((side for document in corpus.train for side in document), trainer)
    made.encode_special_tokens = True  # a text that spells a mark does not end itself
    return made


def mark_id(tokenizer: Tokenizer, mark: str) -> int:
    found = tokenizer.token_to_id(mark)
    assert found is not None, "train_tokenizer gives every mark a place"
    return found


def blocks(documents: Sequence[tuple[str, ...]], tokenizer: Tokenizer, length: int, end: int) -> list[Sample]:
    """All documents one after another, each with the end mark behind it, in blocks of `length` tokens."""
    encoded = tokenizer.encode_batch([document[0] for document in documents])
    stream = np.concatenate([np.array([*one.ids, end], np.int32) for one in encoded])
    cut = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [_sample(ids) for ids in cut if len(ids) > 1]


def _sample(ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Sample:
    learnt = np.arange(len(ids)) > 0
    return Sample(ids, learnt, np.zeros(len(ids), np.int32))


def pairs(documents: Sequence[tuple[str, ...]], tokenizer: Tokenizer, longest: int, end: int) -> list[Pair]:
    """Both sides with the end mark behind them; a target starts with it too. Longer ones are cut."""
    made = []
    for source, target in documents:
        ids = np.array([end, *tokenizer.encode(target).ids[: longest - 2], end], np.int32)
        learnt = np.arange(len(ids)) > 0
        sides = np.array([*tokenizer.encode(source).ids[: longest - 1], end], np.int32)
        made.append(Pair(sides, ids, learnt, np.zeros(len(ids), np.int32)))
    return made
