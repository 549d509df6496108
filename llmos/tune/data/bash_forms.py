"""The usual command for calls that are a command and its arguments, by which arguments a call has."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

# A field is an argument as a word of the command; a flag's own words are in the form that has it.
_FORMS: dict[str, tuple[str, ...]] = {
    "file.mkdir": ("mkdir -p {path}",),
    "file.permissions": (
        "ls -ld {path}",
        "chmod {mode} {path}",
        "chmod -R {mode} {path} {recursive}",
        "chown {owner} {path}",
        "chown -R {owner}:{group} {path} {recursive}",
    ),
    "file.link": ("ln -s {target} {link}", "ln {target} {link} {hard}"),
    "file.checksum": ("sha256sum {path}", "{algorithm}sum {path}"),
    "file.duplicates": (
        "find . -type f -exec md5sum {{}} + | sort | uniq -w32 -D",
        "find {path} -type f -exec md5sum {{}} + | sort | uniq -w32 -D",
    ),
    "file.tree": ("tree", "tree -L {depth}", "tree {path}", "tree -L {depth} {path}"),
    "net.ping": ("ping -c 4 {host}", "ping -c {count} {host}"),
    "net.interfaces": ("ip addr", "ip addr show {name}"),
    "net.dns": ("dig +short {name}",),
    "net.connections": ("ss -tn",),
    "user.info": ("id", "id {name}"),
    "session.list": ("who",),
    "service.status": ("systemctl status {name}",),
    "service.failed": ("systemctl --failed",),
    "service.start": ("systemctl start {name}",),
    "service.stop": ("systemctl stop {name}",),
    "service.restart": ("systemctl restart {name}", "systemctl reload {name} {reload}"),
    "service.logs": ("journalctl -u {name}", "journalctl -u {name} -n {lines}"),
    "package.installed": ("dpkg -l | grep {name}",),
    "package.updates": ("apt list --upgradable",),
    "package.install": ("apt install {names}",),
    "docker.container.list": ("docker ps", "docker ps -a {all}"),
    "docker.container.logs": ("docker logs {name}", "docker logs --tail {lines} {name}"),
    "docker.container.stop": ("docker stop {name}",),
    "docker.container.start": ("docker start {name}",),
    "docker.container.restart": ("docker restart {name}",),
    "docker.image.list": ("docker images",),
    "resource.priority": ("renice -n {nice} -p {target}",),
    "process.holders": ("lsof {path}", "lsof -i :{port}"),
}
_PROGRAMS = {"blake2": "b2"}


class _Words(dict[str, str]):
    """Fills a form and knows which fields it asked for."""

    def __init__(self, args: dict[str, Any], word: Callable[[str], str]) -> None:
        super().__init__({name: _as_words(value, word) for name, value in args.items()})
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return super().__getitem__(name)


def command(tool: str, args: dict[str, Any], word: Callable[[str], str]) -> str | None:
    """The command whose form has exactly these arguments; None where there is none."""
    if tool == "text.compare" and args.keys() == {"a", "b"}:
        folders = not any("." in args[name] for name in ("a", "b"))
        return f"diff {'-r ' if folders else ''}{word(args['a'])} {word(args['b'])}"
    if tool == "file.rename":
        return _renamed(args)
    if tool == "docker.container.exec" and args.keys() == {"name", "command"}:
        return f"docker exec {word(args['name'])} {args['command']}"
    for form in _FORMS.get(tool, ()):
        words = _Words(args, word)
        try:
            line = form.format_map(words)
        except KeyError:
            continue
        if words.asked == args.keys():
            return line.strip()
    return None


def _as_words(value: Any, word: Callable[[str], str]) -> str:
    if isinstance(value, bool):
        return ""
    if isinstance(value, list):
        return " ".join(map(word, value))
    return word(_PROGRAMS.get(value, value)) if isinstance(value, str) else str(value)


def _renamed(args: dict[str, Any]) -> str | None:
    """A loop, where all that changes is the ending or what stands in front."""
    path, old, new = args["path"], args["find"], args["replace"]
    if args.keys() == {"path", "find", "replace"} and path == f"*{old}":
        return f'for f in {path}; do mv -- "$f" "${{f%{old}}}{new}"; done'
    if args.get("regex") and old == "^" and path.startswith("*.") and shlex.quote(new) == new:
        return f'for f in {path}; do mv -- "$f" "{new}$f"; done'
    return None
