"""The protocol as a machine reads it: an OpenRPC document made from the very types that check the frames.

`llmos schema` prints it. A method that is not in this table fails a test, so it cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import llmos
from llmos import errors, wire
from llmos.daemon import automating, clouding, methods, personalising, resuming
from llmos.daemon.inbox import Waiting
from llmos.daemon.personal import Habits, Pair
from llmos.daemon.triggers import Trigger
from llmos.messages import Event, JsonObject, Pinned, Result

OPENRPC = "1.3.2"
_NAMED = "#/components/schemas/{model}"
_OBJECT: JsonObject = {"type": "object"}


def _object(**properties: JsonObject) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: type[BaseModel]) -> JsonObject:
    return {"type": "array", "items": {"$ref": _NAMED.format(model=of.__name__)}}


def _ref(model: type[BaseModel]) -> JsonObject:
    return {"$ref": _NAMED.format(model=model.__name__)}


_OK = _object(ok={"const": True})
_TEXT: JsonObject = {"type": "string"}
_VERDICT = _object(verdict={"enum": ["allow", "ask", "deny"]}, rule=_TEXT, reason=_TEXT, effects=_OBJECT)
_VERDICT["properties"]["notice"] = _TEXT  # only where there is something to notice
_STEP = _object(command=_TEXT, outcome={"enum": ["known", "unknown"]})
_STORY = _object(
    id=_TEXT, text=_TEXT, cwd=_TEXT, time={"type": "number"}, steps={"type": "array", "items": _STEP}
)
_TOOL = _object(name=_TEXT, summary=_TEXT, parameters=_OBJECT, read_only={"type": "boolean"})

# Method: (parameters, result).
METHODS: Mapping[str, tuple[type[BaseModel], JsonObject]] = {
    "ask": (methods.AskParams, _ref(Result)),
    "plan": (methods.AskParams, _ref(Result)),
    "call": (methods.CallParams, _ref(Result)),
    "undo": (methods.UndoParams, _ref(Result)),
    "translate": (
        methods.TranslateParams,
        _object(command=_TEXT, confidence={"type": "number"}, route=_TEXT),
    ),
    "pin": (automating.PinParams, _object(calls=_list(Pinned))),
    "replay": (automating.ReplayParams, _ref(Result)),
    "approve": (methods.ApproveParams, _OK),
    "cancel": (methods.CancelParams, _OK),
    "status": (methods.NoParams, _OBJECT),
    "subscribe": (methods.NoParams, _OK),
    "wake": (methods.NoParams, _OK),
    "tools": (methods.NoParams, _object(tools={"type": "array", "items": _TOOL})),
    "history": (methods.HistoryParams, _object(entries={"type": "array", "items": _OBJECT})),
    "policy.check": (methods.CheckParams, _VERDICT),
    "policy.explain": (methods.CheckParams, _VERDICT),
    "policy.list": (methods.NoParams, _OBJECT),
    "policy.remembered": (methods.NoParams, _object(remembered={"type": "array", "items": _OBJECT})),
    "policy.forget": (methods.ForgetParams, _object(forgotten=_OBJECT)),
    "trigger.add": (automating.TriggerParams, _object(trigger=_ref(Trigger))),
    "trigger.list": (automating.TriggersParams, _object(triggers=_list(Trigger))),
    "trigger.pause": (automating.PauseParams, _object(trigger=_ref(Trigger))),
    "trigger.remove": (automating.OneParams, _object(trigger=_ref(Trigger))),
    "trigger.run": (automating.OneParams, _ref(Result)),
    "inbox.ask": (
        automating.InboxAskParams,
        _object(result=_ref(Result), item={"anyOf": [_ref(Waiting), {"type": "null"}]}),
    ),
    "inbox.list": (methods.NoParams, _object(waiting=_list(Waiting))),
    "inbox.approve": (automating.ItemParams, _ref(Result)),
    "inbox.reject": (automating.OneParams, _object(rejected=_ref(Waiting))),
    "personal.list": (methods.NoParams, _ref(Habits)),
    "personal.switch": (personalising.PersonalSwitchParams, _object(on={"type": "boolean"})),
    "personal.add": (personalising.AddPhraseParams, _object(added=_ref(Pair))),
    "personal.forget": (personalising.ForgetPhraseParams, _object(forgotten={"type": "integer"})),
    "resume": (resuming.ResumeParams, _ref(Result)),
    "resume.list": (methods.NoParams, _object(waiting={"type": "array", "items": _STORY})),
    "resume.forget": (resuming.ForgetStepsParams, _object(forgotten=_TEXT)),
    "route": (clouding.RouteParams, _OBJECT),
    "usage": (clouding.UsageParams, _OBJECT),
    "backend.list": (methods.NoParams, _OBJECT),
    "backend.allow": (clouding.BackendParams, _OBJECT),
    "backend.forget": (clouding.BackendParams, _OBJECT),
}
_RESULTS = (Result, Event, Pinned, Trigger, Waiting, Habits, Pair)


def document() -> JsonObject:
    """The OpenRPC document of this version."""
    models = [*dict.fromkeys(params for params, _ in METHODS.values())]
    _, schemas = models_json_schema(
        [*((model, "validation") for model in models), *((model, "serialization") for model in _RESULTS)],
        ref_template=_NAMED,
    )
    definitions = schemas["$defs"]
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": "llmos",
            "version": llmos.__version__,
            "description": f"Protocol {wire.PROTOCOL_VERSION}: JSON-RPC 2.0 on a Unix socket, one a line; "
            "docs/protocol.md has it in words.",
        },
        "methods": [_method(name, *found, definitions) for name, found in METHODS.items()],
        "components": {"schemas": definitions, "errors": _errors()},
        "x-notifications": {
            "hello": _object(protocol={"type": "integer"}, version=_TEXT, pid={"type": "integer"}),
            "event": _ref(Event),
        },
        "x-max-frame-bytes": wire.MAX_FRAME_BYTES,
    }


def _method(
    name: str, params: type[BaseModel], result: JsonObject, definitions: dict[str, Any]
) -> JsonObject:
    schema = definitions[params.__name__]
    required = schema.get("required", ())
    return {
        "name": name,
        "paramStructure": "by-name",
        "params": [
            {"name": key, "required": key in required, "schema": value}
            for key, value in schema.get("properties", {}).items()
        ],
        "result": {"name": "result", "schema": result},
    }


def _errors() -> JsonObject:
    """Every kind of error with its code; `data` holds `kind` and `next_step`."""
    return {
        kind: {"code": -32000 - cls.exit_code, "message": (cls.__doc__ or kind).strip().splitlines()[0]}
        for kind, cls in sorted(errors.kinds().items())
    }
