"""A real server behind a proxy that spoils its answers, and the same one unspoiled as the second cloud."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.bench.clouds import Proxy
from tests.daemon import support
from tests.serve.test_serve import serving


def test_the_second_cloud_answers_what_the_first_spoils(
    tiny_model: Path, make_home: Callable[[], dict[str, str]], short_dir: Path
) -> None:
    with serving("--model", str(tiny_model), "--name", "tiny", "--threads", "1") as address:
        proxy = Proxy(address)
        clouds = [
            {"name": name, "url": url, "model": "tiny", "max_reply_tokens": 64, "timeout_s": 60}
            for name, url in (("first", proxy.url), ("second", address))
        ]
        settings = {"backend": clouds, "offload": {"retries": 0, "breaker_failures": 100}}
        daemon = support.start(short_dir, {}, settings, env=make_home())
        try:
            with daemon.connect() as client:
                client.sock.settimeout(240)
                for fault in ("none", "reset", "500", "429", "half", "bad-json"):
                    proxy.fault = fault
                    said = client.call("translate", text="list the files", cwd="/", route="cloud")
                    if "result" in said:
                        expected = "cloud:first" if fault == "none" else "cloud:second"
                        assert said["result"]["route"] == expected and said["result"]["command"]
                    else:  # a small model may ramble until it is cut off, twice: refused, with who it was
                        who = "first" if fault == "none" else "second"
                        assert f"the answer of {who} is no valid call, twice" in said["error"]["message"]
        finally:
            daemon.stop()
