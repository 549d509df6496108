"""Variables that shell text sets for its programs: which of them change nothing but what a program prints.

Programs obey variables: a linker loads what LD_PRELOAD names, git starts GIT_PAGER, tar takes TAR_OPTIONS
for options. No list of those is whole, so several things have to come together: the name is none that is
known to be obeyed and has no part by which such names are made (`_PATH`, `OPTS`, `PAGER`, `PROXY`, …), the
value is plain text, and in a name of capital letters it is neither a path nor an option. Small letters
POSIX leaves to people: "applications can define environment variables with names from this name space
without modifying the behavior of the standard utilities".

Not protected against: a program with a variable of its own that is not named like others, and to which a
plain word means mischief. The sandbox bounds it, like a described program that does not do what its manual
says.
"""

from __future__ import annotations

import re

_LOCALE = re.compile(r"(?:LC_[A-Z]+|LANG|LANGUAGE)=[A-Za-z0-9_.@-]*", re.ASCII)
# How something is shown, and what the sandbox sets itself. A time zone's name begins with a letter: no path.
_SHOWN = re.compile(
    r"(?:NO_COLOR|CLICOLOR|CLICOLOR_FORCE|FORCE_COLOR)=(?:[0-3]|true|false)?"
    r"|(?:GIT_|MAN|SYSTEMD_)?PAGER=cat|TERM=(?:dumb|linux|vt100|xterm(?:-256color)?)"
    r"|TZ=[A-Z][A-Za-z0-9_+-]*(?:/[A-Z][A-Za-z0-9_+-]*){0,2}",
    re.ASCII,
)
_PLAIN = re.compile(r"[\w.,:@%+=/ -]*")
_BARE = re.compile(r"[\w.,:@%+=/-]*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# Whole names, apart from those that the parts below find. Also what sandbox and shells set themselves.
_OBEYED = re.compile(
    r"""
    CI | COLUMNS | DEBUG | DISPLAY | DISTCC | EMACS | ENV | EXINIT | FIGNORE | FCEDIT | FUNCNEST |
    GLOBIGNORE | GREP_COLOR | GREP_COLORS | HISTSIZE | IFS | IGNOREEOF | JQ_COLORS | LESS | LESSOPEN |
    LESSCLOSE | LINES | LOGNAME | LS_COLORS | MAIL | MAKE | MORE | OLDPWD | OPTERR | OPTIND | PIPX |
    POSIXLY_CORRECT | PROMPT | PS0 | PS1 | PS2 | PS3 | PS4 | PWD | RANDOM | REPLY | SECONDS | SHLVL | TERM
    | TERMCAP | TIME | TIMEFORMAT | TMOUT | TMP | TEMP | TZ | USER | VIMINIT | WATCH | WAYLAND_DISPLAY |
    WINDOWID | GZIP | ZIPOPT | UNZIP | ZIP | BZIP | BZIP2 | LZ4 | ZSTD_CLEVEL | home | path | prompt |
    shell | term | user | mail | status | argv | fpath | cdpath | manpath | watch
    """,
    re.VERBOSE,
)
_PREFIXES = re.compile(
    "(?:_|LD_|DYLD_|RTLD|MALLOC|GLIBC|GCONV|GETCONF|RES_|RESOLV|HOST|LOCALDOMAIN|NLS|BASH|SHELL|ZSH"
    "|ZDOT|KSH|FISH|HIST|INPUTRC|READLINE"
    "|GIT|GH_|HG|SVN|CVS|RSYNC|SSH|SCP|GPG|GNUPG|PINENTRY|KRB|SSL|OPENSSL|TLS|CURL|WGET|HTTP|FTP|NSS|NIX"
    "|PY|PIP|UV_|CONDA|VIRTUAL|POETRY|PERL|RUBY|GEM|RAILS|BUNDLE|NODE|NPM|NVM|DENO|BUN_|YARN|ELECTRON"
    "|JAVA|JDK|JVM|MAVEN"
    "|GRADLE|KOTLIN|SCALA|SBT|GO(?!AL|OD)|CARGO|RUST|LUA|TCL|TK_|PHP|COMPOSER|R_|JULIA|OCAML|OPAM|GHC"
    "|CABAL|STACK|ERL|ELIXIR|MIX_"
    "|DOTNET|MONO|CORECLR|GUILE|RACKET|SBCL|CC|CXX|CPP|CFLAGS|LDFLAGS|GCC|CLANG|LLVM|ASAN|UBSAN|TSAN"
    "|LSAN|MAKE|MFLAGS"
    "|CMAKE|NINJA|MESON|PKG|ACLOCAL|AC_|AUTO|M4|DOCKER|BUILDKIT|COMPOSE|CONTAINER|PODMAN|KUBE|HELM|TF_"
    "|ANSIBLE|VAULT|CONSUL|AWS|AZURE"
    "|GOOGLE|GCLOUD|CLOUDSDK|XDG|XAUTH|DBUS|SYSTEMD|JOURNAL|INVOCATION|NOTIFY|LISTEN|WATCHDOG|SUDO|DOAS"
    "|POLKIT|DEB|APT|DPKG"
    "|RPM|DNF|MAN(?:PAGER|PATH|OPT|WIDTH|SECT|ROFF|_|$)|LESS|MORE|MOST|LV|GROFF|TERM|TMUX|SCREEN|COLOR"
    "|CLICOLOR|LS_|GREP|RIPGREP|FZF|FD_|BAT_|EZA|EXA|DELTA|JQ|TAR"
    "|XZ|LZMA|ZSTD|UNZIP|ZIP|GZIP|PAX|CPIO|RSH|PG|PSQL|MYSQL|MARIADB|SQLITE|REDIS|MONGO|ODBC|ORACLE"
    "|LLMOS|LLM_|OPENAI|HF_"
    "|CUDA|OMP|MKL|QT|GTK|GDK|GIO|GLIB|GST|SDL|ALSA|PULSE|GDB|LLDB|VALGRIND|STRACE|LTRACE|PS_|PROCPS"
    "|TOPRC|HTOP|AWK|GAWK|DIFF"
    "|SED|SORT|BLOCK|DF_|DU_|TIME_|QUOTING|TAPE|VI|VIM|NVIM|EMACS|NANO|EDIT|W3M|LYNX|BROWSER|MAIL|MUTT"
    "|CUPS|LP|PRINT|TEX(?!T)"
    "|MAGICK|MAGIC|FFMPEG|AV_|IM_|VERSION_CONTROL|SIMPLE_BACKUP|S_COLORS|TZ|LOC|LC|LANG|FORCE|NO_)"
)
_PARTS = re.compile(
    "PATH|HOME|ROOT|CONF|RC$|OPTS|OPTION|_OPT|FLAG|ARGS|ARGV|PARAM|CMD|COMMAND|EXEC|PAGER|EDITOR|VISUAL"
    "|VIEWER|BROWSER|SHELL|PRELOAD|AUDIT|PROXY"
    "|SOCK|_URL|_URI|HOST|_PORT|_ADDR|FILE|_DIR|DIRS|LIB|PLUGIN|MODULE|INCLUDE|INIT|STARTUP|HOOK"
    "|WRAPPER|LAUNCH|PROGRAM"
    "|ASKPASS|TOKEN|KEY|SECRET|PASS|CREDENTIAL|CERT|TRACE|DEBUG|_LOG|LOG_|LOGFILE|LOGLEVEL|TMP|TEMP"
    "|CACHE|HISTORY|ALIAS|DAEMON|BACKEND|DRIVER|AGENT"
)


def harmless(name: str, value: str) -> bool:
    """Whether a program that is given this variable does what it would do without it."""
    if is_locale(name, value) or _SHOWN.fullmatch(f"{name}={value}"):
        return True
    if not (_NAME.fullmatch(name) and _PLAIN.fullmatch(value)) or _OBEYED.fullmatch(name):
        return False
    shouted = name.upper()
    if name != shouted and name == name.lower():  # of people's own
        return not re.match(r"P?NPM|YARN|BUN|ANSIBLE|CARGO|LLMOS", shouted) and not _PARTS.search(shouted)
    return not (
        _OBEYED.fullmatch(shouted)
        or _PREFIXES.match(shouted)
        or _PARTS.search(shouted)
        or "/" in value
        or value.startswith("-")
    )


def is_locale(name: str, value: str) -> bool:
    return bool(_LOCALE.fullmatch(f"{name}={value}"))


def assignment(text: str) -> tuple[str, str] | None:
    """`NAME=word` or `NAME='some words'`; None for what shells might read in more than one way."""
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        return None
    if len(value) > 1 and value[0] == value[-1] == "'":
        return (name, value[1:-1]) if _PLAIN.fullmatch(value[1:-1]) else None
    return (name, value) if _BARE.fullmatch(value) else None


def is_one_word(value: str) -> bool:
    """Whether `$NAME` stands for this very word wherever it stands, in quotes or not."""
    return bool(value) and bool(_BARE.fullmatch(value))
