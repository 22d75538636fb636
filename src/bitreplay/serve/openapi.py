"""The API's description in the OpenAPI format, as the server gives it at /api/v1/openapi.json."""

from __future__ import annotations

from typing import Any

from .guard import API, MAX_BODY, MAX_PICTURE

_ERRORS = {
    "400": "input that does not fit; the text says what was expected",
    "401": "no token, or a wrong one (off localhost)",
    "403": "another host or origin",
    "408": "the body came too slowly",
    "409": "another change is being made",
    "413": "too large",
    "507": "cannot be saved; nothing was changed",
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _json(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object", "required": sorted(properties), "properties": properties}}}


def _operation(summary: str, answer: dict[str, Any], *errors: str, body: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    error = {"content": _json(error={"type": "string"})}
    known = _ERRORS | {"404": "there is none", "503": "the camera gives no picture"}
    responses = {"200": {"description": "done", "content": answer}}
    responses |= {code: {"description": known[code], **error} for code in sorted({"401", "403", *errors})}
    described: dict[str, Any] = {"summary": summary, "responses": responses, **more}
    if body is not None:
        described["requestBody"] = {"required": True, "content": body}
    return described


def _parameter(name: str, place: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}


def document() -> dict[str, Any]:
    """The description: OpenAPI 3.1."""
    text, number, flag, share = ({"type": kind} for kind in ("string", "integer", "boolean", "number"))
    state_file = {"application/octet-stream": _BYTES}
    nothing: dict[str, Any] = _json()
    entry = _json(name=text, samples=number, replay_rows=number, replay_accuracy={"type": ["number", "null"]})["application/json"]["schema"]
    state = _json(
        revision=number,
        busy={"type": ["object", "null"], "description": "what, phase, done, total"},
        can_undo=flag,
        note={"type": ["string", "null"]},
        image_size=number,
        trains_tail=flag,
        camera=flag,
        lessons=number,
        classes={"type": "array", "items": entry},
        capacity=number,
        replay_rows=number,
        bytes={"type": "object", "additionalProperties": number},
    )
    name = _parameter("name", "path", text, "a known class, percent-encoded")
    reject = _parameter("reject", "query", share, "share of pictures of known things that may be called unknown, between 0 and 1")
    lesson = {
        "type": "object",
        "required": ["name", "picture"],
        "properties": {"name": text, "picture": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    }
    change = ("400", "408", "409", "413", "507")
    said = _json(name=text, unknown=flag, probabilities={"type": "object", "additionalProperties": share})
    learned = _json(name=text, pictures=number, seconds=share)
    picture = {"image/*": _BYTES}
    paths = {
        "state": {"get": _operation("What is known, every byte, and what is going on", state)},
        "predict": {"post": _operation("Name what a picture shows", said, "400", "408", "413", body=picture, parameters=[reject])},
        "lessons": {"post": _operation("Learn pictures of one thing", learned, *change, body={"multipart/form-data": {"schema": lesson}})},
        "classes/{name}": {
            "patch": _operation("Rename", nothing, *change, body=_json(name=text), parameters=[name]),
            "delete": _operation("Forget, here and in what undo would go back to", nothing, *change, parameters=[name]),
        },
        "stop": {"post": _operation("Give the lesson or merge up that is being made, if there is one; nothing of it stays", nothing)},
        "undo": {"post": _operation("Go back to before the last change", nothing, *change, "404")},
        "file": {
            "get": _operation("The state file", state_file),
            "put": _operation("Replace the state by another", nothing, *change, body=state_file),
        },
        "merge": {
            "post": _operation("Take over what another device was taught", _json(equal_tails=flag), *change, body=state_file),
        },
        "camera": {"get": _operation("The newest picture of the device's own camera", {"image/jpeg": _BYTES}, "404", "503")},
        "openapi.json": {"get": _operation("This description", {"application/json": {"schema": {"type": "object"}}})},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bitreplay",
            "version": "1",
            "description": f"Teach and ask one device. Bodies up to {MAX_BODY} bytes, pictures up to {MAX_PICTURE}.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],  # the latter on localhost
        "paths": {f"{API}v1/{path}": operations for path, operations in paths.items()},
    }
