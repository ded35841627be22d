"""Engines without pandas or scikit-learn: the estimator alone, behind our preprocessing."""

import os
from collections.abc import Sequence

import numpy as np

from modelkeep.training.engines import calibration
from modelkeep.training.engines.encoding import Encoding
from modelkeep.training.engines.quickscorer import QuickScorer


class Onnx:
    """A loaded ONNX estimator behind its preprocessing."""

    def __init__(self, plan: dict, model: bytes, threads: int = 1) -> None:
        # from 1.29 on it sends what it runs to its maker, and keeps an id in the user's home
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.output = [self.session.get_outputs()[-1].name]
        self.regression, self.encoding = plan["task"] == "regression", Encoding(plan)
        self.calibration = plan.get("calibration", {})

    def predict(self, numbers: np.ndarray, categories: Sequence[Sequence]) -> np.ndarray:
        """Probabilities (rows, classes), or predicted numbers (rows,); arguments as `Encoding`
        takes them.
        """
        x = self.encoding.ranks(self.encoding(numbers, categories))
        answer = self.session.run(self.output, {"x": x})[0].astype(np.float64)
        return calibration.apply(self.calibration, answer.ravel() if self.regression else answer)


ALONE = {"quickscorer": QuickScorer, "onnx": Onnx}  # by their name in `sealed.ENGINES`
