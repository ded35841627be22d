"""The command line: `main` has the commands, `rollout` those of a rollout."""
