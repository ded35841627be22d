"""Engines: predictors that are proven equal to the pipeline on data, or left out.

- `export`: makes them and proves them; `encoding`: the preprocessing in NumPy
- `calibration`: the map to calibrated probabilities; `libraries`: trees of LightGBM and XGBoost
- `onnx`: ONNX Runtime; `quickscorer`: boosted trees by bit vectors; `trees`: thresholds that 32-bit
  floats keep apart
"""
