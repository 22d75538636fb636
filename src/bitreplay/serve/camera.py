"""The device's own camera: the newest frame, whenever it is asked for.  Needs OpenCV (extra ``camera``)."""

from __future__ import annotations

import os
import threading
import time

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 320  # of a frame as the page shows it, pixels
_FIRST = 10.0  # seconds that a camera may take to give a frame
_OLDEST = 2.0  # seconds after which a frame says nothing any more
_AGAIN = 0.5  # seconds between two tries to open it again


class Camera:
    """Reads a camera in a thread of its own, so that a frame is never an old one from a queue.

    Parameters
    ----------
    source : number of a camera, or what OpenCV opens otherwise: the address of a stream, a file (which starts again at its end).

    Raises
    ------
    OSError : it cannot be opened, or gives no frame.
    """

    def __init__(self, source: str) -> None:
        self._source = int(source) if source.isdecimal() else source
        self._capture = cv2.VideoCapture(self._source)
        if not self._capture.isOpened():
            raise OSError(f"camera {source}: cannot be opened; number 0 is the first camera of a machine")
        self._newest: tuple[float, NDArray[np.uint8]] | None = None  # when it came, and the frame
        self._there = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()
        if not self._there.wait(_FIRST):
            self.close()
            raise OSError(f"camera {source}: gives no picture")

    def _read(self) -> None:
        is_film = isinstance(self._source, str) and os.path.isfile(self._source)
        pause = 1 / min(60.0, self._capture.get(cv2.CAP_PROP_FPS) or 30.0) if is_film else 0.0
        while not self._stop.wait(pause):
            good, frame = self._capture.read()
            if good:
                self._newest = time.monotonic(), np.asarray(frame, np.uint8)
                self._there.set()
            elif not (is_film and self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)):
                self._stop.wait(_AGAIN)  # unplugged, or the stream has ended: it may come back
                self._capture.open(self._source)

    def jpeg(self) -> bytes:
        """The newest frame, its middle square, as a JPEG file; OSError where the camera gives none any more."""
        came, frame = self._newest or (0.0, None)
        if frame is None or time.monotonic() - came > _OLDEST:
            raise OSError("camera: gives no picture any more; is it still plugged in?")
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = cv2.resize(frame[top : top + side, left : left + side], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        good, content = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not good:
            raise OSError("camera: a frame cannot be written as JPEG")
        return bytes(content)

    def close(self) -> None:
        """Let go of the camera."""
        self._stop.set()
        self._thread.join(5)
        self._capture.release()
