"""BentoML: one image a call, in its own threads."""

from __future__ import annotations

from pathlib import Path

import bentoml
from pixels import Network, best


@bentoml.service(workers=1, traffic={"timeout": 30}, metrics={"enabled": False})
class Signs:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(route="/predict")
    def predict(self, image: Path, /) -> dict:
        return best(self.network.probabilities([self.network.decode(image.read_bytes())])[0])
