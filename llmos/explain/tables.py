"""What words of a command line mean, beyond manual pages: operators, the shell's own commands, values."""

from __future__ import annotations

import re

OPERATORS = {
    "|": "the output of the left goes into the right",
    "|&": "output and errors of the left go into the right",
    "&&": "the right runs only if the left succeeded",
    "||": "the right runs only if the left failed",
    ";": "then, whatever came of the left",
    "&": "the left runs in the background",
    ">": "standard output is written to the file that follows, which is emptied first",
    ">>": "standard output is added to the end of the file that follows",
    "<": "standard input is read from the file that follows",
    "2>": "error messages are written to the file that follows",
    "2>>": "error messages are added to the file that follows",
    "&>": "output and error messages are written to the file that follows",
    "2>&1": "error messages go where standard output goes",
    "<<": "standard input is the text up to the word that follows (here-document)",
    "<<<": "standard input is the word that follows",
    "(": "a subshell begins: what it changes in the shell stays inside",
    ")": "the subshell ends",
}
BUILTINS = {
    "cd": "change the current folder",
    "export": "set a variable for programs started later",
    "source": "run a file's commands in this shell",
    ".": "run a file's commands in this shell",
    "alias": "define a short name for a command",
    "unset": "remove a variable or function",
    "set": "set shell options or arguments",
    "exit": "end the shell with this exit code",
    "eval": "run the words as a command (what that is, is known only then)",
    "exec": "replace the shell by this program",
    "wait": "wait for background jobs",
    "trap": "run a command when a signal comes",
    "umask": "mask of permissions of new files",
    "read": "read a line into variables",
    "ulimit": "limits of what this shell's programs may use",
    "shift": "drop the first arguments",
    **dict.fromkeys(("for", "while", "until"), "a loop begins"),
    **dict.fromkeys(("do", "then", "else"), "what is done in that case"),
    **dict.fromkeys(("done", "fi", "esac"), "the loop or condition ends"),
    **dict.fromkeys(("if", "elif", "case"), "a condition"),
}
VALUES = {
    "read": "it reads this",
    "write": "it writes this",
    "delete": "it deletes this",
    "into": "where it goes",
    "replace": "it replaces this",
    "move": "it moves this",
    "chdir": "it works in this folder",
    "host": "another machine",
    "pid": "a process",
    "rev": "a revision",
    "archive": "the archive it reads",
    "new-archive": "the archive it makes",
    "page": "a manual page",
    "sed": "a sed script",
    "awk": "an awk program",
    "jq": "a jq filter",
    "format": "a format",
    "unit": "a systemd unit",
    "count": "a number",
    "number": "a number",
    "size": "a size",
    "selector": "a selection",
}
DD = {
    "if": "it reads this instead of standard input",
    "of": "it writes this instead of standard output",
    "bs": "how many bytes at a time",
    "count": "how many blocks are copied",
    "skip": "how many blocks of the input are passed over",
    "seek": "how many blocks of the output are passed over",
    "conv": "how it is converted",
    "status": "what is said of the progress",
}
FIRST = {
    "chmod": "the new permissions",
    "chown": "the new owner and group",
    "chgrp": "the new group",
    "grep": "what is searched for",
    "find": "the folder that is searched",
    "ssh": "the machine to log in to",
    "mount": "what is mounted",
    "ps": "options in the old style, without a dash",
}
WRITTEN = (
    (re.compile(r"[a-z][a-z0-9+.-]*://.+"), "an address (URL)"),
    (re.compile(r"[\w.-]+@[\w.-]+(?::.*)?"), "a user at another machine"),
    (re.compile(r"[\w.-]+:/.*"), "a place on another machine"),
)
SOME = {
    "sudo": "run the rest as another user, usually root",
    "command": "run it even if there is an alias of that name",
}
FOLLOW = frozenset({"sudo", "doas", "nohup", "time", "command", "exec", "watch", "strace", "setsid"})
