"""Which class a model names: the most probable, or the one that costs least."""

from collections.abc import Mapping

import numpy as np

from modelkeep.training.engines import calibration


def decide(operating: Mapping, p: np.ndarray) -> np.ndarray:
    """The number of the class that each row of probabilities (rows, classes) leads to.

    `operating` is that of the manifest (`costs.learn` makes it); without it, the most probable.
    """
    if not operating:
        return p.argmax(axis=1)
    if operating["threshold"] is not None:
        return (p[:, 1] >= operating["threshold"]).astype(int)
    costs = np.array(operating["costs"])
    return (calibration.apply(operating["calibration"], p) @ costs).argmin(axis=1)
