"""Servers in threads of this process, on free ports of the loopback address, and what is sent to them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
import tinymodel
from PIL import Image

from signsclf.export.golden import noise_images, store_golden
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import write_sums
from signsclf.serve.server import Server
from signsclf.serve.service import Service

FIXED: dict[str, Any] = {"port": 0, "runners": 1, "threads": 1, "max_batch": 8, "watch": 0.05}
"""Settings of tests: nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server in a thread of this process."""

    url: str
    server: Server
    service: Service
    said: list[str]
    session: requests.Session

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        return self.session.post(self.url + path, data=data, timeout=30, **options)


def png(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = (10, 12)) -> bytes:
    """An image file of one colour."""
    data = BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return data.getvalue()


def write_model(folder: Path, **changes: Any) -> Path:
    """A tiny model folder with golden outputs, as every exported one has them."""
    tinymodel.write_folder(folder, **changes)
    classifier = Classifier(folder)
    pixels = noise_images(2, classifier.size)
    store_golden(folder, pixels, classifier.probabilities(pixels))
    write_sums(folder)
    return folder


def run_in_thread(service: Service) -> tuple[Running, threading.Thread]:
    said: list[str] = []
    server = Server(service, said.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.started.wait(30)
    session = requests.Session()
    session.trust_env = False
    return Running(url=server.url, server=server, service=service, said=said, session=session), thread


def end(running: Running, thread: threading.Thread) -> None:
    running.session.close()
    running.server.stop()
    thread.join(30)
    assert not thread.is_alive()
