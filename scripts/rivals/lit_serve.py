"""LitServe with its own batching. It takes no raw body: images come as base64 in JSON, as in its documentation."""

from __future__ import annotations

import base64
import os

import litserve
from pixels import Network, best


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, bodies: list[bytes]) -> list[object]:
        return list(self.network.probabilities([self.network.decode(body) for body in bodies]))

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def unbatch(self, output: list[object]) -> list[object]:
        return output

    def encode_response(self, output: object) -> dict[str, object]:
        return best(output)


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="error")
