"""The first request on a machine without weights: offer to fetch them, with a progress bar.

Only at a terminal, and only after a yes: half a gigabyte is not fetched behind anybody's back. A script
gets the exact command instead. The daemon never fetches anything.
"""

from __future__ import annotations

from llmos import paths
from llmos.console.consent import Asker
from llmos.console.interrupts import Interrupts
from llmos.console.words import told, tr
from llmos.errors import ModelError


def nothing_here() -> bool:
    """A quick look: the store is empty. (A model may still be configured that lies elsewhere.)"""
    return not any(paths.models_dir().glob("*.gguf"))


def fetch_missing(asker: Asker | None, interrupts: Interrupts) -> bool:
    """Offer to fetch the configured model if it is not here; True when it has been fetched.

    Raises ModelError (exit 5, with the command that fetches it) when nobody can be asked or the answer
    is no.
    """
    from llmos.engine import store

    name = store.current()
    try:
        store.resolve(name)
        return False
    except ModelError as absent:
        card = next((card for card in store.catalogue() if card.name == name), None)
        if card is None or asker is None:
            raise
        offer = tr("Fetch it now ({size} MB, {license})?")
        size = f"{card.num_bytes / 1e6:.0f}"
        question = f"{told(str(absent))}. {offer.format(size=size, license=card.license)}"
        if not asker.confirm(question, interrupts):
            raise
    from llmos import model_cli

    with interrupts.paused():
        code = model_cli.run(["pull", name])
    if code != 0:
        raise ModelError(f"the model {name!r} could not be fetched", f"Try again: llmos model pull {name}")
    return True
