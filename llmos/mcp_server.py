"""These tools for other assistants: a Model Context Protocol server on stdin and stdout, same guard.

Each of llmos' tools is one of MCP's (`file.list` is `file_list` there), and `ask` takes a sentence. A call is
judged, sandboxed and recorded as any other. What the policy asks about is put to the person through the
assistant (elicitation), where it can do that and `elicit` allows it; else it waits in `llmos inbox`.

What it does not protect against: an assistant that says yes in its person's name. Start it with elicitation
switched off, and every question waits for the person at a terminal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError, NoBackChannelError

import llmos
from llmos.client import AsyncClient
from llmos.errors import LlmosError

JsonObject = dict[str, Any]
ASK = "ask"
NOT_OFFERED = frozenset({"answer", "ask"})  # the planner's own ways to speak
MAX_SHOWN = 20  # effects of a question
INSTRUCTIONS = (
    "Work on this Linux machine through llmos: each call is judged by a policy, runs in a kernel sandbox, is "
    "recorded and can often be undone. Reading runs at once; a change may need the person's approval first."
)
_QUESTION = "approval"
_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"approve": {"type": "boolean", "title": "Run exactly this", "default": False}},
    "required": ["approve"],
}
_ASK_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"text": {"type": "string", "description": "what to do, in plain words"}},
    "required": ["text"],
    "additionalProperties": False,
}


@dataclass
class Bridge:
    """One assistant's session: its requests to the daemon, and the questions that are open."""

    daemon: AsyncClient
    cwd: str
    policy: str = ""
    write: tuple[str, ...] = ()
    elicit: bool = True
    _names: dict[str, str] = field(default_factory=dict)  # MCP's name: the tool's
    _asked: set[str] = field(default_factory=set)  # inbox items that were put to this assistant's person

    def server(self) -> Server[Any]:
        return Server(
            "llmos",
            version=llmos.__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )

    async def list_tools(
        self, context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        found = [spec for spec in await self.daemon.tools() if spec["name"] not in NOT_OFFERED]
        self._names = {named(spec["name"]): spec["name"] for spec in found}
        about = "Have something done that is said in plain words; a small local model makes typed calls of it"
        ask = types.Tool(name=ASK, description=about, input_schema=_ASK_SCHEMA)
        return types.ListToolsResult(tools=[ask, *map(_tool, found)])

    async def call_tool(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        try:
            if params.request_state:
                return await self._answered(params)
            told = await self.daemon.rpc("inbox.ask", await self._request(params))
            if told["item"] is None:
                return as_result(told["result"])
            return await self._put(context, told["item"])
        except LlmosError as error:
            return _text(f"{error} {error.next_step}", failed=True)

    async def _request(self, params: types.CallToolRequestParams) -> JsonObject:
        args = params.arguments or {}
        given: JsonObject = {
            "cwd": self.cwd,
            "write": list(self.write),
            "policy": self.policy,
            "origin": "mcp",
        }
        if params.name == ASK:
            return given | {"text": str(args.get("text") or "")}
        if params.name not in self._names:
            self._names = {named(spec["name"]): spec["name"] for spec in await self.daemon.tools()}
        return given | {"tool": self._names.get(params.name, params.name), "args": args}

    # --- questions ---

    async def _put(
        self, context: ServerRequestContext[Any], item: JsonObject
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Put what needs a person's word to them, with what it would really change."""
        capabilities = context.session.client_capabilities
        if not self.elicit or capabilities is None or capabilities.elicitation is None:
            return _text(_waits(item), failed=True)
        question = await self._question(item)
        try:
            answer = await context.session.elicit_form(question, _SCHEMA, context.request_id)
        except NoBackChannelError:  # protocols from 2026-07-28 on: the client asks, and calls again
            self._asked.add(item["id"])
            asked = types.ElicitRequest(
                params=types.ElicitRequestFormParams(message=question, requested_schema=_SCHEMA)
            )
            return types.InputRequiredResult(input_requests={_QUESTION: asked}, request_state=item["id"])
        except MCPError:
            return _text(_waits(item), failed=True)
        return await self._decided(item["id"], answer)

    async def _answered(self, params: types.CallToolRequestParams) -> types.CallToolResult:
        """The second half of a question that the client has put: only of one that was ours."""
        item_id = params.request_state or ""
        answer = (params.input_responses or {}).get(_QUESTION)
        if item_id not in self._asked or not isinstance(answer, types.ElicitResult):
            return _text("There is no such question. See: llmos inbox", failed=True)
        self._asked.discard(item_id)
        return await self._decided(item_id, answer)

    async def _decided(self, item_id: str, answer: types.ElicitResult) -> types.CallToolResult:
        if answer.action == "cancel":
            return _text(f"Nobody decided; it waits: llmos inbox approve {item_id}", failed=True)
        if answer.action != "accept" or (answer.content or {}).get("approve") is not True:
            await self.daemon.rpc("inbox.reject", {"id": item_id})
            return _text("The person said no; nothing was done.", failed=True)
        return as_result(await self.daemon.rpc("inbox.approve", {"item": item_id, "consent": "yes"}))

    async def _question(self, item: JsonObject) -> str:
        commands = "\n".join(f"  {call['pin']['command']}" for call in item["calls"])
        told = await self.daemon.rpc("inbox.approve", {"item": item["id"], "mode": "plan"})
        effects = [line for call in told["calls"] for line in effect_lines(call["effects"])]
        more = [f"… and {len(effects) - MAX_SHOWN} more"] if len(effects) > MAX_SHOWN else []
        shown = "\n".join(f"  {line}" for line in [*effects[:MAX_SHOWN], *more])
        return f"In {item['cwd']} it wants to run:\n{commands}\n{shown}\n{item['reason']}"


def named(tool: str) -> str:
    """MCP clients want letters, digits, `_` and `-`."""
    return tool.replace(".", "_")


def _tool(spec: JsonObject) -> types.Tool:
    hints = types.ToolAnnotations(
        read_only_hint=bool(spec.get("read_only")),
        destructive_hint=not spec.get("read_only"),
        open_world_hint=False,
    )
    examples = "; ".join(str(example["say"]) for example in (spec.get("examples") or ())[:3])
    about = spec["summary"] + (f". For instance: {examples}" if examples else "")
    return types.Tool(
        name=named(spec["name"]), description=about, input_schema=spec["parameters"], annotations=hints
    )


def effect_lines(effects: JsonObject) -> list[str]:
    """What it changes, one line each: what it really did on a copy, else what it is known to do."""
    if told := effects.get("changes"):
        return [f"{item['change']}: {item['path']}" for item in told.get("items", ())]
    kinds = ("deletes", "writes", "network", "signals", "units", "containers", "packages", "opaque")
    lines = []
    for kind in kinds:
        value = effects.get(kind) or ()
        lines += [f"{kind}: {one}" for one in ([value] if isinstance(value, str) else value)]
    return lines


def as_result(result: JsonObject) -> types.CallToolResult:
    """What the assistant reads of a finished request: the output, and how it ended where not well."""
    parts = [str(call.get(name) or "") for call in result["calls"] for name in ("stdout", "stderr")]
    text = "\n".join(part.rstrip("\n") for part in [*parts, str(result.get("answer") or "")] if part)
    undo = next((call["undo_id"] for call in result["calls"] if call.get("undo_id")), None)
    if undo:
        text += f"\n(to take it back: llmos undo {undo})"
    failed = result["status"] != "done"
    told = {"status": result["status"], "id": result["id"], "undo_id": undo}
    return types.CallToolResult(
        content=[types.TextContent(text=text or result["status"])], structured_content=told, is_error=failed
    )


def _text(text: str, *, failed: bool) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text.strip())], is_error=failed)


def _waits(item: JsonObject) -> str:
    return f"It needs the person's approval: {item['reason']} It waits: llmos inbox approve {item['id']}"


async def serve(cwd: str, *, policy: str = "", write: tuple[str, ...] = (), elicit: bool = True) -> None:
    """Serve one assistant on stdin and stdout until it closes them. Raises DaemonUnreachable."""
    async with AsyncClient() as daemon, stdio_server() as (reading, writing):
        server = Bridge(daemon, cwd, policy, write, elicit).server()
        await server.run(reading, writing, server.create_initialization_options())


def run(cwd: str, *, policy: str = "", write: tuple[str, ...] = (), elicit: bool = True) -> None:
    asyncio.run(serve(cwd, policy=policy, write=write, elicit=elicit))
