"""What a request must be before gradio takes it: gradio answers many malformed ones with a bare 500.

Each is refused by a sentence that tells what was wrong. What passes and fails all the same is a fault of
ours: it stays a 500, and is logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from .boundary import CHECK

API = "/gradio_api/"
CALLS = ("queue", "run", "api", "call")  # with fields for a function of the page
PLAIN = ("cancel", "reset")  # with an object that FastAPI checks
GRADIO_TITLE = "Error"  # of an error that a component has with its value
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str, int, float), "text"),
    "number": ((int, float), "a number"),
    "integer": ((int, float), "a number"),
    "array": ((list,), "a list"),
    "object": ((dict,), "an object"),
}
MOST_QUOTED = 80  # characters


class Malformed(Exception):
    """A request that cannot be used; its text says why."""

    def __init__(self, sentence: str, status: int = 400):
        super().__init__(sentence)
        self.status = status


class WellFormed:
    """ASGI middleware behind the gate, which bounds the length of what is read here."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if request.method == "POST":
                body = await request.body()
                receive = _again(body, receive)
                await _check_posted(request, body)
            elif request.method == "GET":
                _check_stream(request)
        except ClientDisconnect:
            return
        except Malformed as error:
            await JSONResponse({"detail": str(error)}, error.status)(scope, receive, send)
            return
        told = request.url.path.startswith((f"{API}run/", f"{API}api/"))
        await self.app(scope, receive, _refusals(send) if told else send)


async def _check_posted(request: Request, body: bytes) -> None:
    """Raise Malformed."""
    path = request.url.path.rstrip("/")
    kind, *rest = path.removeprefix(API).split("/")
    if not path.startswith(API) or kind == "upload":
        await _check_form(request, body, files=kind == "upload")
    elif kind in (*CALLS, *PLAIN):
        given = _object(request, body)
        if kind in CALLS:
            _check_call(request, kind, rest, given)
    else:
        raise Malformed("There is nothing at this address.", 404)


async def _check_form(request: Request, body: bytes, files: bool) -> None:
    if files and not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Malformed("Send a file as multipart/form-data, in a field named files.", 415)
    # Without "app" starlette raises its own errors instead of answering.
    scope = {name: value for name, value in request.scope.items() if name != "app"}
    try:
        async with Request(scope, _again(body, request.receive)).form() as form:
            fields = form.multi_items()
    except (MultiPartException, FormParserError, UnicodeError, LookupError):
        raise Malformed("The form cannot be read: its boundary or a part of it is damaged.") from None
    if files and (not fields or any(name != "files" or isinstance(value, str) for name, value in fields)):
        raise Malformed("The form must hold files with names, in fields named files, and nothing else.")


def _object(request: Request, body: bytes) -> dict:
    if "json" not in request.headers.get("content-type", "json"):
        raise Malformed("Send JSON, with the header Content-Type: application/json.", 415)
    try:
        given = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        json.dumps(given, ensure_ascii=False).encode("utf-8")  # halves of surrogate pairs are no text
    except (ValueError, RecursionError):
        raise Malformed("The request is not JSON in UTF-8.") from None
    if not isinstance(given, dict):
        raise Malformed("The request must be a JSON object, with names and values.")
    return given


def _no_number(name: str) -> None:
    raise ValueError(name)


def _check_call(request: Request, kind: str, rest: Sequence[str], given: dict) -> None:
    blocks = request.app.get_blocks()
    if kind == "call" and rest[:1] == ["v2"]:
        name = "/".join(rest[1:])
        known = blocks.get_api_info()["named_endpoints"].get(f"/{name}")
        if known is None:
            raise _unknown(name)
        _check_fields(name, known["parameters"], given)
        return
    name, number = "/".join(rest), given.get("fn_index")
    if kind == "queue" and not (isinstance(given.get("session_hash"), str) and given["session_hash"]):
        raise Malformed("session_hash must be text.")
    if number is None and kind != "queue":
        function = next((one for one in blocks.fns.values() if one.api_name == name), None)
    elif isinstance(number, int) and not isinstance(number, bool):
        function = blocks.fns.get(number)
    else:
        raise Malformed("fn_index must be the number of a function of this page.")
    if function is None:
        raise _unknown(name if number is None else str(number))
    if given.get("batched"):
        raise Malformed("Nothing here takes batches: leave batched out.")
    _check_data(function, given.get("data"), brief=kind == "call")


def _unknown(name: str) -> Malformed:
    return Malformed(f"There is no function {_quoted(name)}. See /gradio_api/info for those there are.", 404)


def _check_fields(name: str, parameters: Iterable[Mapping], given: Mapping[str, object]) -> None:
    """Named values of a documented endpoint."""
    known = {one["parameter_name"]: one for one in parameters}
    has = f"its fields are {', '.join(known)}" if known else "it takes no fields"
    for field in given:
        if field not in known and field != "oauth_token":  # which gradio drops
            raise Malformed(f"/{name} has no field {_quoted(field)}; {has}.")
    needed = [field for field, one in known.items() if not one["parameter_has_default"]]
    missing = [field for field in needed if field not in given]
    if missing:
        raise Malformed(f"/{name} needs {' and '.join(missing)}.")
    for field, value in given.items():
        if field in known:
            _check_kind(field, known[field]["type"], value)


def _check_data(function, data: object, brief: bool) -> None:
    """Values in order. brief: those that stay on the server may be left out."""
    if not isinstance(data, list):
        raise Malformed("data must be a list: one value for each field.")
    if function.cancels:
        return  # gradio puts its own value there
    fields = list(enumerate(function.inputs))
    if brief and len(data) != len(fields):
        fields = [(place, one) for place, one in fields if not one.skip_api]
    if len(data) != len(fields):
        raise Malformed(f"data has {len(data)} values, and this function takes {len(fields)}.")
    for (place, one), value in zip(fields, data, strict=True):
        if place in function.component_prop_inputs:
            continue
        field = one.label or f"value {place + 1}"
        if not one.skip_api:
            _check_kind(field, one.api_info(), value)
        _check_model(field, getattr(one, "data_model", None), value)


def _check_kind(field: str, schema: Mapping, value: object) -> None:
    """Refuse a value of another kind: a list for text, say. Which text may be chosen is gradio's to check."""
    kinds, told = KINDS.get(str(schema.get("type")), ((), ""))
    if value is not None and kinds and not isinstance(value, kinds):
        raise Malformed(f"{field} must be {told}.")


def _check_model(field: str, model: type[BaseModel] | None, value: object) -> None:
    """Refuse what is not the component's own data: a file without what marks it as one, say."""
    if model is None or value is None:
        return
    try:
        model.model_validate(value, context={"validate_meta": True})
    except ValidationError:
        raise Malformed(f"{field} is not in the form that the page sends.") from None


def _check_stream(request: Request) -> None:
    """Streams of nobody: gradio begins an answer before it looks."""
    path = request.url.path.rstrip("/").removeprefix(API).split("/")
    queue = request.app.get_blocks()._queue
    open_ones, pending = queue.pending_messages_per_session, queue.pending_event_ids_session
    if path == ["queue", "data"]:
        known = request.query_params.get("session_hash") in open_ones
    elif path[0] == "call" and len(path) > 2:
        event = path[-1]
        known = event in queue.event_ids_to_events or event in open_ones
        known = known or any(event in ids for ids in pending.values())
    else:
        return
    if not known:
        raise Malformed("There is no such question: it was answered already, or never asked.", 404)


def _refusals(send):
    """For functions outside the queue: gradio says 500 also where the visitor has something to mend."""
    begun = []

    async def answer(message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            begun.append(message)
            return
        if begun:
            start = begun.pop()
            await send(start | {"status": 400} if _is_refusal(message.get("body", b"")) else start)
        await send(message)

    return answer


def _is_refusal(body: bytes) -> bool:
    try:
        told = json.loads(body)
    except ValueError:
        return False
    return isinstance(told, dict) and bool(told.get("error")) and told.get("title") in (CHECK, GRADIO_TITLE)


def _again(body: bytes, receive):
    """`receive` from its beginning, after `body` was read from it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return left.pop() if left else await receive()

    return again


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "...")
