"""What a maintenance policy would have done on the history.

- `point_in_time`: what was known when, and the models that could be trained then
- `policies`, `replay`: when to retrain, and the weeks lived through
- `trials`: gate and canary within a replay
- `frontier`: quality against retrains, and the choice
- `cache`: results on disk by what they were computed from
"""
