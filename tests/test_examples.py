"""The examples of docs/vllm.md: files that their programs can read, as safe as it says, and at one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmos import config
from llmos.paths import PACKAGE_DIR

DOCS = PACKAGE_DIR.parent / "docs"
HERE = DOCS / "examples" / "vllm"
PAGE = (DOCS / "vllm.md").read_text()
UNIT = (HERE / "vllm.service").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((HERE / "compose.yaml").read_text())["services"])


def unit_command() -> list[str]:
    found = re.search(r"^ExecStart=((?:.*\\\n)*.*)", UNIT, re.MULTILINE)
    assert found
    return shlex.split(found[1].replace("\\\n", " "))


def options(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` alike; a flag is `true`. What stands first is the model."""
    found, name = {"model": words[0]}, ""
    for word in words[1:]:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            found[name] = value or "true"
        else:
            found[name] = word
    return found


def test_the_unit_is_one(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze. Run: apt install systemd")
    command = ["systemd-analyze", "verify", "--recursive-errors=no", str(HERE / "vllm.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [
        line for line in done.stderr.splitlines() if "/opt/vllm/bin/vllm is not executable" not in line
    ]
    assert not complaints, done.stderr


def test_unit_and_compose_file_start_the_same_server(services: dict[str, Any]) -> None:
    program, verb, *words = unit_command()
    assert (program, verb) == ("/opt/vllm/bin/vllm", "serve")
    assert options(words) == options(services["vllm"]["command"])
    for name, value in services["vllm"]["environment"].items():
        assert f"{name}={value}" in UNIT


def test_the_server_listens_on_loopback_and_its_key_is_on_no_command_line(services: dict[str, Any]) -> None:
    server, door = services["vllm"], services["door"]
    assert options(server["command"])["host"] == "127.0.0.1" and server["ports"] == ["443:443"]
    assert door["network_mode"] == "service:vllm" and "ports" not in door
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\n" in UNIT
    assert "api-key" not in " ".join([*unit_command(), *server["command"]])
    assert server["env_file"] == ["vllm.env"] and "EnvironmentFile=/etc/vllm/vllm.env\n" in UNIT


def test_the_door_passes_two_addresses_on_and_nothing_else() -> None:
    places = dict(
        re.findall(r"location (\S+ ?\S*) \{\n(.*?)\n    \}", (HERE / "nginx.conf").read_text(), re.DOTALL)
    )
    passed = {place for place, body in places.items() if "proxy_pass http://127.0.0.1:8000;" in body}
    assert passed == {"= /v1/chat/completions", "= /v1/models"}
    assert set(places) - passed == {"/"} and places["/"].split() == ["return", "404;"]


def test_the_version_is_pinned_and_one(services: dict[str, Any]) -> None:
    version = services["vllm"]["image"].rpartition(":v")[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert set(re.findall(r"(?<![\d.])0\.\d+\.\d+", PAGE)) == {version} and f"vllm=={version}" in PAGE


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_what_pages_show_of_backends_is_configuration(page: Path, tmp_path: Path) -> None:
    blocks = [
        block
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
        if "[[backend]]" in block
    ]
    assert blocks or page.name not in ("vllm.md", "cloud.md")
    for block in blocks:
        (tmp_path / "config.toml").write_text(block)
        assert config.load((tmp_path / "config.toml",)).backend


def test_llmos_asks_for_what_is_served(services: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    backend = config.load((tmp_path / "config.toml",)).backend[0]
    served = options(services["vllm"]["command"])
    assert (backend.model, str(backend.window)) == (served["served-model-name"], served["max-model-len"])
    assert backend.url.startswith("https://") and backend.key_file and backend.dialect == "json_schema"
