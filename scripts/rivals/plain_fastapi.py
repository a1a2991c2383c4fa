"""FastAPI as one would write it with care: decoding and the network in threads, so that the event loop is free."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI, Request
from pixels import Network, best
from starlette.concurrency import run_in_threadpool

app = FastAPI()
network = Network()


def answer(data: bytes) -> dict[str, object]:
    return best(network.probabilities([network.decode(data)])[0])


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    return await run_in_threadpool(answer, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["BENCH_PORT"]), log_level="error", access_log=False)
