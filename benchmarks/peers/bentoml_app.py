"""BentoML with adaptive batching, and the scikit-learn pipeline."""

import os

import bentoml
from plain import answers

SIZE = int(os.environ["BENCHMARK_BATCH"])


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Flights:
    """Requests of rows; BentoML makes batches of them."""

    @bentoml.api(batchable=True, max_batch_size=max(SIZE, 2048), max_latency_ms=1000)
    def predict(self, rows: list[dict]) -> list[list[float]]:
        """Answer a batch."""
        return answers(rows)
