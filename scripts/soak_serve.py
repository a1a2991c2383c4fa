"""Ask `signsclf serve` for a long time and watch its memory: does it still take what it took after the first requests?

    python scripts/soak_serve.py models/gtsrb-signnet --requests 100000

Images of several sizes and formats, forms, heat maps, and images that cannot be read, over a few kept connections and
some new ones. Prints the resident memory at 1,000 requests and at every tenth of all of them, and the largest share by
which it then exceeds the first. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import requests
from PIL import Image

FIRST = 1000
CONNECTIONS = 8
LEAVES_EVERY = 200  # requests, after which a connection is closed and another one opened


def encoded(kind: str, side: int) -> bytes:
    """An image file of noise."""
    data = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def bodies() -> list[dict]:
    """What is sent, as arguments of `requests.post`."""
    images = [encoded(kind, side) for kind in ("PNG", "JPEG", "WEBP") for side in (32, 64, 200)]
    found = [{"data": image} for image in images]
    found += [{"data": image, "params": {"explain": 1, "top_k": 3}} for image in images[:3]]
    found += [{"files": [("f", (str(n), image)) for n, image in enumerate(images[:3])]}]
    found += [{"data": images[0][:60]}, {"data": b"no image"}]
    return found


def resident(pid: int) -> int:
    """Kilobytes of memory that a process has now."""
    (line,) = (x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1])


class Soak:
    """Clients that share a number of requests."""

    def __init__(self, url: str, total: int) -> None:
        self.url, self.total = url, total
        self.asked = 0
        self.codes: Counter[int] = Counter()
        self._lock = threading.Lock()

    def run(self, seed: int) -> None:
        """Ask until all is asked."""
        chance, sent, session = random.Random(seed), bodies(), requests.Session()
        while True:
            with self._lock:
                if self.asked >= self.total:
                    return
                self.asked += 1
                number = self.asked
            if number % LEAVES_EVERY == 0:
                session.close()
            code = session.post(f"{self.url}/predict", timeout=60, **chance.choice(sent)).status_code
            with self._lock:
                self.codes[code] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    options = parser.parse_args()
    command = [sys.executable, "-m", "signsclf", "serve", str(options.model), "--port", "0", "--drain", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        url = None
        for line in server.stderr:
            if found := re.search(r"http://\S+", line):
                url = found[0]
                break
        if url is None:
            raise SystemExit("the server did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        soak = Soak(url, options.requests)
        threads = [threading.Thread(target=soak.run, args=(seed,), daemon=True) for seed in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        marks = [min(FIRST, options.requests), *(options.requests * n // 10 for n in range(1, 11))]
        seen: list[tuple[int, int]] = []
        for mark in sorted(set(marks)):
            while soak.asked < mark and any(thread.is_alive() for thread in threads):
                time.sleep(0.05)
            seen.append((soak.asked, resident(server.pid)))
            print(f"{seen[-1][0]:>9,} requests {seen[-1][1] / 1024:8.1f} MiB", flush=True)
        for thread in threads:
            thread.join()
        first = seen[0][1]
        most = max(memory for _, memory in seen)
        print(json.dumps({"codes": dict(soak.codes), "growth": round(most / first - 1, 4)}))
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
