"""The usual bash command for a typed call, so that every phrase of a tool also trains `translate`.

One way of many, the plain one: GNU tools, no needless options. A call whose command depends on more than
its arguments (what the machine "is") has none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from llmos.tune.data import bash_forms

Args = dict[str, Any]
_COUNTS = re.compile(
    r"\b(how many|count|number of|combien|cuántos|wie viele)\b|多少个|几个|有多少|几张", re.IGNORECASE
)
_TAR = {".tar.gz": "z", ".tgz": "z", ".tar.xz": "J", ".tar.bz2": "j", ".tar": ""}
_PLAIN = re.compile(r"[\w./~:=@%+,-]+")
_HAS_END = re.compile(r"\.[A-Za-z0-9]{1,7}$")


def command(calls: Sequence[dict[str, Any]], say: str) -> str | None:
    """The command line for all the calls, or None where there is no one good one."""
    parts = []
    for call in calls:
        part = (
            call["args"]["command"] if call["tool"] == "shell.run" else _one(call["tool"], call["args"], say)
        )
        if part is None:
            return None
        parts.append(part)
    if len(parts) > 1 and any(part.endswith("&") for part in parts):
        return None
    return " && ".join(parts)


def _one(tool: str, args: Args, say: str) -> str | None:
    make = _MAKERS.get(tool)
    return make(args, say) if make else bash_forms.command(tool, args, word)


def word(text: str) -> str:
    """A word of a command line; a pattern stays open to the shell, and so does ~."""
    if _PLAIN.fullmatch(text) or (re.fullmatch(r"[\w./~*?-]+", text) and "*" in text):
        return text
    if text.startswith("~/"):
        return "~/" + word(text[2:])
    return shlex.quote(text)


def quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text else shlex.quote(text)


def _folder(args: Args) -> str:
    return word(args.get("path", ".").rstrip("/") or "/")


def _listed(args: Args, say: str) -> str | None:
    path, sort, limit, kind = args.get("path"), args.get("sort", "name"), args.get("limit"), args.get("type")
    if _COUNTS.search(say):
        return f"ls {word(path)} | wc -l" if path and not limit else None
    if kind in ("file", "folder", "link"):
        base = f"find {_folder(args)} -mindepth 1 -maxdepth 1 -type {'d' if kind == 'folder' else kind[0]}"
        return base + _sorted(sort, limit)
    flags = {"name": "", "size": "lS", "newest": "lt", "oldest": "ltr"}[sort]
    if limit:
        flags = flags.replace("l", "")
    flags = ("a" if args.get("hidden") else "") + flags
    if path and path.endswith("/.*"):
        return f"ls -d {path}"
    line = "ls" + (f" -{flags}" if flags else "") + (f" {word(path)}" if path else "")
    return f"{line} | head -n {limit}" if limit else line


def _sorted(sort: str, limit: int | None) -> str:
    """What follows a `find` for an order and a number."""
    key = {"size": "%s", "newest": "%T@", "oldest": "%T@"}.get(sort)
    order = f" -printf '{key} %p\\n' | sort -{'n' if sort == 'oldest' else 'rn'}" if key else ""
    head = f" | head -n {limit}" if limit else ""
    return order + head + (" | cut -d' ' -f2-" if key else "")


def _age(flag: str, text: str) -> str:
    number, unit = float(text[:-1]), text[-1]
    if unit in "dwy":
        return f" -mtime {flag}{number * {'d': 1, 'w': 7, 'y': 365}[unit]:.0f}"
    return f" -mmin {flag}{max(1, number * {'h': 60, 'm': 1, 's': 1 / 60}[unit]):.0f}"


def _bytes(flag: str, text: str) -> str:
    unit = {"K": "k", "M": "M", "G": "G", "B": "c"}.get(text[-1], "c")
    digits = text.rstrip("BKMGT")
    if text[-1] == "T":
        digits, unit = str(int(float(digits) * 1024)), "G"
    if "." in digits:
        digits, unit = f"{float(digits) * 1024:.0f}", {"k": "c", "M": "k", "G": "M"}[unit]
    return f" -size {flag}{digits}{unit}"


def _find(args: Args, say: str) -> str | None:
    path, name = _folder(args), args.get("name")
    if text := args.get("contains"):
        include = f" --include={shlex.quote(name)}" if name else ""
        return f"grep -rl{include} {quoted(text)} {path}"
    line = f"find {path}"
    kind = args.get("type") or ("file" if name and "larger_than" in args else "")
    line += {"file": " -type f", "folder": " -type d", "link": " -type l"}.get(kind, "")
    line += f" -name {shlex.quote(name)}" if name else ""
    if args.get("smaller_than") == "1B":
        line += " -empty"
    elif "smaller_than" in args:
        line += _bytes("-", args["smaller_than"])
    line += _bytes("+", args["larger_than"]) if "larger_than" in args else ""
    line += _age("-", args["newer_than"]) if "newer_than" in args else ""
    line += _age("+", args["older_than"]) if "older_than" in args else ""
    if _COUNTS.search(say) and "limit" not in args:
        return f"{line} | wc -l"
    return line + _sorted(args.get("sort", "name"), args.get("limit"))


def _read(args: Args, say: str) -> str | None:
    path = f" {word(args['path'])}" if "path" in args else ""
    first, last = args.get("first"), args.get("last")
    if first and last:
        return f"sed -n '{first}p'{path}" if first == last else f"sed -n '{first},{last}p'{path}"
    if last:
        return f"tail -n {last}{path}"
    return f"head -n {first}{path}" if first else f"cat{path}"


def _write(args: Args, say: str) -> str | None:
    path, content, mode = word(args["path"]), args.get("content"), args.get("mode", "create")
    arrow = ">>" if mode == "append" else ">"
    if content is None:
        return f"cat {arrow} {path}"
    if content == "":
        return f"truncate -s 0 {path}" if mode == "overwrite" else f"touch {path}"
    if "\n" in content or "\\" in content:
        return "printf '%s\\n' " + " ".join(quoted(line) for line in content.split("\n")) + f" {arrow} {path}"
    return f"echo {quoted(content)} {arrow} {path}"


def _copy(args: Args, say: str) -> str | None:
    path = args["path"]
    folder = (
        "*" not in path
        and not _HAS_END.search(path)
        and re.search(r"folder|director|cp -r|文件夹|目录|Ordner|carpeta|dossier", say)
    )
    return f"cp {'-r ' if folder or path.endswith('/*') else ''}{word(path)} {word(args['to'])}"


def _move(args: Args, say: str) -> str | None:
    return f"mv {word(args['path'])} {word(args['to'])}"


def _delete(args: Args, say: str) -> str | None:
    if re.search(r"\bempty (folder|directory)|rmdir|空文件夹", say):
        return f"rmdir {word(args['path'])}"
    return f"rm {'-r ' if args.get('recursive') else ''}{word(args['path'])}"


def _archive(args: Args, say: str) -> str | None:
    if "archive" not in args:  # named by the tool
        return None
    archive, to = word(args["archive"]), args.get("to")
    if archive.rstrip("'").endswith(".zip"):
        made = {"create": f"zip -r {archive} {word(args.get('path', '.'))}", "list": f"unzip -l {archive}"}
        return made.get(args["action"], f"unzip {archive}" + (f" -d {word(to)}" if to else ""))
    end = next((end for end in _TAR if archive.rstrip("'").endswith(end)), None)
    if end is None:
        return None
    made = {
        "create": f"tar c{_TAR[end]}f {archive} {word(args.get('path', '.'))}",
        "list": f"tar tf {archive}",
    }
    return made.get(args["action"], f"tar xf {archive}" + (f" -C {word(to)}" if to else ""))


def _usage(args: Args, say: str) -> str | None:
    path = word(args["path"]) if "path" in args else "."
    if args.get("depth") == 0:
        return f"du -sh {path}"
    line = f"du -h{'a' if args.get('files') else ''} --max-depth={args.get('depth', 1)} {path} | sort -rh"
    return f"{line} | head -n {args['limit']}" if "limit" in args else line


def _grep_flags(args: Args) -> str:
    fixed = not args.get("regex") and re.search(r"[*\[\]^$\\]", args["pattern"])
    return ("i" if args.get("ignore_case") else "") + ("E" if args.get("regex") else "F" if fixed else "")


def _search(args: Args, say: str) -> str | None:
    path, flags, pattern = args.get("path"), _grep_flags(args), quoted(args["pattern"])
    most = f" -m {args['limit']}" if "limit" in args else ""
    if pattern.startswith("-"):
        pattern = f"-e {pattern}"
    if (path and _HAS_END.search(path)) or (path and path.startswith("/etc/") and "folder" not in say):
        return f"grep{' -' + flags if flags else ''}{most} {pattern} {word(path)}"
    include = f" --include={shlex.quote(args['name'])}" if "name" in args else ""
    only = re.search(
        r"(which|what|any)\b[^?]*\bfiles?\b|files (that )?(contain|mention|have)|哪些.*文件|fichiers",
        say,
    )
    return f"grep -r{'l' if only else 'n'}{flags}{most}{include} {pattern} {word(path) if path else '.'}"


def _count(args: Args, say: str) -> str | None:
    path = f" {word(args['path'])}" if "path" in args else ""
    if "pattern" not in args:
        return f"wc -{ {'words': 'w', 'characters': 'm', 'bytes': 'c'}.get(args.get('what', ''), 'l') }{path}"
    flags, pattern = _grep_flags(args), quoted(args["pattern"])
    if args.get("what") == "matches":
        return f"grep -o{flags} {pattern}{path} | wc -l"
    return f"grep -c{flags} {pattern}{path}"


def _script(text: str) -> str:
    """A program of sed: quoted always, as people do."""
    return f"'{text}'" if "'" not in text else shlex.quote(text)


def _replace(args: Args, say: str) -> str | None:
    old, new = args["find"], args["replace"]
    mark = next((mark for mark in "/|#,@" if mark not in old + new), None)
    if mark is None:
        return None
    if not args.get("regex"):
        old = re.sub(r"([\\.*\[\]^$])", r"\\\1", old)
        new = re.sub(r"([\\&])", r"\\\1", new)
    sed = f"sed -i{' -E' if args.get('regex') else ''} {_script(f's{mark}{old}{mark}{new}{mark}g')}"
    path = args["path"]
    if "name" in args or path == "." or not (_HAS_END.search(path) or re.search(r"[A-Z]\w+$", path)):
        name = f" -name {shlex.quote(args['name'])}" if "name" in args else ""
        return f"find {word(path)} -type f{name} -exec {sed} {{}} +"
    return f"{sed} {word(path)}"


def _processes(args: Args, say: str) -> str | None:
    key = {"cpu": "-%cpu", "memory": "-%mem", "newest": "-start_time", "name": "comm"}[
        args.get("sort", "cpu")
    ]
    if not args and re.search(r"\b(list|show|ps|running|which)\b|哪些进程|列出", say) and "cpu" not in say:
        return "ps aux"
    return f"ps aux --sort={key} | head -n {args.get('limit', 10) + 1}"


def _process(args: Args, say: str) -> str | None:
    if "sort" in args or "limit" in args:
        return None
    return f"pgrep -c {quoted(args['name'])}" if _COUNTS.search(say) else f"pgrep -a {quoted(args['name'])}"


def _stop(args: Args, say: str) -> str | None:
    hard = "-9 " if args.get("force") else ""
    return f"kill {hard}{args['pid']}" if "pid" in args else f"pkill {hard}{quoted(args['name'])}"


def _ports(args: Args, say: str) -> str | None:
    return f"lsof -i :{args['port']}" if "port" in args else "ss -tlnp"


_MAKERS: dict[str, Callable[[Args, str], str | None]] = {
    "file.list": _listed,
    "file.find": _find,
    "file.read": _read,
    "file.write": _write,
    "file.copy": _copy,
    "file.move": _move,
    "file.delete": _delete,
    "file.archive": _archive,
    "file.usage": _usage,
    "text.search": _search,
    "text.count": _count,
    "text.replace": _replace,
    "process.list": _processes,
    "process.find": _process,
    "process.stop": _stop,
    "process.start": lambda args, say: None if "name" in args else f"nohup {args['command']} &",
    "system.disk": lambda args, say: f"df -h {word(args['path'])}" if "path" in args else "df -h",
    "system.memory": lambda args, say: "free -h",
    "system.load": lambda args, say: "uptime",
    "system.ports": _ports,
}
