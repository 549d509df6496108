"""Shell commands for a container engine: each road to the machine is refused as it is to the docker tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.guard.commandline import analyse
from tests.guard import judging

REFUSED = {
    "containers.privileged": """
        docker run --privileged x
        docker exec --privileged web sh
        docker create --privileged x
        podman run --rm --privileged x
        sudo -u root docker run --privileged x
        docker run -d --privileged=true x
        bash -c 'docker run -d --privileged x && docker ps'
        for i in 1 2; do docker run --privileged x; done
        docker compose run --privileged web
        echo x | xargs docker run --privileged
        docker run \\\\n --privileged x
    """,
    "containers.places": """
        docker run -v /:/x b sh
        docker run --rm -itv/:/x b
        docker run -itv /:/x b
        nerdctl run -v /:/x b
        docker run --volume=/:/x b
        docker run -v /var/run/docker.sock:/s b
        docker run -v $HOME/.ssh:/k b
        docker run -v /etc/../:/x:ro b
        docker run --mount type=bind,source=/,target=/x b
        sh -c 'docker run -v /:/x b'
        docker run --mount source=v,target=/x,volume-opt=type=none,volume-opt=device=/,volume-opt=o=bind b
        docker volume create --driver local --opt type=none --opt device=/ --opt o=bind v
        docker volume create v -o device=/etc -o type=none -o o=bind
        docker build /
        docker build -t x /proc
        docker service create --mount type=bind,src=/,dst=/x b
        eval docker run -v /:/x b
        docker run -v link:/x -v /:/y b
    """,
    "containers.namespaces": """
        docker run --pid=host x
        docker run --pid host x
        docker run --ipc=host x
    """,
    "containers.capabilities": """
        docker run --cap-add=SYS_ADMIN x
        docker run --cap-add CAP_SYS_PTRACE x
        docker run --cap-add all x
    """,
    "containers.walls": """
        docker run --security-opt seccomp=unconfined x
        docker run --security-opt apparmor:unconfined x
    """,
    "containers.engine": """
        docker -H tcp://10.0.0.1:2375 ps
        docker --host=ssh://root@m ps
        DOCKER_HOST=tcp://m docker ps
        env DOCKER_HOST=tcp://m docker ps
        docker -c other ps
        docker --context other ps
        docker context use other
        docker context create x --docker host=tcp://m:2375
    """,
    "machine.roots": """
        docker cp web:/etc/x /etc/x
        docker save -o /etc/x b
        docker run --cidfile /etc/x b
    """,
}
CASES = [
    (rule, line.strip().replace("\\n", "\n"))
    for rule, lines in REFUSED.items()
    for line in lines.strip().splitlines()
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> judging.Place:
    return judging.make(tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize(("rule", "command"), CASES)
def test_what_leads_out_of_a_container_is_denied_in_a_shell_command_too(
    place: judging.Place, rule: str, command: str
) -> None:
    verdict = place.judge(command, place.folder)
    assert verdict.decision.word == "deny", verdict
    assert verdict.rule == rule or verdict.rule in ("machine.secrets", "machine.devices"), verdict


@pytest.mark.parametrize(
    "command",
    [
        "docker run -d -p 8080:80 -e A=b --name web nginx",
        "docker run b tool --privileged",
        "docker run --privileged=false b",
        "docker run -v data:/data b",
        "docker run -v ./src:/src b",
        "docker build -t x .",
        "docker exec -it web sh",
        "docker cp web:/etc/hosts .",
        "sudo docker ps",
        "sed -i 's/docker run --privileged/docker run/' notes.txt; ./go",
        "docker compose up -d",
    ],
)
def test_what_stays_inside_is_asked_about(place: judging.Place, command: str) -> None:
    assert place.judge(command, place.folder).decision.word == "ask"


def test_a_place_is_named_as_it_is_behind_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    found = analyse("docker run -v ./link:/x:ro --net host b", cwd=str(tmp_path), home="/root").effects
    assert found.settings == ("mount-ro:/", "network=host") and found.opaque


WORDS = (
    "docker", "-v", "/:/x", "--", "-", "=", "run", "volume", "create", "-o", "context", "build", "cp", ";",
    "|", "'", '"', "\\", "$(", "`", "A=b", "--mount", "-itv", "",
)  # fmt: skip


@given(st.lists(st.sampled_from(WORDS)))
def test_no_words_break_the_reading(words: list[str]) -> None:
    assert analyse(" ".join(words), cwd="/", home="/root").effects is not None
