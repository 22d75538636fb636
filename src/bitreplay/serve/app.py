"""The web application: one page, and a JSON API of version 1 beside it (docs/serve.md).

Owns requests, limits and status codes; what is done is `device`'s.  It answers on this machine's own addresses only: a request that names
another host, or that a page of another origin sends, is refused, so that no web page elsewhere can read or teach the device.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..images import decode_image
from .device import BusyError, Device

MAX_BODY = 64 << 20
MAX_PICTURE = 16 << 20
MAX_PIXELS = 25_000_000
MAX_PICTURES = 512
LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PAGE = {"": ("page.html", "text/html"), "page.js": ("page.js", "text/javascript"), "page.css": ("page.css", "text/css")}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _host(value: str) -> str:
    # The name in a Host header, without its port.
    return value.rsplit(":", 1)[0] if not value.endswith("]") and ":" in value else value


class Guard:
    """Refuses foreign hosts and origins, and bodies that are too large, before anything is read."""

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY) -> None:
        self._app, self._max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403, 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if _host(host).lower() not in LOCAL:
            await _error(403, f"host: expected one of this machine's own names, {', '.join(sorted(LOCAL))}, got {host!r}")(
                scope, receive, send
            )
            return
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower():
            await _error(403, f"origin: expected {scope['scheme']}://{host}, got {origin!r}")(scope, receive, send)
            return
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_body:
            await _error(413, f"body: expected at most {self._max_body} bytes, got {length}")(scope, receive, send)
            return
        read = 0

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise HTTPException(413, f"body: expected at most {self._max_body} bytes, got more")
            return message

        await self._app(scope, counted, send)


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status, _HEADERS)


Handler = Callable[[Request], Awaitable[Response]]


def _answered(handler: Handler) -> Handler:
    # Exceptions as status codes: the one place.
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except BusyError as error:
            return _error(409, str(error))
        except OSError as error:
            if error.errno is None:  # nothing to undo
                return _error(404, str(error))
            return _error(507, f"cannot be saved, nothing was changed: {error.strerror}")
        except MultiPartException as error:
            return _error(400, f"form: {error.message}")
        except ValueError as error:
            return _error(400, str(error))
        except ClientDisconnect:
            return Response(status_code=400)

    return answered


def _picture(content: bytes, name: str, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got far more; send a smaller one") from error
    except Exception as error:  # Pillow's readers raise what they like
        raise ValueError(f"{name}: expected a picture, got something that cannot be read as one") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got {width} x {height}; send a smaller one")
    try:
        return decode_image(io.BytesIO(content), size)
    except (OSError, MemoryError) as error:
        raise ValueError(f"{name}: cannot be read as a picture: {error}") from error


def _file(name: str, kind: str) -> Handler:
    content = resources.files("bitreplay.serve").joinpath(name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer


def make_app(device: Device) -> Starlette:
    """The application for one device."""

    async def state(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(device.status), headers=_HEADERS)

    async def predict(request: Request) -> Response:
        content = await request.body()
        if len(content) > MAX_PICTURE:
            return _error(413, f"picture: expected at most {MAX_PICTURE} bytes, got {len(content)}")

        def work() -> dict[str, Any]:
            image = _picture(content, "picture", device.image_size)
            names, prediction = device.predict(image[None])
            probabilities = dict(zip(names, prediction.probabilities[0].tolist(), strict=True))
            return {"name": prediction.names[0], "probabilities": probabilities}

        return JSONResponse(await run_in_threadpool(work), headers=_HEADERS)

    async def teach(request: Request) -> Response:
        async with request.form(max_files=MAX_PICTURES, max_fields=8, max_part_size=MAX_PICTURE) as form:
            name = form.get("name")
            if not isinstance(name, str):
                raise ValueError("name: expected the name of what the pictures show, got none")
            uploads = [upload for upload in form.getlist("picture") if isinstance(upload, UploadFile)]
            if not uploads:
                raise ValueError("picture: expected at least one picture, got none")
            contents = [await upload.read() for upload in uploads]

        def work() -> float:
            images = np.stack([_picture(c, f"picture {i + 1}", device.image_size) for i, c in enumerate(contents)])
            return device.teach(images, [name] * len(images))

        seconds = await run_in_threadpool(work)
        return JSONResponse({"name": name, "pictures": len(contents), "seconds": seconds}, headers=_HEADERS)

    async def forget(request: Request) -> Response:
        await run_in_threadpool(device.forget, request.path_params["name"])
        return JSONResponse({}, headers=_HEADERS)

    async def rename(request: Request) -> Response:
        values = await request.json()
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise ValueError('body: expected {"name": NEW}')
        await run_in_threadpool(device.rename, request.path_params["name"], values["name"])
        return JSONResponse({}, headers=_HEADERS)

    async def undo(_: Request) -> Response:
        await run_in_threadpool(device.undo)
        return JSONResponse({}, headers=_HEADERS)

    async def download(_: Request) -> Response:
        content = await run_in_threadpool(device.content)
        headers = {**_HEADERS, "Content-Disposition": 'attachment; filename="bitreplay.state"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def upload(request: Request) -> Response:
        await run_in_threadpool(device.replace, await request.body())
        return JSONResponse({}, headers=_HEADERS)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _error(error.status_code, error.detail)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(device.close)

    api = "/api/v1"
    routes = [
        *(Route(f"/{file}", _file(*found)) for file, found in _PAGE.items()),
        Route(f"{api}/state", _answered(state)),
        Route(f"{api}/predict", _answered(predict), methods=["POST"]),
        Route(f"{api}/lessons", _answered(teach), methods=["POST"]),
        Route(f"{api}/classes/{{name:path}}", _answered(forget), methods=["DELETE"]),
        Route(f"{api}/classes/{{name:path}}", _answered(rename), methods=["PATCH"]),
        Route(f"{api}/undo", _answered(undo), methods=["POST"]),
        Route(f"{api}/file", _answered(download)),
        Route(f"{api}/file", _answered(upload), methods=["PUT"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers={HTTPException: failed}, lifespan=life)
