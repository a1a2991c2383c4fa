"""The models of a running server: calibrated once, and replaced when their folders are."""

from __future__ import annotations

import threading
from collections.abc import Callable

from signsclf.errors import SignsclfError, first_line
from signsclf.serve.calibrate import calibrate
from signsclf.serve.models import Fingerprint, Models, ServedModel, fingerprint, load_model
from signsclf.serve.settings import ServeSettings


class Upkeep:
    """A thread that calibrates each model and then looks at its folder again and again; requests never wait for it.

    A folder is read when its files have changed and then stayed the same for one look: it may be copied slowly.
    """

    def __init__(self, models: Models, settings: ServeSettings, tell: Callable[[str], None]) -> None:
        """Make the thread; ``tell`` is given the lines for people."""
        self._models = models
        self._settings = settings
        self._tell = tell
        self._called = threading.Event()
        self._forced = self._ended = False
        self._tried: dict[str, Fingerprint | None] = {model.name: model.fingerprint for model in models}
        self._changing: dict[str, Fingerprint | None] = {}
        self._thread = threading.Thread(target=self._run, name="signsclf-serve-upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def refresh(self) -> None:
        """Read all folders now, changed or not; from any thread or signal handler."""
        self._forced = True
        self._called.set()

    def stop(self) -> None:
        """End; a folder that is being read is left."""
        self._ended = True
        self._called.set()

    def _run(self) -> None:
        if self._settings.calibrates:
            for model in self._models:
                self._attempt(model, self._calibrate)
        while not self._ended:
            self._called.wait(self._settings.watch)
            self._called.clear()
            forced, self._forced = self._forced, False
            for model in self._models:
                if not self._ended:
                    self._look(model, forced)

    def _calibrate(self, model: ServedModel) -> None:
        found = calibrate(model, self._settings)
        self._models.swap(found.model)
        self._tell(f"{found} (measured; --runners, --threads and --max-batch fix it)")

    def _look(self, model: ServedModel, forced: bool) -> None:
        seen = fingerprint(model.classifier.folder)
        if not forced:
            if seen is None or seen == self._tried[model.name]:
                return
            if seen != self._changing.get(model.name):
                self._changing[model.name] = seen
                return
        self._tried[model.name] = seen
        self._attempt(model, self._replace)

    def _replace(self, model: ServedModel) -> None:
        new = load_model(
            model.classifier.folder, model.name, threads=model.classifier.threads, max_batch=model.max_batch
        )
        if new.digest == model.digest:
            self._tell(f"{model.name}: unchanged")
        else:
            self._models.swap(new)
            self._tell(f"{model.name}: replaced; now {new.digest}")

    def _attempt(self, model: ServedModel, work: Callable[[ServedModel], None]) -> None:
        """Do one thing; whatever it raises, the model that is served stays."""
        try:
            work(model)
        except SignsclfError as error:
            self._tell(f"{model.name}: kept as it was: {error}")
        except Exception as error:
            self._tell(f"{model.name}: kept as it was: unexpected {type(error).__name__}: {first_line(error)}")
