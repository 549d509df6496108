"""A reading that fails, and one that is doubtful: real daemon and sandbox, scripted planner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos.daemon.carrying import Ended
from llmos.daemon.plausible import doubt, misfit
from llmos.daemon.reading import left_for_others
from llmos.messages import ToolCall

from .support import Client, Daemon


def read(path: str) -> dict[str, Any]:
    return {"tool": "file.read", "args": {"path": path}}


def shell(command: str) -> dict[str, Any]:
    return {"tool": "shell.run", "args": {"command": command}}


def replace(find: str, put: str) -> dict[str, Any]:
    return {"tool": "text.replace", "args": {"path": "app.yaml", "find": find, "replace": put}}


SETTING = {"tool": "text.set", "args": {"path": "app.yaml", "key": "debug", "value": "false"}}


def unsure(*calls: dict[str, Any], others: tuple[list[dict[str, Any]], ...] = (), sure: float = 0.6) -> Any:
    return {
        "calls": list(calls),
        "confidence": sure,
        "others": [{"calls": other, "confidence": 0.9 - 0.1 * n} for n, other in enumerate(others)],
    }


SCRIPT: dict[str, Any] = {
    "read the guide": unsure(read("readme.md"), others=([read("index.md")], [read("guide.md")])),
    "read it, surely": unsure(read("readme.md"), others=([read("guide.md")],), sure=0.99),
    "read it or make it": unsure(read("readme.md"), others=([shell("touch readme.md")],)),
    "read it or ask": unsure(read("readme.md"), others=([{"tool": "ask", "args": {"question": "Which?"}}],)),
    "all readings fail": unsure(read("one.md"), others=([read("two.md")], [read("three.md")])),
    "half done": unsure(shell("echo x > made; false"), others=([shell("touch other")],)),
    "delete what ends in ~": unsure(
        {"tool": "file.delete", "args": {"path": "*.~"}},
        others=([{"tool": "file.delete", "args": {"path": "*.yaml"}}],),
    ),
    "delete all but not the guide.md": unsure({"tool": "file.delete", "args": {"path": "*"}}, sure=0.99),
    "delete all, but not the house.png": unsure(shell("rm -r photos"), sure=0.99),
    "move all but not the house.png to new": unsure(shell("mkdir new && mv photos/tree.png new/"), sure=0.99),
    "give it to nobody-here": unsure(
        {"tool": "file.permissions", "args": {"path": "guide.md", "owner": "nobody-here"}},
        others=([{"tool": "file.permissions", "args": {"path": "guide.md", "mode": "600"}}],),
    ),
    "end it perhaps": unsure(
        {"tool": "ask", "args": {"question": "Which?"}},
        others=([{"tool": "ask", "args": {"question": "What?"}}], [read("guide.md")]),
    ),
    "end it": unsure(
        {"tool": "ask", "args": {"question": "Which?"}}, others=([read("guide.md")],), sure=0.99
    ),
    "turn debug off": unsure(replace("debug", "false"), others=([SETTING],), sure=0.99),
    "show me the line after each FAIL": unsure(shell("sed -i /FAIL/d guide.md"), sure=0.9),
    "show me the last line of each file": unsure(shell('for f in *; do tail -n 1 "$f"; done'), sure=0.9),
    "remove the guide perhaps": unsure({"tool": "file.delete", "args": {"path": "guide.md"}}, sure=0.1),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    (place / "guide.md").write_text("turn it on\nFAIL\n")
    (place / "app.yaml").write_text("debug: true\n")
    return place


@pytest.fixture
def photos(folder: Path) -> Path:
    place = folder / "photos"
    place.mkdir()
    for name in ("house.png", "tree.png"):
        (place / name).touch()
    return place


@pytest.fixture
def client(start_daemon: Callable[..., Daemon]) -> Client:
    return start_daemon(SCRIPT).connect()


def ask(client: Client, text: str, folder: Path, consent: str = "yes") -> tuple[dict[str, Any], list[Any]]:
    events: list[dict[str, Any]] = []
    number = client.send("ask", text=text, cwd=str(folder), consent=consent)
    return client.reply(number, events)["result"], events


def test_where_a_doubtful_reading_fails_the_next_ones_are_tried(client: Client, folder: Path) -> None:
    result, events = ask(client, "read the guide", folder, consent="none")
    assert result["status"] == "done"
    assert [call["args"]["path"] for call in result["calls"]] == ["guide.md"]
    assert "turn it on" in result["calls"][0]["stdout"]
    told = [event["data"]["text"] for event in events if event["kind"] == "notice"]
    assert len(told) == 2
    assert all("read otherwise" in text for text in told)


def test_a_sure_reading_that_fails_has_failed(client: Client, folder: Path) -> None:
    result, _ = ask(client, "read it, surely", folder)
    assert result["status"] == "failed"
    assert result["calls"][0]["args"]["path"] == "readme.md"


def test_a_look_never_becomes_a_change(client: Client, folder: Path) -> None:
    result, _ = ask(client, "read it or make it", folder)
    assert result["status"] == "failed"
    assert not (folder / "readme.md").exists()


def test_the_next_reading_may_be_a_question_back(client: Client, folder: Path) -> None:
    result, _ = ask(client, "read it or ask", folder)
    assert (result["status"], result["answer"]) == ("needs_input", "Which?")


def test_a_hesitant_question_back_gives_way_to_the_likeliest_call(client: Client, folder: Path) -> None:
    result, events = ask(client, "end it perhaps", folder)
    assert (result["status"], len(result["calls"])) == ("done", 1)
    assert not [event for event in events if event["kind"] == "notice"]
    assert ask(client, "end it", folder)[0]["status"] == "needs_input"


def test_where_all_readings_fail_the_first_ones_failure_stands(client: Client, folder: Path) -> None:
    result, _ = ask(client, "all readings fail", folder)
    assert result["status"] == "failed"
    assert result["calls"][0]["args"]["path"] == "one.md"


def test_what_failed_half_way_is_not_tried_in_another_form(client: Client, folder: Path) -> None:
    result, _ = ask(client, "half done", folder)
    assert result["status"] == "failed"
    assert not (folder / "other").exists()


def test_a_change_that_found_nothing_does_not_become_another_one_unasked(
    client: Client, folder: Path
) -> None:
    result, _ = ask(client, "delete what ends in ~", folder)
    assert result["status"] == "failed"
    assert (folder / "app.yaml").exists()


def test_an_exception_that_the_call_does_not_know_of_is_asked_back(client: Client, folder: Path) -> None:
    result, _ = ask(client, "delete all but not the guide.md", folder)
    assert result["status"] == "needs_input"
    assert "guide.md" in result["answer"]
    assert (folder / "guide.md").exists()


def test_a_folder_that_holds_the_exception_is_not_taken_away(client: Client, photos: Path) -> None:
    result, _ = ask(client, "delete all, but not the house.png", photos.parent)
    assert result["status"] == "needs_input" and "house.png" in result["answer"]
    assert (photos / "house.png").exists()


def test_an_exception_that_was_not_touched_is_no_doubt(client: Client, photos: Path) -> None:
    result, _ = ask(client, "move all but not the house.png to new", photos.parent)
    assert result["status"] == "done", result
    assert (photos / "house.png").exists() and (photos.parent / "new" / "tree.png").exists()


@pytest.mark.parametrize(
    ("text", "command", "doubtful"),
    [
        ("clear out photos except cat.png", "rm photos/*", True),
        ("clear out photos except cat.png", "find photos -type f ! -name cat.png -delete", False),
        ("删除除了 a.txt 以外的文件", "rm *", True),
        ("delete everything other than the src folder", "rm -r build", True),
        ("除了 a.txt 都删掉", "rm *", True),
        ("除a.txt之外全部删除", "rm *", True),
        ("delete old.log", "rm old.log", False),
        ("删除所有空文件", "find . -type f -empty -delete", False),
        ("删除成绩文件夹里的期中旧版.csv", "rm 成绩/期中.csv", False),
        ("delete the .tmp files older than 30 days, but nothing else", "find . -name '*.tmp' -delete", False),
        ("delete every .pyc, but not those in tests", "rm *.pyc", True),
        ("delete every .pyc, but not those in tests", "find . -path ./tests -prune -o -delete", False),
        ("move all png to images but do not overwrite anything", "mv *.png images", False),
        ("delete *.tmp, do not ask", "rm *.tmp", False),
        ("all .log away, don't touch app.log", "rm *.log", True),
        ("all .log away, keep app.log", "rm *.log", True),
        ("alle .log weg außer app.log", "rm *.log", True),
        ("日志都删掉，保留 app.log", "rm *.log", True),
        ("clear the log but do not delete it", "truncate -s 0 a.log", False),
        ("clear the logs but do not delete app.log", "rm *.log", True),
        ("write a wrapped into b, but not in the middle of words", "fold -s a > b", False),
    ],
)
def test_exceptions_are_heard(text: str, command: str, doubtful: bool) -> None:
    assert bool(doubt(text, ToolCall.model_validate(shell(command)))) is doubtful


@pytest.mark.parametrize("spared", ["*.png", "the pictures", "invoices", "hosue.png", "tree.png"])
def test_an_exception_that_may_be_touched_stays_a_doubt(photos: Path, spared: str) -> None:
    """Not said by name, misspelt, or changed indeed."""
    touched = [str(photos / "tree.png")]
    call = ToolCall.model_validate(shell("rm photos/t*"))
    assert doubt(f"delete everything except {spared}", call, touched)
    assert not doubt("delete everything except house.png", call, touched)
    assert not doubt("delete everything except the house", call, touched)


def test_only_a_call_for_several_may_take_more() -> None:
    text = "everything but not the drafts into old"
    assert doubt(text, ToolCall(tool="file.move", args={"path": "*", "to": "old/"}))
    assert doubt(text, ToolCall(tool="file.move", args={"path": "texts", "to": "old/"}))
    assert not doubt(text, ToolCall(tool="file.mkdir", args={"path": "old"}))
    assert not doubt(text, ToolCall(tool="file.move", args={"path": "a.txt", "to": "old/"}))


def test_a_proposal_that_cannot_be_carried_out_is_read_otherwise(client: Client, folder: Path) -> None:
    result, _ = ask(client, "give it to nobody-here", folder)
    assert result["status"] == "done", result
    assert (folder / "guide.md").stat().st_mode & 0o777 == 0o600


def test_the_name_of_a_setting_is_not_replaced_by_a_value(client: Client, folder: Path) -> None:
    result, _ = ask(client, "turn debug off", folder)
    assert result["status"] == "done", result
    assert (folder / "app.yaml").read_text() == "debug: false\n"


@pytest.mark.parametrize(
    ("find", "put", "fits"),
    [
        ("debug", "", False),
        ("debug", "off", False),
        ("timeout", "60", False),
        ("debug", "verbose", True),
        ("true", "false", True),
        ("8080", "9090", True),
        ("debug: true", "debug: false", True),
    ],
)
def test_which_replacements_somebody_may_mean(find: str, put: str, fits: bool) -> None:
    assert (misfit(ToolCall.model_validate(replace(find, put))) == "") is fits
    assert misfit(ToolCall.model_validate(read("app.yaml"))) == ""


def test_a_yes_given_beforehand_is_none_to_a_change_where_a_look_was_asked_for(
    client: Client, folder: Path
) -> None:
    result, _ = ask(client, "show me the line after each FAIL", folder)
    assert result["status"] == "needs_input"
    assert "sed -i" in result["answer"]
    assert "FAIL" in (folder / "guide.md").read_text()


def test_a_script_that_turns_out_to_change_nothing_is_no_change(client: Client, folder: Path) -> None:
    result, _ = ask(client, "show me the last line of each file", folder)
    assert result["status"] == "done", result
    assert "debug: true" in result["calls"][0]["stdout"]


def test_a_yes_given_beforehand_is_none_to_what_the_model_is_very_unsure_of(
    client: Client, folder: Path
) -> None:
    result, _ = ask(client, "remove the guide perhaps", folder)
    assert result["status"] == "needs_input"
    assert (folder / "guide.md").exists()


def test_an_exception_may_be_called_otherwise_in_the_call() -> None:
    call = ToolCall(tool="file.delete", args={"path": "*.pdf", "except": ["invoice_*.pdf"]})
    assert not doubt("delete all pdfs except the invoices", call)


@pytest.mark.parametrize(
    ("text", "path", "spared", "round_the_wrong_way"),
    [
        ("bin what ends in ~ in letters, those are leftovers of the editor", "letters/*", ["*~"], True),
        ("the .bak and .tmp are rubbish, clear that out but lose no drawing", "plans/*", ["*.bak"], True),
        ("clear out the .bak, everything else in there is precious", "old", ["*.bak"], True),
        ("delete the .bak", "*", ["*.bak"], True),
        ("把.bak都删了", "*", ["*.bak"], True),
        ("delete all logs but app.log", "*.log", ["app.log"], False),
        ("delete the logs except app.log and leave everything else alone", "*.log", ["app.log"], False),
        ("only the raws are precious, get rid of the others", "*", ["*.raw"], False),
        ("keep the lyrics and the cover, everything else can go in the bin", "*", ["cover.jpg"], False),
        ("除了 main.py 都删掉", "*", ["main.py"], False),
        ("delete all tarballs except the newest", "*.tar.gz", ["app-1.3.tar.gz"], False),
    ],
)
def test_what_is_to_go_is_not_what_stays(
    text: str, path: str, spared: list[str], round_the_wrong_way: bool
) -> None:
    call = ToolCall(tool="file.delete", args={"path": path, "except": spared})
    assert bool(doubt(text, call)) is round_the_wrong_way


def test_what_is_to_be_shown_is_not_written_back() -> None:
    call = ToolCall(tool="text.lines", args={"path": "test.out", "with": "FAIL", "in_place": True})
    assert doubt("show me the line after each FAIL in test.out", call)
    assert not doubt("only the lines with FAIL shall be left in test.out", call)


def test_what_was_only_held_back_may_have_been_right() -> None:
    held, failed = Ended("needs_input", "not sure"), Ended("failed", "no such file")
    assert left_for_others(held, 0.3) == 0.7
    assert left_for_others(held, 0.9) == left_for_others(failed, 0.3) == 1.0  # its form spoke against it


@pytest.mark.parametrize(
    ("text", "args", "doubtful"),
    [
        ("delete the logs older than 30 days", {"path": "logs/*.log"}, True),
        ("delete the logs older than 30 days", {"path": "logs", "recursive": True}, True),
        ("delete the logs older than 30 days", {"path": "logs", "older_than": "30d"}, False),
        ("delete the logs older than 30 days", {"path": "logs", "newer_than": "30d"}, True),
        ("delete the logs that are older than 3 months", {"path": "logs", "older_than": "3m"}, True),
        ("older than 30 days and bigger than 1 MB: away", {"path": "logs", "larger_than": "1M"}, True),
        ("delete logs, more than two weeks old ones", {"path": "logs/*.log"}, True),
        ("videos over 500 MB can go", {"path": "*.mp4"}, True),
        ("videos over a gigabyte can go", {"path": "*.mp4"}, True),
        (
            "delete the logs older than a month, not audit.log",
            {"path": "logs", "except": ["audit.log"]},
            True,
        ),
        ("keep the two newest dumps, delete the rest", {"path": "dump-*.sql"}, True),
        ("keep the two newest dumps, delete the rest", {"path": "dump-*.sql", "keep_newest": 2}, False),
        (
            "keep the two newest dumps, delete the rest",
            {"path": "dump-*", "sort": "newest", "limit": 2},
            True,
        ),
        ("delete the two newest dumps", {"path": "dump-*.sql", "sort": "newest", "limit": 2}, False),
        ("delete all dumps but the newest", {"path": "dump-*.sql", "except": ["dump-9.sql"]}, False),
        ("what was not touched for a year goes", {"path": "*"}, True),
        ("alles was älter als ein jahr ist löschen", {"path": "*"}, True),
        ("删掉超过三十天没动的日志", {"path": "logs/*.log"}, True),
        ("删掉一个月以前的日志", {"path": "logs/*.log", "older_than": "30d"}, False),
        ("删掉 logs 里的日志", {"path": "logs/*.log"}, False),
        ("删除最新的3个文件", {"path": "*", "sort": "newest", "limit": 3}, False),
        ("删掉超过30天的日志", {"path": "*.log"}, True),
        ("30天以上的日志删掉", {"path": "*.log"}, True),
        ("三个月之前的备份都删", {"path": "*.zip"}, True),
        ("100M以上的日志删掉", {"path": "*.log"}, True),
        ("delete the logs I haven't touched in a year", {"path": "*.log"}, True),
        ("supprime ce qui a plus d'un mois", {"path": "*"}, True),
        ("borra lo de más de un mes", {"path": "*"}, True),
        ("mails with more than 10 messages can go", {"path": "*.mbox"}, False),
        ("zip files can go, the latest release is on the server", {"path": "*.zip"}, False),
        ("monthly reports older than 30 minutes away", {"path": "*.csv", "older_than": "30m"}, False),
        ("keep what is older than a year, trash the newer", {"path": "scans", "newer_than": "1y"}, False),
        ("delete the oldest draft", {"path": "draft-1.txt"}, False),
        ("delete latest-*.log", {"path": "latest-*.log"}, False),
    ],
)
def test_what_is_said_of_age_and_size_is_heard(text: str, args: dict[str, Any], doubtful: bool) -> None:
    assert bool(doubt(text, ToolCall(tool="file.delete", args=args))) is doubtful


def test_a_folder_that_goes_as_a_whole_is_no_age() -> None:
    call = ToolCall(tool="file.trash", args={"path": "Downloads"})
    assert doubt("everything in Downloads older than two months goes to the trash", call)
    assert not doubt("Downloads goes to the trash", call)


def test_the_one_file_there_is_has_no_other_age() -> None:
    call = ToolCall(tool="file.trash", args={"path": "*.iso"})
    trash = ["/home/u/.local/share/Trash/files/a.iso", "/home/u/.local/share/Trash/info/a.iso.trashinfo"]
    assert doubt("the oldest iso to the trash", call, ["/w/a.iso", "/w/b.iso", *trash])
    assert not doubt("the oldest iso to the trash", call, ["/w/a.iso", *trash])
    move = ToolCall(tool="file.move", args={"path": "*.iso", "to": "old/"})
    assert not doubt("the oldest iso to old", move, ["/w/a.iso", "/w/old/a.iso"])


def test_another_call_of_the_request_may_be_what_the_words_are_about() -> None:
    text = "delete the logs older than a month except app.log and copy the pdfs to backup"
    copy = ToolCall(tool="file.copy", args={"path": "*.pdf", "to": "backup/"})
    args = {"path": "*.log", "older_than": "30d", "except": ["app.log"]}
    assert doubt(text, copy)
    assert not doubt(text, copy, None, [ToolCall(tool="file.delete", args=args)])


@pytest.mark.parametrize(
    ("text", "path", "doubtful"),
    [
        ("move the PDF files that lie around here into Scans", "*", True),
        ("the pictures in camera go to album", "camera/*", True),
        ("把照片都移到相册", "*", True),
        ("move the pdfs into Scans", "*.pdf", False),
        ("everything in tmp goes to Scans", "tmp/*", False),
        ("all of it but a.pdf into Scans", "*", False),
        ("everything goes into Scans", "*", False),
    ],
)
def test_a_kind_of_files_is_not_whatever_is_there(text: str, path: str, doubtful: bool) -> None:
    args = {"path": path, "to": "Scans/"} | ({"except": ["a.pdf"]} if "but" in text else {})
    assert bool(doubt(text, ToolCall(tool="file.move", args=args))) is doubtful


def test_where_all_are_of_the_kind_whatever_is_there_is_right() -> None:
    call = ToolCall(tool="file.move", args={"path": "camera/*", "to": "album/"})
    text = "move the pictures in camera to album"
    assert not doubt(text, call, ["/w/camera/a.JPG", "/w/camera/b.png", "/w/album/a.JPG", "/w/album/b.png"])
    assert doubt(text, call, ["/w/camera/a.jpg", "/w/camera/b.txt", "/w/album/a.jpg", "/w/album/b.txt"])
    pdfs = ToolCall(tool="file.move", args={"path": "*.pdf", "to": "papers/"})
    rest = ToolCall(tool="file.move", args={"path": "*", "to": "rest/"})
    assert not doubt("the pdf go to papers, what is left to rest", rest, None, [pdfs])
