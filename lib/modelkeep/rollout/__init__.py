"""A release by steps: canary, shadow, and the judge.

- `planning`: the steps, and the rows that each needs
- `judge`: counts in, a decision with its reasons out; pure
- `outcomes`, `counts`: what counts as an error, and how many there were
- `rollout_log`: the log of a rollout; `control`: what moves it; `shadow`: its silent form
- `reverse_shadow`: the former champion beside a new one, which is taken back when it is worse
"""
