"""LitServe with its batching, and the scikit-learn pipeline."""

import os
import sys
from itertools import accumulate

import litserve
from plain import answers


class Flights(litserve.LitAPI):
    """Requests of rows; a batch of requests is one call of the pipeline."""

    def setup(self, device):
        """Nothing: the model is loaded with `plain`."""

    def decode_request(self, request):
        """The rows of a request."""
        return request["rows"]

    def batch(self, inputs):
        """All rows of a batch, and how many are whose."""
        return [row for rows in inputs for row in rows], [len(rows) for rows in inputs]

    def predict(self, batch):
        """Answers, cut as the requests were."""
        rows, sizes = batch
        said, ends = answers(rows), list(accumulate(sizes))
        return [said[end - size : end] for size, end in zip(sizes, ends)]

    def unbatch(self, output):
        """One answer a request."""
        return output

    def encode_response(self, output):
        """The body."""
        return {"answers": output}


if __name__ == "__main__":
    size, wait = int(os.environ["BENCHMARK_BATCH"]), float(os.environ["BENCHMARK_WAIT"])
    api = Flights(max_batch_size=size, batch_timeout=wait)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
