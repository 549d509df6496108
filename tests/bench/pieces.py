"""How often a fact in the middle of a long text is found: `python -m tests.bench.pieces [--facts N]`.

A text of several windows (the GNU licences of this machine, or --text FILE) gets one sentence about something
else at a place of its own; the question shares hardly a word with it, so looking for words does not do.
The default model reads the text in pieces, as `daemon.pieces` has it for requests that may not leave.

    quoted     the sentence is among the places that are shown
    answered   and the answer has the fact in it
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from pathlib import Path

from llmos.daemon import pieces
from llmos.engine import store
from llmos.engine.engine import Engine
from llmos.explain import quoting
from llmos.messages import Think, Thought
from llmos.planner.loop import Loop
from tests.bench.report import report

LICENCES = [Path("/usr/share/common-licenses", name) for name in ("GPL-3", "LGPL-3")]
# (sentence, question, what an answer must have)
FACTS = (
    ("The vault is opened with the code 7319, which Marta keeps.", "Which number unlocks the safe?", "7319"),
    ("Dr. Okafor was named head of the laboratory.", "Who leads the lab?", "Okafor"),
    ("The insurance runs out on 14 March 2031.", "When does our cover expire?", "14 March"),
    ("The new boiler cost 18,400 euros.", "How much did they pay for the heating?", "18,400"),
    ("The northern pumps stopped because a valve froze.", "Why did the water supply break down?", "froze"),
    ("Anna Lindqvist signed for the shipyard.", "Who put their name to it for the yard?", "Lindqvist"),
    ("The archive moved to Tampere in 1987.", "Where are the old records kept now?", "Tampere"),
    ("The night train leaves from platform 9.", "Where do I board the sleeper?", "9"),
    ("Children under six see the play for nothing.", "Do toddlers pay at the theatre?", "nothing"),
    ("Our dog is called Pixel.", "What is the name of their pet?", "Pixel"),
)


def planted(text: str, sentence: str, share: float) -> str:
    """The text with the sentence in a line of its own, `share` of the way down."""
    lines = text.splitlines()
    at = round(share * len(lines))
    return "\n".join([*lines[:at], sentence, *lines[at:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--facts", type=int, default=len(FACTS))
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    text = "".join(file.read_text() for file in ([options.text] if options.text else LICENCES))
    engine = Engine.load(store.resolve(options.model), dtype="auto", context_tokens=4096)
    loop = Loop(engine, context_tokens=4096)

    async def read(think: Think) -> Thought:
        return loop.think(think, cancel=threading.Event(), on_text=lambda text: None)

    rows = []
    for number, (sentence, question, key) in enumerate(FACTS[: options.facts]):
        share = 0.3 + 0.4 * number / len(FACTS)
        whole, began, cpu = planted(text, sentence, share), time.perf_counter(), time.process_time()
        said = asyncio.run(pieces.Pieces("bench", whole, read, lambda detail: None).answer(question))
        answer, _, places = said.partition("\n")
        rows.append(
            {
                "question": question,
                "at": f"{share:.0%}",
                "by words": any(key in line for _, line in quoting.lines(question, whole).lines),
                "quoted": sentence in places or key in places,
                "answered": key in answer,
                "cpu s": round(time.process_time() - cpu),
                "s": round(time.perf_counter() - began),
            }
        )
        print(f"{question} -> {answer} {rows[-1]}", flush=True)
    windows = len(engine.tokenizer.encode(text)) / 4096
    report(
        "pieces",
        rows,
        {
            "windows of 4096": round(windows, 1),
            **{
                name: f"{sum(bool(row[name]) for row in rows)}/{len(rows)}"
                for name in ("by words", "quoted", "answered")
            },
        },
    )


if __name__ == "__main__":
    main()
