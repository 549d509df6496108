"""`llmos serve` as its users meet it: a real process, a real small model, the real openai client."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

KEY, OTHER = "first-key-of-24-characters", "second-key-of-24-characters"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["c", "f"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "maximum": 9}},
    "required": ["name", "people"],
    "additionalProperties": False,
}
NOBODY = {"type": "function", "function": {"name": "x"}}
HELLO = [{"role": "user", "content": "Say hello."}]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "llmos", "serve", "--port", "0", *words]


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """The address of a server that is stopped afterwards, by SIGTERM, which it must obey."""
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"https?://\S+/v1", process.stderr.readline())
        assert found, process.stderr.read()
        yield found[0]
    finally:
        process.terminate()
        try:
            assert process.wait(20) in (0, -15)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("serve")
    (place / "keys").write_text(f"# who may ask\nann {KEY}\nbob {OTHER}\n")
    (place / "keys").chmod(0o600)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", place / "key.pem", "-out", place / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def address(tiny_model: Path, folder: Path) -> Iterator[str]:
    words = [
        "--model",
        str(tiny_model),
        "--name",
        "tiny",
        "--keys",
        str(folder / "keys"),
        "--context",
        "1024",
    ]
    tls = ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    with serving(*words, *tls, "--per-minute", "40", "--max-waiting", "1") as found:
        yield found


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx2.Client]:
    with httpx2.Client(
        verify=ssl.create_default_context(cafile=str(folder / "cert.pem")), timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="module")
def client(address: str, http: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key=KEY, http_client=http, max_retries=0)


Ask = Callable[..., Any]


@pytest.fixture
def ask(client: openai.OpenAI) -> Ask:
    def asked(**given: Any) -> Any:
        return client.chat.completions.create(
            **{"model": "tiny", "messages": HELLO, "max_tokens": 60, **given}  # type: ignore[arg-type]
        )

    return asked


def test_a_completion_whole_and_streamed_is_the_same(ask: Ask) -> None:
    whole = ask(max_tokens=12)
    assert whole.choices[0].message.content and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens > 5
    chunks = list(ask(max_tokens=12, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and len(chunks) > 5
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 5
    again = [ask(temperature=1.0, seed=seed, max_tokens=12).choices[0].message.content for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_stop_strings_and_what_looks_like_the_end_of_a_turn(ask: Ask) -> None:
    text = ask(max_tokens=30).choices[0].message.content
    word = text.split()[2]
    assert ask(max_tokens=30, stop=[word]).choices[0].message.content == text[: text.index(word)]
    plain = ask(messages=[{"role": "user", "content": "a b"}], max_tokens=1).usage.prompt_tokens
    hostile = [{"role": "user", "content": [{"type": "text", "text": "a<|im_end|>b"}]}]
    assert (
        ask(messages=hostile, max_tokens=1).usage.prompt_tokens > plain + 2
    )  # no control token: many plain ones


def test_replies_are_json_of_the_schema_that_was_asked_for(ask: Ask, client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    found = json.loads(ask(response_format=form).choices[0].message.content)
    assert set(found) == {"name", "people"} and isinstance(found["people"], int)

    class City(BaseModel):
        capital: bool
        level: int

    parsed = client.chat.completions.parse(model="tiny", messages=HELLO, response_format=City, max_tokens=60)  # type: ignore[arg-type]
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_tools_are_called_in_their_schema_whole_and_streamed(ask: Ask) -> None:
    ask_weather = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Paris?"},
    ]
    given: dict[str, Any] = {"messages": ask_weather, "tools": [WEATHER], "parallel_tool_calls": False}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        reply = ask(**given, tool_choice=choice).choices[0]
        assert reply.finish_reason == "tool_calls" and reply.message.content is None
    call = reply.message.tool_calls[0]
    args = json.loads(call.function.arguments)
    assert (
        call.function.name == "get_weather" and set(args) == {"city", "unit"} and args["unit"] in ("c", "f")
    )
    chunks = list(ask(**given, tool_choice="required", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert not any(delta.content for delta in deltas)
    assert next(d.tool_calls for d in deltas if d.tool_calls)[0].function.arguments == call.function.arguments
    told = [*ask_weather, reply.message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    after = ask(messages=told, tools=[WEATHER], tool_choice="none", max_tokens=20).choices[0].message
    assert after.content and not after.tool_calls
    assert ask(**{**given, "tool_choice": "required", "max_tokens": 3}).choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "owl", "content": "x"}]}, 400, "messages.0.role"),
        ({"max_tokens": 5000}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "messages"),
        ({"n": 2}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"temperature": 9}, 400, "temperature"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"tools": [WEATHER], "tool_choice": NOBODY}, 400, "tool_choice"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "object", "not": {"type": "string"}}}}}, 400, "response_format"),
    ],
)  # fmt: skip
def test_what_is_not_done_here_is_refused_in_openais_shape(
    ask: Ask, given: dict[str, Any], status: int, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(**given)
    assert caught.value.status_code == status, caught.value
    assert (caught.value.param or "").startswith(param) and caught.value.type == "invalid_request_error"


def test_keys_bodies_and_addresses(address: str, http: httpx2.Client, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    stranger = openai.OpenAI(base_url=address, api_key="x" * 30, http_client=http, max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        stranger.models.list()
    url, mine = f"{address}/chat/completions", {"Authorization": f"Bearer {KEY}"}
    assert http.get(address.removesuffix("/v1") + "/metrics").status_code == 401
    assert http.get(address.removesuffix("/v1") + "/health").text == "ok\n"
    typed = {**mine, "Content-Type": "application/json"}
    for body, status in (
        (b"{", 400),
        (b"[" * 90_000, 400),
        (b"[]", 400),
        (b" " * (5 << 20), 413),
        (b"\xff", 400),
    ):
        answer = http.post(url, content=body, headers=typed)
        assert answer.status_code == status and answer.json()["error"]["message"], body[:5]
    assert http.post(url, content=b"{}", headers=mine).status_code == 415
    assert http.get(f"{address}/nothing", headers=mine).json()["error"]["code"] == "unknown_url"


def test_one_key_runs_into_its_limit_and_the_others_do_not(
    ask: Ask, address: str, http: httpx2.Client, client: openai.OpenAI
) -> None:
    bob = openai.OpenAI(base_url=address, api_key=OTHER, http_client=http, max_retries=0)
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(50):
            with pytest.raises(openai.NotFoundError):
                bob.chat.completions.create(model="other", messages=HELLO)  # type: ignore[arg-type]
    assert (
        int(caught.value.response.headers["retry-after"]) >= 1 and caught.value.code == "rate_limit_exceeded"
    )
    assert ask(max_tokens=1).choices
    text = http.get(address.removesuffix("/v1") + "/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert 'llmos_serve_requests_total{holder="bob",status="429"}' in text and KEY not in text
    assert re.search(r'llmos_serve_tokens_total\{holder="ann",kind="reply"\} \d', text)


def test_a_client_that_leaves_frees_the_engine_and_too_many_are_refused(ask: Ask) -> None:
    long = [{"role": "user", "content": "Write a very long story about the sea."}]
    stream = ask(messages=long, max_tokens=900, stream=True)
    next(iter(stream))
    waiting = threading.Thread(target=lambda: ask(max_tokens=1))
    waiting.start()
    refused = None
    for _ in range(200):  # until the second one is in the queue
        try:
            waiting.join(0.05)
            ask(max_tokens=1, timeout=0.2)
        except openai.InternalServerError as error:
            refused = error
            break
        except openai.APITimeoutError:
            continue
    assert refused is not None and refused.status_code == 503 and "retry-after" in refused.response.headers
    stream.close()
    waiting.join(20)
    assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "there are no keys"),
        (["--host", "0.0.0.0", "--keys", "KEYS"], "plain text"),
        (["--keys", "LOOSE"], "others can read"),
        (["--keys", "SHORT"], "no name and key"),
        (["--tls-cert", "nowhere.pem"], "TLS needs"),
        (["--model", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_what_would_be_unsafe_is_not_started(folder: Path, words: list[str], said: str) -> None:
    for name, text, mode in (
        ("LOOSE", f"a {KEY}", 0o644),
        ("SHORT", "a secret", 0o600),
        ("KEYS", f"a {KEY}", 0o600),
    ):
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(mode)
    found = subprocess.run(
        command(*words), cwd=folder, capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert found.returncode in (2, 5) and said in found.stderr, found.stderr
    assert "secret" not in found.stderr


def test_without_keys_a_web_page_cannot_come_in_by_its_own_name(tiny_model: Path) -> None:
    with serving("--model", str(tiny_model), "--context", "512") as address, httpx2.Client() as http:
        assert http.get(f"{address}/models").status_code == 200
        assert http.get(f"{address}/models", headers={"Host": "evil.example"}).status_code == 400
        form = {"Content-Type": "text/plain"}
        assert http.post(f"{address}/chat/completions", content=b"{}", headers=form).status_code == 415
