"""What a person and a client are told of changes: one entry each, a diff for text, and the totals.

Files are read through descriptors of the folders they lie in, links are not followed, and everything is
bounded: entries, the size of what is compared, lines and bytes of a diff. What is not shown is counted.
Names and text are passed on as they are; making them harmless for a terminal is the console's.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmos.guard.changes import Change, Folder, Found
from llmos.guard.dirfd import open_beneath, open_whole
from llmos.guard.nodes import Node
from llmos.guard.staging import Root, Stage
from llmos.messages import JsonObject

MAX_ITEMS = 200
MAX_TEXT_BYTES = 128 << 10  # of a file whose text is compared
MAX_TEXT_LINES = 3000
MAX_DIFF_LINES = 120
MAX_DIFF_BYTES = 64 << 10  # of all diffs together
_KINDS = {"file": "file", "dir": "folder", "link": "link", "other": "special file"}

Reader = Callable[[int, Change], bytes | None]  # number and change: its text's bytes, None when not shown


@dataclass(frozen=True, slots=True)
class Sources:
    """How the old and the new content of a change can be read."""

    old: Reader
    new: Reader


def of_stage(stage: Stage, found: Found) -> JsonObject:
    """The changes of a rehearsal that is not committed yet."""
    with contextlib.ExitStack() as held:
        lowers = [opened(held, root.folder) for root in stage.roots]
        uppers = [opened(held, str(stage.upper(number))) for number in range(len(stage.roots))]
        sources = Sources(
            lambda _, change: text_bytes(lowers[change.root], change.path, change.before),
            lambda _, change: text_bytes(uppers[change.root], change.path, change.after),
        )
        folders = list(found.attribute_changes())
        told = summary(stage.roots, list(enumerate(found.changes)), folders, sources)
    left_out = [{"path": path, "reason": why} for path, why in found.left_out[:MAX_ITEMS]]
    return {**told, "left_out": left_out}


def nothing() -> JsonObject:
    """What is told where nothing was changed."""
    return {**_totals([], 0), "items": [], "more": 0, "left_out": []}


def summary(
    roots: tuple[Root, ...], changes: list[tuple[int, Change]], folders: list[Folder], sources: Sources
) -> JsonObject:
    """Totals and entries. A folder that is deleted or made whole is one entry with a count."""
    renamed = dict(_renames([change for _, change in changes]))
    items: list[JsonObject] = []
    hidden = 0
    budget = MAX_DIFF_BYTES
    for number, change, inside in _grouped(changes):
        if change in renamed.values():
            continue
        if len(items) >= MAX_ITEMS:
            hidden += 1
            continue
        item = _item(roots, change, inside, renamed.get(change))
        if budget > 0 and (diff := _diff(number, change, sources, renamed)):
            budget -= len(diff)
            item["diff"] = diff
        items.append(item)
    items += [_folder_item(roots, folder) for folder in folders[: max(0, MAX_ITEMS - len(items))]]
    return {**_totals([change for _, change in changes], len(renamed)), "items": items, "more": hidden}


def _totals(changes: list[Change], renamed: int) -> JsonObject:
    def count(*hows: str) -> int:
        return sum(change.how in hows for change in changes)

    return {
        "created": count("create") - renamed,
        "modified": count("replace", "write", "attributes"),
        "deleted": count("delete") - renamed,
        "renamed": renamed,
        "bytes_before": sum(change.before.size for change in changes if change.before.kind == "file"),
        "bytes_after": sum(change.after.size for change in changes if change.after.kind == "file"),
    }


# --- entries -----------------------------------------------------------------------------------------


def _grouped(changes: list[tuple[int, Change]]) -> Iterator[tuple[int, Change, list[Change]]]:
    """Each change with what goes or comes along inside it; those inside are no entries of their own."""
    tops: dict[tuple[int, str, str], list[Change]] = {}
    for _, change in changes:
        if change.how == "delete" and change.before.kind == "dir":
            tops[change.root, "delete", change.path] = []
    kept = []
    for number, change in changes:
        top = _top(change, tops)
        if top is None:
            kept.append((number, change))
        else:
            tops[top].append(change)
    for number, change in sorted(kept, key=lambda pair: (pair[1].root, pair[1].path)):
        yield number, change, tops.get((change.root, change.how, change.path), [])


def _top(change: Change, tops: dict[tuple[int, str, str], list[Change]]) -> tuple[int, str, str] | None:
    """The outermost folder that is deleted with this inside."""
    found = None
    path = os.path.dirname(change.path)
    while path and change.how == "delete":
        if (key := (change.root, "delete", path)) in tops:
            found = key
        path = os.path.dirname(path)
    return found


def _item(roots: tuple[Root, ...], change: Change, inside: list[Change], moved: Change | None) -> JsonObject:
    node = change.before if change.how == "delete" else change.after
    word = {"create": "created", "delete": "deleted", "attributes": "attributes"}.get(change.how, "modified")
    item: JsonObject = {
        "change": "renamed" if moved else word,
        "kind": _KINDS.get(node.kind, "file"),
        "path": shown(roots, change.root, change.path),
    }
    if moved:
        item["from"] = shown(roots, moved.root, moved.path)
    if inside:
        item["entries"] = len(inside)
    if change.before.kind == "file" or inside:
        item["bytes_before"] = sum(one.before.size for one in (change, *inside) if one.before.kind == "file")
    if change.after.kind == "file":
        item["bytes_after"] = change.after.size
    if node.kind == "link":
        item["target"] = node.target
    if "absent" not in (change.before.kind, change.after.kind):
        item |= _attributes(change.before, change.after)
    return item


def _attributes(before: Node, after: Node) -> JsonObject:
    """What differs beside the content."""
    found: JsonObject = {}
    if before.mode != after.mode and "link" not in (before.kind, after.kind):
        found |= {"mode_before": f"{before.mode:04o}", "mode_after": f"{after.mode:04o}"}
    if (before.uid, before.gid) != (after.uid, after.gid):
        found |= {"owner_before": f"{before.uid}:{before.gid}", "owner_after": f"{after.uid}:{after.gid}"}
    if before.xattrs != after.xattrs:
        names = sorted({name for name, _ in {*before.xattrs} ^ {*after.xattrs}})
        found["xattrs"] = names
    if before.kind != after.kind:
        found["kind_before"] = _KINDS.get(before.kind, "file")
    return found


def _folder_item(roots: tuple[Root, ...], folder: Folder) -> JsonObject:
    path = shown(roots, folder.root, folder.path)
    return {
        "change": "attributes",
        "kind": "folder",
        "path": path,
        **_attributes(folder.before, folder.after),
    }


def shown(roots: tuple[Root, ...], root: int, path: str) -> str:
    return os.path.join(roots[root].folder, path) if path else roots[root].folder


def _renames(changes: list[Change]) -> Iterator[tuple[Change, Change]]:
    """Files that went and came again under another name: same size, time, mode and owner tell enough."""
    gone: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        if change.how == "delete" and change.before.kind in ("file", "link"):
            gone.setdefault(_likeness(change.before), []).append(change)
    for change in changes:
        if change.how == "create" and (same := gone.get(_likeness(change.after))):
            yield change, same.pop()


def _likeness(node: Node) -> tuple[object, ...]:
    return node.kind, node.size, node.mtime_ns, node.mode, node.uid, node.gid, node.target


# --- text --------------------------------------------------------------------------------------------


def opened(held: contextlib.ExitStack, folder: str) -> int:
    fd = open_whole(folder)
    held.callback(os.close, fd)
    return fd


def text_bytes(folder_fd: int, path: str, node: Node) -> bytes | None:
    if node.kind == "absent":
        return b""
    if node.kind != "file" or node.size > MAX_TEXT_BYTES:
        return None
    try:
        fd = open_beneath(folder_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    return read_text_fd(fd)


def read_text_fd(fd: int) -> bytes | None:
    """The bytes of a file that is text and not long, and close it."""
    try:
        data = os.pread(fd, MAX_TEXT_BYTES + 1, 0)
    finally:
        os.close(fd)
    return None if len(data) > MAX_TEXT_BYTES or b"\0" in data else data


def _diff(number: int, change: Change, sources: Sources, renamed: dict[Change, Change]) -> str:
    """A unified diff of what is text before and after; empty where there is nothing to see."""
    if change.how not in ("create", "replace", "write") or change in renamed:
        return ""
    if "file" not in (change.before.kind, change.after.kind) or change.after.kind != "file":
        return ""
    if (old := sources.old(number, change)) is None or (new := sources.new(number, change)) is None:
        return ""
    return unified(old, new)


def unified(old: bytes, new: bytes) -> str:
    """Like `diff -u` without its head: hunks alone, cut to a bound and saying so."""
    before, after = (data.decode("utf-8", "surrogateescape").split("\n") for data in (old, new))
    if max(len(before), len(after)) > MAX_TEXT_LINES:
        return ""
    lines = list(difflib.unified_diff(_ended(before), _ended(after), n=3, lineterm=""))[2:]
    if len(lines) > MAX_DIFF_LINES:
        lines = [*lines[:MAX_DIFF_LINES], f"… {len(lines) - MAX_DIFF_LINES} more lines"]
    text = "\n".join(lines)
    return text if len(text) <= MAX_DIFF_BYTES // 2 else text[: MAX_DIFF_BYTES // 2] + "\n… cut"


def _ended(lines: list[str]) -> list[str]:
    """Lines without the empty one after the last newline; a last line that has none says so."""
    if lines and lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], lines[-1] + "\n\\ No newline at end of file"] if lines else lines


def paths_of(roots: tuple[Root, ...], found: Found) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(written, deleted) paths, for the policy to judge what was really done."""
    deletes = [change for change in found.changes if change.how == "delete"]
    writes: list[Change | Folder] = [
        *(change for change in found.changes if change.how != "delete"),
        *found.attribute_changes(),
    ]
    return (
        tuple(dict.fromkeys(shown(roots, one.root, one.path) for one in writes)),
        tuple(dict.fromkeys(shown(roots, one.root, one.path) for one in deletes)),
    )
