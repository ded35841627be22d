"""A model and its bundle.

- `pipelines`: the kinds of pipeline, and cross-validation in time order; `boosters`: those of
  LightGBM, XGBoost, CatBoost; `calibration`: probabilities mapped to observed rates
- `custom`: the user's own estimator and features, from lib/pipeline.py
- `validation`: expected performance, from out-of-fold predictions
- `candidates`: a model trained anew, or the champion with a new level and slope
- `baseline`, `trial`: what a candidate is compared with, and the comparison
- `reference`: the profile that later windows are compared with
- `maintenance`: the decisions about a refit: data guards, harm gate, canary by risk, reverse shadow
- `costs`: what errors cost, and the threshold that costs least
- `explain`: what each column adds to one prediction (Shapley values), or to quality
- `manifests`, `bundle`: the files of a model, hashed and read without pickle
- `engines/`: fast predictors that are proven equal to the pipeline, or left out

A new kind of model goes into `pipelines.KINDS`, or into `boosters` where a library brings it.
"""
