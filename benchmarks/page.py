"""How fast the page names what its camera sees, idle and while it learns, in a real browser; writes one JSON line a run.

    python benchmarks/page.py [--seconds 10] [--out benchmarks/results/page.jsonl]

Needs Playwright and a Chromium (`chromium` in the path).  The browser's fake camera shows noise; the page sends its frames of 64 x 64 pixels as
it always does.  Latencies are the browser's own, from the request to the last byte of the answer, so encoding the frame is not in them,
but it is in the rate.  While it learns: lessons of 200 pictures, one after the other, from another client.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

LESSON = 200
LATENCIES = """() => performance.getEntriesByType('resource').filter(e => e.name.includes('predict')).map(e => [e.startTime, e.duration])"""


def jpeg(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def lesson(address: str, name: str, rng: np.random.Generator) -> None:
    parts = [b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + name.encode()]
    parts += [b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n' + jpeg(rng) for _ in range(LESSON)]
    request = urllib.request.Request(f"{address}/api/v1/lessons", b"\r\n".join([*parts, b"--x--\r\n"]))
    request.add_header("Content-Type", "multipart/form-data; boundary=x")
    urllib.request.urlopen(request).read()


def measured(page: Any, seconds: float) -> dict[str, float]:
    page.evaluate("performance.clearResourceTimings(); performance.setResourceTimingBufferSize(100000)")
    page.wait_for_timeout(1000 * seconds)
    found = page.evaluate(LATENCIES)
    times = sorted(duration for _, duration in found)
    rate = 1000 * (len(found) - 1) / (found[-1][0] - found[0][0])
    return {"a_second": round(rate, 1), "median_ms": round(statistics.median(times), 1), "p95_ms": round(times[int(0.95 * len(times))], 1),
            "largest_ms": round(times[-1], 1), "predictions": len(times)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--train-blocks", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/page.jsonl"))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        state = Path(folder) / "x.state"
        subprocess.run([sys.executable, "-m", "bitreplay", "new", str(state), "--train-blocks", str(args.train_blocks)], check=True)
        command = [sys.executable, "-m", "bitreplay", "serve", str(state), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            found = re.search(r"http://localhost:\d+", child.stdout.readline())
            assert found
            flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--no-sandbox"]
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page()
            page.goto(found[0])
            for number in range(10):
                lesson(found[0], f"name {number % 5}", rng)
            page.click("#camera")
            page.wait_for_timeout(2000)
            idle = measured(page, args.seconds)
            done, stop = 0, threading.Event()

            def teach() -> None:
                nonlocal done
                while not stop.is_set():
                    lesson(found[0], f"name {done % 5}", rng)
                    done += 1

            teacher = threading.Thread(target=teach)
            teacher.start()
            busy = measured(page, args.seconds)
            stop.set()
            teacher.join()
            browser.close()
            child.terminate()
    line = {
        "cores": len(os.sched_getaffinity(0)),
        "train_blocks": args.train_blocks,
        "idle": idle,
        "learning": busy,
        "lessons": done,
        "commit": commit,
    }
    print(json.dumps(line))
    with args.out.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
