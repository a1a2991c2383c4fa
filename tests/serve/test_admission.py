"""What is refused for now, and when to try again."""

from __future__ import annotations

import pytest

from signsclf.serve.admission import Admission, Ticket
from signsclf.serve.answers import Refused
from signsclf.serve.engine import Engine, now
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve


@pytest.fixture
def engine() -> Engine:
    """An engine that does 10 images a second and has nothing to do."""
    made = Engine(1, 1)
    made.rate = 10.0
    return made


@pytest.fixture
def admission(engine) -> Admission:
    settings = ServeSettings(max_bytes=50, budget_bytes=100, max_pixels=50, budget_pixels=100, max_wait=2.0)
    return Admission(settings, engine)


def refused(work) -> Refused:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value


def test_a_queue_that_is_too_long_tells_when_it_will_be_done(admission, engine):
    engine.backlog = 22
    admission.check_wait(now() + 10)  # waits two seconds
    engine.backlog = 37
    found = refused(lambda: admission.check_wait(now() + 10))
    assert (found.status, found.headers) == (429, {"Retry-After": "4"})
    assert found.sentence == "busy: 37 images wait; try again in 4 s"


def test_work_that_would_begin_after_its_deadline_is_not_taken(admission, engine):
    engine.backlog = 12
    admission.check_wait(now() + 5)
    assert refused(lambda: admission.check_wait(now() + 0.5)).status == 429


def test_an_idle_server_takes_what_comes(admission):
    admission.check_wait(now() - 1)


def test_bytes_of_all_bodies_are_bounded_and_given_back(admission):
    one, two = Ticket(admission), Ticket(admission)
    one.take(60)
    two.take(40)
    assert refused(lambda: two.take(1)).status == 429
    one.release()
    two.take(60)
    two.release()
    two.release()
    assert admission.bytes == 0


def test_pixels_of_all_images_are_bounded(admission):
    admission.take_pixels(70)
    found = refused(lambda: admission.take_pixels(31))
    assert (found.status, found.headers) == (429, {"Retry-After": "1"})
    assert refused(lambda: admission.take_pixels(101)).status == 413  # never fits
    admission.pixels -= 70
    admission.take_pixels(100)
