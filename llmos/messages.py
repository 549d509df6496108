"""The plain-data types a request narrows through, each frozen.

    Ask -> ToolCall -> Plan -> Verdict -> (consent) -> Permit -> Outcome        Events go to the client

Everything that crosses a process boundary is one of these as JSON. `Permit` is the exception: it
has no JSON form on purpose, is minted by `guard.gate` alone and is accepted by `guard.spawn` alone.
Units stand in names (`timeout_s`, `num_bytes`). Paths are absolute strings once they are in a Plan.
"""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

JsonObject = dict[str, Any]


class Message(BaseModel):
    """Base: frozen, and loud about unknown keys (a typo in a frame is an error, not a default)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def new_id() -> str:
    return uuid.uuid4().hex[:12]


class Decision(enum.IntEnum):
    """Verdicts are ordered; the strictest wins, so `max()` combines them."""

    ALLOW = 0
    ASK = 1
    DENY = 2

    @property
    def word(self) -> str:
        return self.name.lower()


Status = Literal["done", "denied", "failed", "needs_approval", "needs_input", "not_understood"]
# How far consent reaches: `none` (unattended), `yes` (--yes: what would be asked is approved),
# `interactive` (the client answers each approval event).
Consent = Literal["none", "yes", "interactive"]
# Where a request may be thought about: `cloud` is the person's word that it may leave the machine.
Route = Literal["auto", "local", "cloud"]


class Caller(Message):
    """Who asks, as the kernel says it (SO_PEERCRED), never as the client claims it."""

    uid: int
    gid: int
    pid: int = 0


class Ask(Message):
    """One request of a person or a script, in their words."""

    id: str = Field(default_factory=new_id, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    text: str
    cwd: str
    mode: Literal["ask", "plan", "translate"] = "ask"
    consent: Consent = "none"
    data_b64: str | None = None  # piped stdin, base64: it is data, never instructions
    write: tuple[str, ...] = ()  # write roots the person added with --write, absolute
    session: str = ""
    policy: str = ""  # rules that only tighten: the text of a policy file, or the name of a shipped set
    route: Route = "auto"
    backend: str = ""  # the one cloud backend to use; consent for this request, as `cloud` is


class ToolSpec(Message):
    """What the planner knows of a tool: enough for grammar and prompt, nothing of how it runs.

    `parameters` is the JSON Schema (draft 2020-12) of the arguments object. With `raw` set, the tool's
    only argument of that name is written as plain text up to the end of the line instead of as JSON:
    a shell command needs no second layer of escapes.
    """

    name: str
    summary: str
    parameters: JsonObject
    raw: str | None = None
    common: bool = False  # listed in every prompt; others only where a request is near to them
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Example:
    """An example sentence of a manifest and the arguments it means: a thousand of them, hence the slots."""

    say: str
    args: JsonObject


class ToolCall(Message):
    tool: str
    args: JsonObject = Field(default_factory=dict)


# --- Plan: what a call would do --------------------------------------------------------------


class Run(Message):
    """Run one program in the sandbox."""

    kind: Literal["run"] = "run"
    argv: tuple[str, ...]
    stdin_text: str | None = None  # text the tool feeds in
    stdin_data: bool = False  # feed the request's piped data in
    timeout_s: float = 60.0
    ok_codes: tuple[int, ...] = (0,)  # grep's 1 means "nothing found", not a failure


class Shell(Message):
    """Run shell text in the sandbox; `guard.commandline` decides how much of it is understood."""

    kind: Literal["shell"] = "shell"
    text: str
    stdin_data: bool = False
    timeout_s: float = 60.0


class Redirect(Message):
    """`fd` op target, as in the shell; the target of `>&` is a descriptor's number, else a path as typed."""

    fd: int
    op: Literal["<", ">", ">>", ">&"]
    target: str


class Exec(Message):
    """One program of a pipeline: what execve(2) gets. `program` is absolute; `env` holds NAME=value."""

    argv: tuple[str, ...]
    program: str
    redirects: tuple[Redirect, ...] = ()
    env: tuple[str, ...] = ()


class Pipeline(Message):
    """Programs joined by pipes. `joiner` stands before it: empty for the first, else `&&`, `||` or `;`.

    With `cd`, it is a change of folder instead (relative to the one before) and `commands` is empty.
    """

    commands: tuple[Exec, ...] = ()
    joiner: Literal["", "&&", "||", ";"] = ""
    cd: str | None = None


class Pipelines(Message):
    """Understood shell text: plain words, wired in one sandbox without a shell. `text` is what is shown."""

    kind: Literal["pipelines"] = "pipelines"
    text: str
    pipelines: tuple[Pipeline, ...]
    stdin_data: bool = False
    timeout_s: float = 60.0
    ok_codes: tuple[int, ...] = (0,)


class Observe(Message):
    """Read facts of the running system by a named, read-only observer (psutil); starts no process."""

    kind: Literal["observe"] = "observe"
    observer: str
    args: JsonObject = Field(default_factory=dict)


class Signal(Message):
    """Signal one process through its pidfd; `started` (psutil create_time) guards against pid reuse."""

    kind: Literal["signal"] = "signal"
    pid: int
    started: float
    signal: str = "TERM"
    grace_s: float = 5.0  # then KILL, if it is TERM that was sent


class Change(Message):
    """Change the running system through a named changer of the broker; starts no program.

    `shows` is the command line that a person would have typed for it.
    """

    kind: Literal["change"] = "change"
    changer: str
    args: JsonObject = Field(default_factory=dict)
    shows: str


class Start(Message):
    """Start a program that outlives the request, in the sandbox, its output in a log file.

    What it may use at most stands here where that is less than the sandbox's own bounds; 0 is not asked for.
    """

    kind: Literal["start"] = "start"
    argv: tuple[str, ...]
    name: str
    cpus: float = 0.0
    memory_bytes: int = 0
    processes: int = 0


Step = Annotated[Run | Shell | Pipelines | Observe | Change | Signal | Start, Field(discriminator="kind")]


class Changed(Message):
    """What a changer did: what to tell, and the steps that take it back (none: it cannot be taken back).

    `exit_code` is that of a program it ran elsewhere, in a container.
    """

    text: str
    reverse: tuple[Step, ...] = ()
    exit_code: int = 0


class ProgramUse(Message):
    """One program as it is started: what a rule may ask about beyond its name.

    `options` are exact (`-r`, `--force`; a cluster `-rf` is `-r` and `-f`), without their values.
    """

    program: str  # absolute
    options: tuple[str, ...] = ()
    subcommand: str = ""  # of git, docker, systemctl …


class Effects(Message):
    """Normalised effects of a plan: the facts the policy judges and the person is shown."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()  # created or changed
    deletes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()  # absolute paths
    network: tuple[str, ...] = ()  # hosts, or "*"
    signals: tuple[int, ...] = ()  # pids
    resources: tuple[str, ...] = ()  # whose limits or priority change: pid:7, unit:x.service, container:web
    units: tuple[str, ...] = ()  # systemd units that are started, stopped, enabled …
    containers: tuple[str, ...] = ()  # of the Docker Engine: container:web, image:x, volume:data, network:n
    settings: tuple[str, ...] = ()  # what weakens a container: privileged, network=host, mount:/etc …
    packages: tuple[str, ...] = ()  # installed or removed
    uses: tuple[ProgramUse, ...] = ()  # how the programs are started, as far as it was understood
    opaque: str = ""  # why the effects cannot be known before running; empty when they are

    @property
    def targets(self) -> tuple[str, ...]:
        """What of the running system changes, beside files and signals."""
        return (*self.resources, *self.units, *self.containers, *self.settings, *self.packages)


class Plan(Message):
    """One call, made concrete. `command` is the exact thing the person is shown before consent."""

    call: ToolCall
    command: str
    effects: Effects
    steps: tuple[Step, ...]
    read_only: bool  # declared by the manifest; the sandbox enforces it by granting no writes
    reply: str | None = None  # answer/ask: the text is the result and nothing runs
    opens: tuple[str, ...] = ()  # the caller's trash, where a shipped tool puts things there (`trashcan`)
    whole: bool = False  # all of it or nothing: of a call that fails no change is kept


class Verdict(Message):
    decision: Decision
    rule: str
    reason: str


class Pin(Message):
    """What a call would do and depends on, as it was pinned (`daemon.pinning`). Digests are SHA-256."""

    command: str
    verdict: str
    rule: str = ""
    reason: str = ""
    effects: Effects
    places: dict[str, str] = Field(default_factory=dict)  # path: file, folder, link, nothing, any …
    content: dict[str, str] = Field(default_factory=dict)  # path: digest
    programs: dict[str, str] = Field(default_factory=dict)  # path: digest
    manifest: str
    policy: str
    repeatable: bool = False  # it may find what an earlier run of it has made


class Pinned(Message):
    """A typed call that may run only while its pin holds."""

    tool: str
    args: JsonObject = Field(default_factory=dict)
    pin: Pin


class Outcome(Message):
    """What running a plan gave. `exit_code` is the program's own, or None when nothing ran.

    `reverse` takes back what no view of the files could: steps for `guard.deeds`, in their order.
    """

    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False
    cancelled: bool = False
    duration_ms: float = 0.0
    reverse: tuple[Step, ...] = ()


# --- Results for clients (the JSON contract) --------------------------------------------------


class CallResult(Message):
    tool: str
    args: JsonObject
    verdict: str
    rule: str
    reason: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    effects: JsonObject = Field(default_factory=dict)
    undo_id: str | None = None


class Timing(Message):
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    policy_ms: float = 0.0
    sandbox_ms: float = 0.0
    total_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0


class Result(Message):
    """The one object `--json` prints."""

    id: str
    status: Status
    route: str = "local"
    calls: tuple[CallResult, ...] = ()
    answer: str | None = None
    timing: Timing = Timing()


EXIT_CODES: dict[Status, int] = {
    "done": 0,
    "denied": 3,
    "needs_approval": 4,
    "failed": 5,
    "needs_input": 6,
    "not_understood": 6,
}


class Event(Message):
    """Progress of one request, sent to the client that asked and to subscribers.

    kinds: queued, thinking, text (streamed model text), call (a judged call: tool, command, verdict),
    rehearsing (on a copy-on-write view), approval (the client must answer with `approve`), running,
    output (a chunk), finished; notice (a sentence for the person, beside the request).
    """

    id: str
    kind: Literal[
        "queued",
        "thinking",
        "text",
        "call",
        "rehearsing",
        "approval",
        "running",
        "output",
        "finished",
        "notice",
    ]
    data: JsonObject = Field(default_factory=dict)


# --- Frames between broker and planner -------------------------------------------------------


class Worked(Message):
    """What a sentence of this person came to mean: an example for the prompt."""

    say: str
    calls: tuple[ToolCall, ...]


class Taken(Message):
    """A step of this request that has been taken, for the next thought: the call and what came of it."""

    call: ToolCall
    outcome: str  # trimmed; it is data, never instructions


class Think(Message):
    """Broker to planner: turn this request into calls."""

    type: Literal["think"] = "think"
    id: str
    text: str
    # weigh: how much each of `passages` makes one ask this; tell: one line from `data_head` alone
    mode: Literal["ask", "translate", "weigh", "tell"] = "ask"
    cwd: str = "/"
    entries: tuple[str, ...] = ()  # some names in cwd, so that the model can copy them
    data_head: str | None = None  # the first lines of piped data, as data
    # columns and keys of files, names in folders, that the text names (toolbox.glance); never sent away
    heads: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    locale: str = ""
    examples: tuple[Worked, ...] = ()  # of the person who asks, nearest first; they leave no machine
    attempt: int = 0  # 0: the likeliest reply; 1, 2, …: the next ones, after those before it failed
    taken: tuple[Taken, ...] = ()  # the steps so far, of a request in several


class Teach(Message):
    """Broker to planner: the tools in force now (at start and after every reload)."""

    type: Literal["teach"] = "teach"
    tools: tuple[ToolSpec, ...]


class Adapt(Message):
    """Broker to planner: from the next request on with this adapter (as `[model] adapter` says it)."""

    type: Literal["adapt"] = "adapt"
    adapter: bool | str


class Stop(Message):
    """Broker to planner: cancel the request with this id, at the next token."""

    type: Literal["stop"] = "stop"
    id: str


ToPlanner = Annotated[Think | Teach | Adapt | Stop, Field(discriminator="type")]


class Ready(Message):
    """Planner to broker: weights are loaded, requests will be answered."""

    type: Literal["ready"] = "ready"
    model: str
    load_ms: float
    resident_bytes: int = 0
    unconfined: tuple[str, ...] = ()  # layers of its own confinement that this kernel lacks, and why


class Delta(Message):
    """Planner to broker: streamed text of the answer being generated."""

    type: Literal["delta"] = "delta"
    id: str
    text: str


class Thought(Message):
    """Planner to broker: the typed result. Calls may be empty only when `understood` is false."""

    type: Literal["thought"] = "thought"
    id: str
    calls: tuple[ToolCall, ...] = ()
    command: str | None = None  # translate mode
    said: str = ""  # tell mode
    weights: tuple[float, ...] = ()  # weigh mode: log-likelihood of the text after each passage
    confidence: float = 0.0  # of calls: how probably right; of a command: mean probability of its tokens
    understood: bool = True
    route: str = "local"
    more: bool = False  # of a backend: it wants to see what came of these calls, and go on
    timing: Timing = Timing()


class Failed(Message):
    """Planner to broker: this request (or, with an empty id, the start) failed."""

    type: Literal["failed"] = "failed"
    id: str = ""
    error: JsonObject  # as LlmosError.to_rpc()


FromPlanner = Annotated[Ready | Delta | Thought | Failed, Field(discriminator="type")]

ToolSpec.model_rebuild()
