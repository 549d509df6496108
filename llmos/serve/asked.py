"""What a client of the OpenAI API asks for, read strictly: what is not done here is refused, never ignored.

Fields that only describe (user, metadata, store) are passed over, as other servers do.
Reference: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llmos.messages import JsonObject
from llmos.serve.told import ApiError, bad

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TextPart(_Part):
    type: Literal["text"]
    text: str


class Called(_Part):
    name: _Name
    arguments: str = "{}"


class EarlierCall(_Part):
    id: str = ""
    function: Called


class ChatMessage(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] | None = None
    tool_calls: tuple[EarlierCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        if isinstance(self.content, tuple):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Function(_Part):
    name: _Name
    description: str = ""
    parameters: JsonObject = Field(default_factory=lambda: {"type": "object", "properties": {}})


class ToolOffer(_Part):
    type: Literal["function"] = "function"
    function: Function


class _Named(_Part):
    name: str


class Chosen(_Part):
    type: Literal["function"]
    function: _Named


class JsonSchema(_Part):
    name: str = "answer"
    schema_: JsonObject = Field(alias="schema", default_factory=dict)


class ResponseFormat(_Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Part):
    include_usage: bool = False


class ChatAsked(_Part):
    """One request for a chat completion."""

    model: str = Field(min_length=1)
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | tuple[str, ...] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: tuple[ToolOffer, ...] | None = None
    tool_choice: Literal["none", "auto", "required"] | Chosen | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)

    @property
    def stops(self) -> tuple[str, ...]:
        given = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(mark for mark in given if mark)

    @property
    def offered(self) -> tuple[Function, ...]:
        """The functions that may be called."""
        if self.tool_choice == "none":
            return ()
        functions = tuple(tool.function for tool in self.tools or ())
        if not isinstance(self.tool_choice, Chosen):
            return functions
        name = self.tool_choice.function.name
        if not (found := tuple(function for function in functions if function.name == name)):
            raise bad(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
        return found

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, Chosen)


def read(body: Any) -> ChatAsked:
    """Raises ApiError that names the field."""
    try:
        asked = ChatAsked.model_validate(body)
    except ValidationError as error:
        raise _named(error) from None
    if asked.must_call and not asked.offered:
        raise bad("tool_choice asks for a call, and there are no tools", "tool_choice")
    form = asked.response_format
    if form and form.type == "json_schema" and form.json_schema is None:
        raise bad("response_format of type json_schema lacks its json_schema", "response_format.json_schema")
    return asked


def _named(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("tuple", "function-")))
    return bad(f"{place or 'the request'}: {first['msg']}", place or None)
