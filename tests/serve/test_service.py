"""What protocols ask of a service."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from serving import png

from signsclf.serve.answers import Refused
from signsclf.serve.models import Models, load_model
from signsclf.serve.service import OUTPUTS, Service
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve


@pytest.fixture
def run(tiny):
    """`Service.run` of one service, in an event loop of its own."""
    service = Service(Models([load_model(tiny, "tiny", max_batch=8)]), ServeSettings(max_images=3))

    async def running(*args, **options):
        service.start()
        try:
            return await service.run(*args, model=service.models.get(), **options)
        finally:
            service.stop()

    return lambda *args, **options: asyncio.run(running(*args, **options))


def test_files_and_their_pixels_give_the_same_outputs(run):
    pixels = np.zeros((2, 6, 8, 3), np.uint8)
    pixels[0, ..., 0] = pixels[1, ..., 2] = 255
    of_pixels, _ = run(pixels, outputs=OUTPUTS)
    of_files, timings = run([png("red"), png("blue")], outputs=OUTPUTS)
    assert min(timings.values()) > 0
    assert list(of_files) == list(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_array_equal(of_files[name], of_pixels[name])
    np.testing.assert_allclose(of_files["logits"], [[9, -3, -3], [-3, -3, 9]])
    assert of_files["features"].shape == (2, 3, 6, 8)


def test_an_unreadable_file_is_named_by_its_place(run):
    with pytest.raises(Refused, match=r"^image 2 of 3: .*PDF") as caught:
        run([png(), b"%PDF-1.7", png()])
    assert caught.value.status == 415
    with pytest.raises(Refused, match="4 images, where a request has 1 to 3"):
        run([png()] * 4)
