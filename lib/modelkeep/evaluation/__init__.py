"""How good predictions are, whether two models differ, whether columns have drifted.

NumPy and SciPy only.

- `metrics`: per-row losses, metrics with intervals by block, calibration, estimated quality
- `comparison`: the paired non-inferiority test of the gate
- `binning`, `profile`: a table as counts that add up over any window
- `two_sample`, `permutation`, `drift`: tests of those counts, by rows or by permuted blocks
- `live_quality`: has a model in service lost its skill, by labels as they come
- `guards`: is a window far outside its own past: labels, loss, columns
- `segments`: the rows that lost quality; `shift`: which kind of shift made the loss rise
- `recalibration`: the smallest update of predictions that is enough
- `seasons`: what of a drift the season explains
- `sequential`: e-values, valid however often they are read

A new metric goes into `metrics.METRICS`.
"""
