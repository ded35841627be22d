# `make run` runs one retraining cycle on the bundled flights; `make test` runs the tests.
# Everything is made inside this folder: the environment, DVC's cache, and what other tools keep between runs.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
export DVC_NO_ANALYTICS := 1
export MPLCONFIGDIR := $(CURDIR)/.venv/cache/matplotlib
export JUPYTER_DATA_DIR := $(CURDIR)/.venv/share/jupyter
export JUPYTER_CONFIG_DIR := $(CURDIR)/.venv/etc/jupyter

.PHONY: run backtest year test serve lab proof clean help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/made  ## one cycle of the pipeline, then the verdicts
	dvc repro
	modelkeep index
	modelkeep verdicts

backtest: .venv/made  ## replay the policy of params/backtest.yaml over the history (some minutes)
	cp -n backtest/stage.yaml backtest/dvc.yaml
	dvc repro backtest/dvc.yaml

year: .venv/made  ## nine months of flights in a scratch clone: real server, log, tags and rollouts (some 20 minutes)
	python examples/flights/year/year.py

test: .venv/made  ## the tests of CI
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not slow'

serve: .venv/made  ## the prediction server (params/serve.yaml)
	modelkeep serve

lab: .venv/made  ## JupyterLab on this workspace
	jupyter lab

proof: .venv/made  ## the long forms: thousands of simulations, hundreds of kills (hours)
	python -m pytest -m slow
	python benchmarks/drift_rates.py
	python benchmarks/quality.py
	MODELKEEP_CALM_DAYS=31 python -m pytest tests/monitoring/test_alerts.py
	MODELKEEP_CALM_DAYS=31 python -m pytest tests/integration/test_alarms.py -k calm
	MODELKEEP_GENERATED=1500 python -m pytest tests/integration/test_hostile.py -k generated -s
	python benchmarks/log_kills.py --times 200
	python benchmarks/log_kills.py --times 200 --durability normal
	python benchmarks/gate.py
	PYTHONPATH=tests/support python benchmarks/diagnosis.py
	PYTHONPATH=tests/support python benchmarks/recalibration.py
	python benchmarks/judge.py --runs 2000
	PYTHONPATH=tests/support python benchmarks/promote_race.py
	PYTHONPATH=tests/support python -P benchmarks/release_kills.py
	PYTHONPATH=tests/support python -P benchmarks/update_kills.py
	MODELKEEP_EVERY_KILL=1 python -m pytest tests/rollout/test_control.py -k killed
	python benchmarks/backtest.py
	python benchmarks/backtest.py --memory

clean:  ## remove the environment; data, models and reports stay
	rm -rf .venv

.venv/made: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or later is needed; name one with: make PYTHON=python3.12'; exit 1; }
	@echo 'Making the environment in .venv (once; some minutes) ...'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	mkdir -p .venv/etc/jupyter
	cp lib/modelkeep/core/jupyter_server_config.json .venv/etc/jupyter/
	@# outputs of notebooks stay out of Git whichever editor saves; files that a run makes do not stop a merge
	-git config filter.notebooks.clean '"$(CURDIR)/.venv/bin/python" -P -c "from modelkeep.core import notebooks; notebooks.filtered()"'
	@# before a commit: a stage's notebook with outputs is named, and `modelkeep clean` offered; a hook of yours stays
	-hook="$$(git rev-parse --git-path hooks/pre-commit)" && { test -e "$$hook" || { mkdir -p "$$(dirname "$$hook")" && printf '#!/bin/sh\n"%s" clean --check || true\n' '$(CURDIR)/.venv/bin/modelkeep' > "$$hook" && chmod +x "$$hook"; }; }
	-git config merge.made.name 'keep ours; dvc repro makes it again'
	-git config merge.made.driver true
	touch .venv/made
