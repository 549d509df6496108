#!/usr/bin/env bash
# Installs llmos into .venv beside this file, fetches the default weights, and does a first request:
#
#     ./install.sh "what are the three largest files in this folder?"
#
# Safe to run again: what is there already is kept. Needs no root and changes nothing outside this
# folder, ~/.cache/llmos (the weights) and the link ~/.local/bin/llmos.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=${LLMOS_VENV:-$here/.venv}
extra=""
weights=default

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'install.sh: %s\n  %s\n' "$1" "$2" >&2
    exit 1
}

usage() {
    cat <<USAGE
usage: ./install.sh [--no-weights] [--for-tests] [REQUEST]

  REQUEST        a first thing to do, in your words, in the current folder
  --no-weights   do not fetch the model (491 MB)
  --for-tests    install what the tests need as well, fetch nothing, link nothing

LLMOS_VENV and LLMOS_PYTHON choose another environment folder and another Python (3.11 or newer).
pip's settings (index, proxy, offline folder) hold for everything that is fetched here. To save some
gigabytes of GPU libraries, point pip at a CPU build of torch before running this; see README.md.
USAGE
}

find_python() {
    local candidate
    for candidate in ${LLMOS_PYTHON:+"$LLMOS_PYTHON"} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v -- "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found" \
        "Install one (Debian, Ubuntu: sudo apt install python3 python3-venv), or set LLMOS_PYTHON=/path/to/python3."
}

make_venv() {
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    if [[ -n $(ls -A -- "$venv" 2>/dev/null) && ! -f $venv/pyvenv.cfg ]]; then
        fail "$venv holds something else than a Python environment" "Choose another folder: LLMOS_VENV=/path ./install.sh"
    fi
    local python
    python=$(find_python)
    say "making a Python environment in $venv"
    "$python" -m venv --clear -- "$venv" >&2 || fail "$python cannot make a virtual environment" \
        "Debian, Ubuntu: sudo apt install python3-venv; Fedora: sudo dnf install python3; then run this again."
}

install_package() {
    # The stamp spares a repeated run the minute that pip takes to find nothing to do.
    local stamp="$venv/.llmos-installed" now have
    now="$here $(cksum <"$here/pyproject.toml")"
    for have in "" "[test]"; do
        if [[ $have == "$extra"* && -x $venv/bin/llmos && $(cat "$stamp$have" 2>/dev/null) == "$now" ]]; then
            say "llmos is installed in $venv"
            return
        fi
    done
    say "installing llmos${extra:+ with $extra} and its libraries into $venv (torch is the large one)"
    "$venv/bin/python" -m pip install --disable-pip-version-check --editable "$here$extra" >&2 ||
        fail "pip could not install llmos" "Check the network and pip's settings (pip config list), then run this again."
    printf '%s' "$now" >"$stamp$extra"
}

link_command() {
    local bin="$HOME/.local/bin" link="$HOME/.local/bin/llmos"
    if [[ -e $link && ! -L $link ]]; then
        say "$link is somebody else's; call $venv/bin/llmos instead"
        return
    fi
    mkdir -p -- "$bin" && ln -sfn -- "$venv/bin/llmos" "$link"
    case ":$PATH:" in
        *":$bin:"*) say "the command is llmos ($link)" ;;
        *) say "the command is $link; to call it as llmos: export PATH=\"\$HOME/.local/bin:\$PATH\"" ;;
    esac
}

while [[ ${1-} == --* ]]; do
    case $1 in
        --no-weights) weights="" ;;
        --for-tests) extra="[test]" weights="" ;;
        --help) usage && exit 0 ;;
        --) shift && break ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

make_venv
install_package
[[ -n $extra ]] && exit 0
link_command
if [[ -n $weights ]]; then
    say "making sure of the weights ($weights)"
    "$venv/bin/llmos" model pull "$weights" >&2
fi
if [[ $# -gt 0 ]]; then
    say "llmos \"$*\""
    exec "$venv/bin/llmos" "$@"
fi
say "done. Try: llmos \"what are the three largest files in this folder?\""
