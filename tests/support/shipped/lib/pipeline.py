"""YOURS: what your model is made of. Each commit's models know this file by its hash.

`estimator` returns any scikit-learn estimator or Pipeline, unfitted; it learns from a DataFrame of
the schema's columns (float64; object with NaN for a missing category). `features`, if you define
it, changes that DataFrame first, in training and in service alike: it must treat each row alone.
Own transformers are classes in this file. docs/own-model.md has examples.
"""

from modelkeep.training import pipelines


def estimator(schema, params):
    """The kinds of params/train.yaml: boosting, forest, linear."""
    return pipelines.pipeline(schema, **params)


# def features(frame):
#     return frame.assign(windy=frame["wind_speed"] > 25)
