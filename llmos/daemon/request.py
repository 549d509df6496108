"""What a client sent, made fit to work with: the text, the folder, the piped data. Refusals say why.

Pure but for looking at the folder. Text that can show a person something else than what it says
(bidirectional overrides, invisible tag characters) is refused rather than cleaned: what was meant is
then the person's to say. Piped data is data: it is never cleaned and never read as a request.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from llmos.errors import UsageError
from llmos.guard import places
from llmos.guard.caller import as_caller
from llmos.messages import Ask, Caller, Consent, Pin, Route, ToolCall, new_id
from llmos.toolbox import glance

MAX_DATA_BYTES = 8 << 20
HEAD_LINES = 20
HEAD_CHARS = 2000
MAX_ENTRIES = 40
MAX_SCANNED = 5000  # of a folder of millions, some names do
MAX_ENTRY_CHARS = 80

# Unicode 16 section 23.2: embeddings, overrides and isolates. The plain marks (LRM, RLM, ALM) only
# place neutral characters, and honest Arabic and Hebrew text has them.
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_TAGS = range(0xE0000, 0xE0080)  # invisible copies of ASCII: a way to hide instructions in a text


@dataclass(frozen=True, slots=True)
class Job:
    """One request, checked. `calls` is set for typed calls (no model), else `text` has the words."""

    id: str
    caller: Caller
    cwd: str
    home: str
    text: str
    calls: tuple[ToolCall, ...]
    plan_only: bool
    consent: Consent
    data: bytes | None
    write_roots: tuple[str, ...]
    session: str
    pins: tuple[Pin, ...] = ()  # of `calls`: they run only while these hold
    rules: str = ""  # of this request alone: the text of a policy file, or the name of a shipped set
    route: Route = "auto"
    backend: str = ""  # the one cloud backend to ask
    # What the planner and the courier know it by: `id` is its user's own, and another's may be the same.
    thought_id: str = field(default_factory=new_id)

    @property
    def unattended(self) -> bool:
        """Nobody is there to look at what it does; the policy may be stricter then."""
        return self.consent == "none"


def check(ask: Ask, caller: Caller, max_chars: int, calls: tuple[ToolCall, ...] = ()) -> Job:
    """Check all that came with a request; looks at the folder, so it may block. Raises UsageError."""
    cwd = check_folder(ask.cwd, caller)
    return Job(
        id=ask.id,
        caller=caller,
        cwd=cwd,
        home=places.home_of(caller.uid),
        text=ask.text if calls else clean_text(ask.text, max_chars),
        calls=calls,
        plan_only=ask.mode == "plan",
        consent=ask.consent,
        data=decode_data(ask.data_b64),
        write_roots=check_write_roots(ask.write, cwd),
        session=ask.session,
        rules=ask.policy,
        route=ask.route,
        backend=ask.backend,
    )


def undo_job(caller: Caller, request_id: str, consent: Consent, *, plan_only: bool) -> Job:
    """The request to take a change back: it brings neither words nor a folder of its own."""
    return Job(
        id=request_id,
        caller=caller,
        cwd="/",
        home=places.home_of(caller.uid),
        text="undo",
        calls=(),
        plan_only=plan_only,
        consent=consent,
        data=None,
        write_roots=(),
        session="",
    )


def clean_text(text: str, max_chars: int) -> str:
    """The request's text, normalised; raises UsageError naming what is wrong and where."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()
    if not text:
        raise UsageError("the request is empty", 'Say what you want done, for instance: llmos "free space?"')
    if len(text) > max_chars:
        raise UsageError(
            f"the request has {len(text)} characters; at most {max_chars} are read",
            "Say it in fewer words, and pipe long material in as data: cat FILE | llmos '…'",
        )
    for position, char in enumerate(text, start=1):
        if reason := _refused(char):
            raise UsageError(
                f"the request has {reason} (U+{ord(char):04X}) at character {position}",
                "Type the request again without it; binary material can be piped in as data.",
            )
    return text


def _refused(char: str) -> str:
    if char in "\n\t":
        return ""
    if char in _BIDI:
        return "a bidirectional control, which can show it in another order than it is read,"
    if ord(char) in _TAGS:
        return "an invisible tag character"
    category = unicodedata.category(char)
    return {"Cc": "a control character", "Cs": "half a character (a lone surrogate)"}.get(category, "")


def decode_data(data_b64: str | None) -> bytes | None:
    """The piped data; raises UsageError when it is not base64 or too much."""
    if data_b64 is None:
        return None
    if len(data_b64) > MAX_DATA_BYTES * 4 // 3 + 4:
        raise UsageError(
            f"more than {MAX_DATA_BYTES >> 20} MiB of data were piped in",
            "Name the file in the request instead.",
        )
    try:
        return base64.b64decode(data_b64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"`data_b64` is not base64: {error}", "Encode the data as in RFC 4648.") from error


def data_head(data: bytes | None) -> str | None:
    """The first lines, for the planner to see what kind of data it is; control characters become `·`."""
    if data is None:
        return None
    text = data[: HEAD_CHARS * 4].decode("utf-8", "replace")[:HEAD_CHARS]
    lines = "".join(char if not _refused(char) else "·" for char in text).splitlines()
    return "\n".join(lines[:HEAD_LINES])


def check_folder(cwd: str, caller: Caller) -> str:
    """The request's folder, absolute and existing for the caller; raises UsageError."""
    if "\0" in cwd or not Path(cwd).is_absolute():
        raise UsageError(f"the folder {cwd!r} is not absolute", "Give `cwd` from the root: /….")
    with as_caller(caller):
        if not places.is_folder(cwd):
            raise UsageError(f"there is no folder {cwd}", "Change to a folder that exists and ask again.")
        return os.path.realpath(cwd)


def check_write_roots(roots: tuple[str, ...], cwd: str) -> tuple[str, ...]:
    """Paths a person opened for writing; raises UsageError for one that no path can be."""
    for root in roots:
        if "\0" in root or not root:
            raise UsageError(f"the write root {root!r} is not a path", "Give an existing path.")
    return tuple(os.path.normpath(Path(cwd, root)) for root in roots)


def entries(cwd: str, caller: Caller) -> tuple[str, ...]:
    """Some names in the folder, newest first, for the model to copy. Names that could lie are left out."""
    try:
        with as_caller(caller), os.scandir(cwd) as found:
            some = islice(found, MAX_SCANNED)
            names = [(_mtime(entry), entry.name) for entry in some if _is_plain(entry.name)]
    except OSError:
        return ()
    return tuple(name for _, name in sorted(names, reverse=True)[:MAX_ENTRIES])


def heads(text: str, cwd: str, names: tuple[str, ...], caller: Caller) -> tuple[str, ...]:
    """Columns and keys of those of these files that the text speaks of, and what is in the folders, as the
    caller may read them.
    """
    files = [(name, Path(cwd, name)) for name in glance.named(text, names)]
    found = [glance.head(name, _beginning(file, caller)) for name, file in files]
    inside = ((name, entries(str(Path(cwd, name)), caller)) for name in glance.folders(text, names))
    below = (glance.contents(name, there) for name, there in inside if there)
    return tuple(filter(None, (*found, *islice(below, glance.MOST_FILES))))


def _beginning(file: Path, caller: Caller) -> bytes:
    """Of a regular file; nothing where it cannot be read.

    What it is, is looked at before it is opened: a terminal that is opened can become the daemon's own, and a
    pipe would be waited for.
    """
    try:
        with as_caller(caller):
            place = os.open(file, os.O_PATH | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(place).st_mode):
                    return b""
                fd = os.open(
                    f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                )
            finally:
                os.close(place)
        with io.FileIO(fd) as opened:
            return opened.read(glance.HEAD_BYTES)
    except OSError:
        return b""


def _is_plain(name: str) -> bool:
    return len(name) <= MAX_ENTRY_CHARS and not any(char in "\n\t" or _refused(char) for char in name)


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
