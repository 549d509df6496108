"""What every test shares: real weights from the model store, a home of its own, honest skips.

Plain `pytest` on a laptop without root, weights or a sandbox runs what can run and says at the end
what it left out, why, and which command mends it. With LLMOS_TEST_REQUIRE_REAL=1 (CI) a skip is a
failure: a test that did not run has not passed. Nothing here downloads anything.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from llmos import paths
from tests import builds, dockerd

REQUIRE_REAL = os.environ.get("LLMOS_TEST_REQUIRE_REAL", "") == "1"
# Tests get homes of their own, but gigabytes of weights are read-only and shared: the folder is
# fixed here, before any test changes HOME, and the programs that tests start inherit it.
os.environ.setdefault("LLMOS_MODELS_DIR", str(paths.models_dir()))
# CI tries the same examples each time, so that a red run speaks of its change; everywhere else, new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
# A shell starts background jobs with Ctrl-C ignored, and what is ignored stays so in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)


# --- the model store --------------------------------------------------------------------------


@cache
def _stored(name: str) -> Path | str:
    """The verified weights, or the sentence that says why there are none."""
    from llmos.engine import store
    from llmos.errors import ModelError

    try:
        return store.resolve(name)
    except ModelError as error:
        return f"{error}. {error.next_step}"


def _weights(name: str) -> Path:
    found = _stored(name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """SmolLM2-135M-Instruct, GGUF: the tests' model (`llmos model pull tiny`)."""
    return _weights("tiny")


@pytest.fixture(scope="session")
def default_model() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct, GGUF: the model users get (`llmos model pull default`)."""
    return _weights("default")


# --- a home of one's own ----------------------------------------------------------------------


def _home_variables(home: Path, runtime: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_RUNTIME_DIR": str(runtime),
    }


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private folder with a short name: a Unix socket's path may have 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="llmos-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def isolated_home(tmp_path: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME and the XDG folders of this test alone (environment only, so children inherit them)."""
    home = tmp_path / "home"
    home.mkdir()
    for name, value in _home_variables(home, short_dir).items():
        monkeypatch.setenv(name, value)
    for name in ("LLMOS_SOCKET", "LLMOS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def make_home() -> Iterator[Callable[[], dict[str, str]]]:
    """For wider scopes: each call makes a home and gives the environment for a subprocess."""
    made: list[Path] = []

    def make() -> dict[str, str]:
        root = Path(tempfile.mkdtemp(prefix="llmos-", dir="/tmp"))
        made.append(root)
        home, runtime = root / "home", root / "run"
        home.mkdir()
        runtime.mkdir(mode=0o700)
        kept = {k: v for k, v in os.environ.items() if k not in ("LLMOS_SOCKET", "LLMOS_MODEL")}
        return kept | _home_variables(home, runtime)

    yield make
    for root in made:
        shutil.rmtree(root, ignore_errors=True)


# --- a Docker Engine ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[dockerd.Engine]:
    """A real engine for this session, with the image `dockerd.IMAGE`."""
    if reason := dockerd.missing():
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("the Docker Engine needs root. Run: sudo ./test.sh")
    with dockerd.running() as engine:
        yield engine


def pytest_configure(config: pytest.Config) -> None:
    builds.use_program()


# --- markers: what this machine can run -------------------------------------------------------


@cache
def _sandbox_missing() -> str:
    """Why no command can run in the sandbox here, or an empty string. Tried for real, as who we are."""
    from llmos.guard.probe import probe

    tried = next(check for check in probe() if check.name == "sandbox")
    return "" if tried.ok else f"{tried.detail}. {tried.mend}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("weights"):
        _weights("tiny")
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root. Run: sudo ./test.sh")
    if item.get_closest_marker("sandbox") and (reason := _sandbox_missing()):
        pytest.skip(reason)


# --- skips: counted, explained, and in CI refused ---------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_REAL and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        report.outcome = "failed"
        report.longrepr = f"left out although LLMOS_TEST_REQUIRE_REAL=1 requires it: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line a reason, so that 'all passed' is never read where half was left out."""
    left_out: dict[str, int] = defaultdict(int)
    for report in terminalreporter.stats.get("skipped", []):
        left_out[_reason(report)] += 1
    if not left_out:
        return
    terminalreporter.section("left out on this machine")
    for reason, count in sorted(left_out.items(), key=lambda pair: -pair[1]):
        terminalreporter.line(f"{count:4} × {reason}")
