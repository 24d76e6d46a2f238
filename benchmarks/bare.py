"""The floor that durable calls are compared with: FastAPI, uvicorn, the published model, nothing behind them."""

import sys

import uvicorn
from fastapi import FastAPI

from kato_node.wire.schemas import Observation

app = FastAPI()


@app.post("/observe")
async def observe(observation: Observation) -> dict[str, int]:
    """Parse the observation, as a node does."""
    return {"symbols": len(observation.strings)}


if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), loop="uvloop", http="httptools", log_level="error", access_log=False)
