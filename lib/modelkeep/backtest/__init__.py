"""What a maintenance policy would have done on the history.

- `point_in_time`: what was known when, and the models that could be trained then
- `policies`, `replay`: when to retrain, and the weeks lived through
- `guarded`: the default policy replayed, with the functions of `training.maintenance`
- `planted`: bad candidates planted into that replay, and which guard stops them
- `recipes`: a changed recipe beside the former one, by fresh models of both
- `recalibrated`: the first model with a new level every four weeks, never trained again
- `trials`: gate and canary within a replay
- `frontier`: quality against retrains, and the choice
- `alternatives`: a policy beside never, every week, every 4 weeks, the oracle; what each costs
- `cache`: results on disk by what they were computed from
"""
