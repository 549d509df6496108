"""The person's language: catalogues are whole, sentences are known by their pattern, widths are right."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import string
import tomllib
from pathlib import Path

import polib
import pytest

from llmos import cli_args, errors, paths
from llmos.console import app, changes, cloud, jobs, render, safetext, turn, welcome, words
from llmos.console.look import Look

REPO = Path(__file__).resolve().parents[2]
CATALOGUES = sorted(words.FOLDER.glob("*.po"))
RARE = [words.rare_file(file) for file in CATALOGUES]
CHINESE = words.FOLDER / "zh_CN.po"


@functools.cache
def sources() -> list[ast.AST]:
    """The nodes of the whole program."""
    parsed = (ast.parse(file.read_text(encoding="utf-8")) for file in (REPO / "llmos").rglob("*.py"))
    return [node for module in parsed for node in ast.walk(module)]


def asked_for() -> set[str]:
    """Every English text the console translates: in `tr("…")`, and in its tables."""
    calls = (node for node in sources() if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    literal = {
        argument.value
        for node in calls
        if node.func.id == "tr"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    tables = {meaning for _, meaning in (*render.CHOICES, *cloud.CHOICES)} | {
        *app.HELP.values(),
        welcome.INTRO,
    }
    tables |= {*render.NOTES.values(), *turn.LABELS.values(), *changes.COUNTED.values(), *render.EFFECT_NAMES}
    tables |= set(jobs.STATES) | helps()
    return (literal | tables) - {"opaque"}


def helps() -> set[str]:
    """What `--help` says, of every verb a person types."""
    found = {
        cli_args.OPTIONS_HELP,
        "show this help message and exit",
        "usage: ",
        "options",
        "positional arguments",
    }
    for name, verb in cli_args.VERBS.items():
        parser = cli_args.parser(name, f"llmos {name}")
        told = {action.help for action in parser._actions if action.help and action.help != argparse.SUPPRESS}
        found |= {verb.summary} | told
    return found


def whys() -> set[str]:
    files = (
        paths.builtin_policy_dir() / f"{name}.toml"
        for name in ("builtin", "default", "readonly", "unattended")
    )
    return {rule["why"] for file in files for rule in tomllib.loads(file.read_text())["rule"]}


def said() -> set[str]:
    """Every text and every f-string of the program and of argparse, what is filled in being `{}`, and their
    parts between colons."""
    found = set()
    for node in (*sources(), *ast.walk(ast.parse(Path(argparse.__file__).read_text(encoding="utf-8")))):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            found.add("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"%\(\w+\)[sr]|%[sr]", "{}", node.value))
    return found | {part for text in found for part in text.split(": ")}


def holes(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("file", CATALOGUES, ids=lambda file: file.stem)
def test_a_catalogue_lacks_nothing_and_says_nothing_that_is_not_asked_for(file: Path) -> None:
    entries = list(polib.pofile(str(file)))
    own = {entry.msgid for entry in entries if entry.msgctxt is None}
    assert (asked_for() - own, own - asked_for()) == (set(), set())
    reasons = {entry.msgid for entry in entries if entry.msgctxt == "why"}
    assert (whys() - reasons, reasons - whys()) == (set(), set())
    assert all(entry.translated() and holes(entry.msgid) == holes(entry.msgstr) for entry in entries)


@pytest.mark.parametrize("file", [*CATALOGUES, *RARE], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_sentences_of_a_catalogue_are_really_said(file: Path) -> None:
    known, gone = said(), []
    for entry in polib.pofile(str(file)):
        assert entry.translated() and holes(entry.msgid) == holes(entry.msgstr), entry.msgid
        if entry.msgctxt == words.SAID:
            plain = "".join(
                text + ("{}" if name is not None else "")
                for text, name, _, _ in string.Formatter().parse(entry.msgid)
            )
            gone += [] if plain in known else [entry.msgid]
    assert gone == []


# What only those read who train, measure or serve models, and what tools print inside of the sandbox.
IN_ENGLISH = ("engine/", "tune/", "serve/", "toolbox/inside/", "planner/worker.py", "model_cli_measure.py",
              "cli_tune.py", "cli_serve.py")  # fmt: skip


@pytest.mark.parametrize("file", CATALOGUES, ids=lambda file: file.stem)
def test_what_llmos_complains_of_is_all_translated(file: Path) -> None:
    """Errors, what to do about them, and the lines that `say` prints, with `1` for what is filled in."""
    catalogue, english = words.read(file) + words.read(words.rare_file(file)), []
    raised = {name for name in vars(errors) if name[0].isupper()} | {"say"}
    for module in (REPO / "llmos").rglob("*.py"):
        if str(module.relative_to(REPO / "llmos")).startswith(IN_ENGLISH):
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            name = getattr(node, "func", None)
            if isinstance(node, ast.Call) and getattr(name, "id", getattr(name, "attr", "")) in raised:
                said = [text for text in map(filled, node.args) if set(text) - set("1: ")]
                english += [text for text in said if words.sentence(text, catalogue) == text]
    assert english == []


def filled(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize(
    ("environment", "configured", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "", ["zh_CN.UTF-8"]),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8", "LANGUAGE": "zh"}, "", []),
        ({"LC_MESSAGES": "zh_TW", "LANG": "en_US.UTF-8", "LANGUAGE": "de:zh"}, "", ["de", "zh", "zh_TW"]),
        ({"LANG": "en_US.UTF-8"}, "zh", ["zh"]),
        ({}, "", []),
    ],
)
def test_whose_language_it_is(environment: dict[str, str], configured: str, expected: list[str]) -> None:
    assert words.languages(environment, configured) == expected


def test_a_language_without_a_territory_finds_its_catalogue_and_others_find_none() -> None:
    assert (
        words.catalogue_file("zh")
        == words.catalogue_file("zh_TW")
        == words.catalogue_file("zh-CN")
        == CHINESE
    )
    assert words.catalogue_file("../zh_CN") is None and words.catalogue_file("tlh") is None


def test_the_configured_language_is_read_and_a_broken_file_is_not_ours_to_report(isolated_home: Path) -> None:
    file = paths.config_dir() / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('[console]\nlanguage = "zh_CN"\n')
    assert words.configured() == "zh_CN"
    file.write_text("[console\n")
    assert words.configured() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It writes a file (/tmp/a (1).txt).", "会写文件 (/tmp/a (1).txt)。"),
        ("It only looks.", "只是查看。"),
        ("Nobody answered within 900 seconds.", "900 秒内无人回答。"),
        ("llmos knows no --frob", "llmos 没有 --frob 这个选项"),
        ("there is no verb 'histroy'", "没有 'histroy' 这个命令"),
        ("--args is not a JSON object", "--args 不是 JSON 对象"),
        ("""Write it so: --args '{"path": "."}'""", """请这样写：--args '{"path": "."}'"""),
        ("something that nobody translated", "something that nobody translated"),
        ("llmos run: argument FILE: expected one argument", "llmos run：参数 FILE：需要一个值"),
        (
            "llmos: argument action: invalid choice: 'x' (choose from 'a', 'b')",
            "llmos：参数 action：不能是 'x'（可选：'a', 'b'）",
        ),
        ("/etc/llmos/tools/a.toml:3: run: Field required", "/etc/llmos/tools/a.toml:3: run: Field required"),
        ("file.rename: argument `find`: it is empty", "file.rename：参数 `find`：它是空的"),
        ("See: llmos doctor", "请看：llmos doctor"),
    ],
)
def test_what_is_said_elsewhere_is_known_by_its_pattern(text: str, expected: str) -> None:
    assert words.sentence(text, words.read(CHINESE) + words.read(words.rare_file(CHINESE))) == expected


def test_braces_in_what_was_filled_in_are_text() -> None:
    text = "cannot go to {0.__class__}: gone"
    assert words.sentence(text, words.read(CHINESE)) == "无法进入 {0.__class__}：gone"


def test_effects_line_up_however_wide_their_names_are() -> None:
    catalogue = words.read(CHINESE).messages
    heads = [safetext.pad(catalogue[name], 9) for name in ("deletes", "writes", "units")]
    assert {safetext.columns(head) for head in heads} == {9}
    assert render.effect_lines({"deletes": ["/tmp/甲"]}) == ["deletes   /tmp/甲"]
    assert "删除" in catalogue["{count} deleted"] and Look().style("red", "甲") == "甲"
