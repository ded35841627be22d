"""The model as scikit-learn answers it, for the peers: a frame of the rows, and the whole pipeline's predict_proba."""

import os

import pandas as pd
import skops.io

PATH = os.environ["BENCHMARK_MODEL"]
# The file was made by this repository a moment ago; a server of yours should name the types that it trusts.
PIPELINE = skops.io.load(PATH, trusted=skops.io.get_untrusted_types(file=PATH))


def answers(rows: list[dict]) -> list[list[float]]:
    """The probabilities of each row."""
    return PIPELINE.predict_proba(pd.DataFrame(rows)).tolist()
