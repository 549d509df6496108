"""`llmos serve`: this machine's model for other programs and machines, over OpenAI's HTTP API."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.console import screen
from llmos.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from llmos.serve.working import Room


def serve(options: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C; what runs then has ten seconds to end."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise ConfigError(
            "serving needs libraries that are not installed", "Run: pip install 'llmos[serve]'"
        ) from None
    from llmos.serve import keys

    known = keys.load(options.keys) if options.keys else {}
    _check(options, bool(known))
    with _listening(options) as sock:
        server = uvicorn.Server(uvicorn.Config(_application(options, known), **_settings(options)))
        screen.write(sys.stderr, f"llmos: {options.name} at {_address(options, sock)}\n")
        server.run(sockets=[sock])
    return 0


def _listening(options: argparse.Namespace) -> socket.socket:
    """Before the model is loaded: what cannot be had is said at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=256)
    except OSError as error:
        text = f"{options.host}, port {options.port}, cannot be listened on: {error.strerror or error}"
        raise UsageError(text, "Choose others: --host, --port") from None


def _application(options: argparse.Namespace, known: dict[bytes, str]) -> Any:
    from llmos.engine import store
    from llmos.serve.app import application
    from llmos.serve.keys import Doorkeeper

    options.model = options.model or store.current()
    options.name = options.name or Path(options.model).stem
    file = store.resolve(options.model)
    room = _one_engine(options, file) if options.ray is None else _replicas(options)
    return application(room, Doorkeeper(known, options.per_minute), options.name, own_names_only=not known)


def _one_engine(options: argparse.Namespace, file: Path) -> Room:
    from llmos.engine.engine import Engine
    from llmos.serve.working import Workroom

    engine = Engine.load(
        file,
        dtype="auto",
        threads=options.threads,
        context_tokens=options.context,
        device=options.device,
    )
    return Workroom(engine, options.max_waiting)


def _replicas(options: argparse.Namespace) -> Room:
    """Engines in processes that Ray starts: each finds the model's name, or its path, on its own machine."""
    from llmos.engine.localfile import is_path
    from llmos.serve import cluster

    least, most = options.replicas or (1, 1)
    threads = options.threads or 1
    joined = cluster.join(options.ray, own_processors=threads * most)
    from llmos.serve import replicas  # Ray must not be imported before

    model = str(Path(options.model).absolute()) if is_path(options.model) else options.model
    wanted = replicas.Wanted(
        model, f"llmos-{options.name}", least=least, most=most, target=options.target, threads=threads,
        context_tokens=options.context, max_waiting=options.max_waiting,
    )  # fmt: skip
    return replicas.start(wanted, joined)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "log_level": "warning", "access_log": False,
        "timeout_graceful_shutdown": 10, "timeout_keep_alive": 30, "limit_concurrency": 512,
        "server_header": False, "ws": "none",
    }  # fmt: skip
    if options.tls_cert:
        found |= {"ssl_certfile": str(options.tls_cert), "ssl_keyfile": str(options.tls_key)}
    return found


def _check(options: argparse.Namespace, has_keys: bool) -> None:
    """Other machines are served with keys, and what they say is encrypted."""
    if options.replicas and options.ray is None:
        raise UsageError("--replicas are had with --ray", "Give --ray, or start one server for each engine.")
    if options.ray is not None and options.device != "cpu":
        raise UsageError("with --ray engines compute on processors", "Leave one of --ray and --device out.")
    if options.ray is not None and importlib.util.find_spec("ray") is None:
        raise ConfigError("--ray needs Ray, which is not installed", "Run: pip install 'llmos[serve,ray]'")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise UsageError("TLS needs a certificate and its key", "Give both --tls-cert and --tls-key.")
    for file in filter(None, (options.tls_cert, options.tls_key)):
        if not Path(file).is_file():
            raise UsageError(f"there is no file {file}", "Check --tls-cert and --tls-key.")
    if _is_own(options.host):
        return
    if not has_keys:
        raise UsageError(
            f"{options.host} is reached from other machines, and there are no keys",
            "Give --keys FILE, with NAME KEY a line.",
        )
    if not options.tls_cert and not options.plain:
        raise UsageError(
            f"{options.host} is reached from other machines, and keys would go there in plain text",
            "Give --tls-cert and --tls-key, or --plain where something in front of it encrypts.",
        )


def _is_own(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(options: argparse.Namespace, sock: socket.socket) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{'https' if options.tls_cert else 'http'}://{host}:{sock.getsockname()[1]}/v1"


VERBS = {"serve": serve}
