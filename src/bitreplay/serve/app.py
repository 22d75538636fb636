"""The web application: one page, and a JSON API of version 1 beside it (docs/serve.md).

Owns requests and status codes; what is done is `session`'s, who may ask is `guard`'s.
"""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Any, Protocol

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

from .._engine import Cancelled
from ..datasets.pictures import decode_image
from .guard import API, HEADERS, MAX_PICTURE, Guard, refusal
from .openapi import document
from .session import BusyError, Session

MAX_PIXELS = 25_000_000  # some 300 MB while it is decoded
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
_DECODING = threading.Lock()  # one picture at a time: each may take what MAX_PIXELS allows
MAX_PICTURES = 512
_PAGE = {"": ("page.html", "text/html"), "page.js": ("page.js", "text/javascript"), "page.css": ("page.css", "text/css")}


Handler = Callable[[Request], Awaitable[Response]]


def _answered(handler: Handler) -> Handler:
    # Exceptions as status codes: the one place.
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except (BusyError, Cancelled) as error:
            return refusal(409, str(error))
        except OSError as error:
            if error.errno is None:  # nothing to undo
                return refusal(404, str(error))
            return refusal(507, f"cannot be saved: {error.strerror}; what the page shows is what is on disk")
        except MultiPartException as error:
            return refusal(400, f"form: {error.message}")
        except ValueError as error:
            return refusal(400, str(error))
        except ClientDisconnect:
            return Response(status_code=400)

    return answered


@cache
def _formats() -> tuple[str, ...]:
    # Of FORMATS those that this Pillow reads.
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _picture(content: bytes, name: str, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    if len(content) > MAX_PICTURE:
        raise ValueError(f"{name}: expected at most {MAX_PICTURE} bytes, got {len(content)}; send a smaller one")
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got far more; send a smaller one") from error
    except Exception as error:  # Pillow's readers raise what they like
        raise ValueError(f"{name}: expected a picture, got something that cannot be read as one") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got {width} x {height}; send a smaller one")
    try:
        with _DECODING:
            return decode_image(io.BytesIO(content), size, _formats())
    except (OSError, MemoryError) as error:
        raise ValueError(f"{name}: cannot be read as a picture: {error}") from error


def _file(name: str, kind: str) -> Handler:
    content = resources.files("bitreplay.serve").joinpath(name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return answer


class FrameSource(Protocol):
    """What gives pictures by itself: `camera.Camera`."""

    def jpeg(self) -> bytes:
        """The newest picture as a JPEG file; OSError where there is none."""


def _share(request: Request) -> float | None:
    text = request.query_params.get("reject")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"reject: expected a share between 0 and 1, got {text!r:.40}") from None


def make_app(session: Session, *, token: str | None = None, camera: FrameSource | None = None) -> Starlette:
    """The application for one device.

    Parameters
    ----------
    session : what is taught and asked.
    token : what the API asks for; None on localhost.
    camera : the device's own, or None.
    """

    async def state(_: Request) -> Response:
        status = await run_in_threadpool(session.status)
        return JSONResponse(status | {"camera": camera is not None}, headers=HEADERS)

    async def predict(request: Request) -> Response:
        content, reject = await request.body(), _share(request)

        def work() -> dict[str, Any]:
            image = _picture(content, "picture", session.image_size)
            names, prediction = session.predict(image[None], reject=reject)
            probabilities = dict(zip(names, prediction.probabilities[0].tolist(), strict=True))
            return {"name": prediction.names[0], "unknown": bool(prediction.unknown[0]), "probabilities": probabilities}

        return JSONResponse(await run_in_threadpool(work), headers=HEADERS)

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
            images = np.stack([_picture(c, f"picture {i + 1}", session.image_size) for i, c in enumerate(contents)])
            return session.teach(images, [name] * len(images))

        seconds = await run_in_threadpool(work)
        return JSONResponse({"name": name, "pictures": len(contents), "seconds": seconds}, headers=HEADERS)

    async def forget(request: Request) -> Response:
        await run_in_threadpool(session.forget, request.path_params["name"])
        return JSONResponse({}, headers=HEADERS)

    async def rename(request: Request) -> Response:
        try:
            values = await request.json()
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise ValueError('body: expected JSON, {"name": NEW}, got something else')
        await run_in_threadpool(session.rename, request.path_params["name"], values["name"])
        return JSONResponse({}, headers=HEADERS)

    async def undo(_: Request) -> Response:
        await run_in_threadpool(session.undo)
        return JSONResponse({}, headers=HEADERS)

    async def stop(_: Request) -> Response:
        session.cancel()
        return JSONResponse({}, headers=HEADERS)

    async def download(_: Request) -> Response:
        content = await run_in_threadpool(session.content)
        headers = {**HEADERS, "Content-Disposition": 'attachment; filename="bitreplay.state"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def upload(request: Request) -> Response:
        await run_in_threadpool(session.replace, await request.body())
        return JSONResponse({}, headers=HEADERS)

    async def merge(request: Request) -> Response:
        equal = await run_in_threadpool(session.merge, await request.body())
        return JSONResponse({"equal_tails": equal}, headers=HEADERS)

    async def frame(_: Request) -> Response:
        if camera is None:
            return refusal(404, "camera: this device was started without --camera")
        try:
            content = await run_in_threadpool(camera.jpeg)
        except OSError as error:
            return refusal(503, str(error))
        return Response(content, media_type="image/jpeg", headers=HEADERS)

    async def described(_: Request) -> Response:
        return JSONResponse(document(), headers=HEADERS)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, error.detail)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(session.close)

    api = f"{API}v1"
    routes = [
        *(Route(f"/{file}", _file(*found)) for file, found in _PAGE.items()),
        Route(f"{api}/state", _answered(state)),
        Route(f"{api}/predict", _answered(predict), methods=["POST"]),
        Route(f"{api}/lessons", _answered(teach), methods=["POST"]),
        Route(f"{api}/classes/{{name:path}}", _answered(forget), methods=["DELETE"]),
        Route(f"{api}/classes/{{name:path}}", _answered(rename), methods=["PATCH"]),
        Route(f"{api}/stop", _answered(stop), methods=["POST"]),
        Route(f"{api}/undo", _answered(undo), methods=["POST"]),
        Route(f"{api}/file", _answered(download)),
        Route(f"{api}/file", _answered(upload), methods=["PUT"]),
        Route(f"{api}/merge", _answered(merge), methods=["POST"]),
        Route(f"{api}/camera", _answered(frame)),
        Route(f"{api}/openapi.json", _answered(described)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)], exception_handlers={HTTPException: failed}, lifespan=life)
