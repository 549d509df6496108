#!/usr/bin/env bash
# Runs the tests, arguments going to pytest:   ./test.sh   ./test.sh tests/guard -k sandbox
#
# Installs what they need beside llmos, and the tests' weights (98 MB). What this machine cannot run is
# left out and named at the end; LLMOS_TEST_REQUIRE_REAL=1 makes leaving out a failure.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=${LLMOS_VENV:-$here/.venv}

"$here/install.sh" --for-tests
"$venv/bin/llmos" model pull tiny >&2 || printf 'test.sh: going on without the weights\n' >&2
cd -- "$here"
exec "$venv/bin/python" -m pytest "$@"
