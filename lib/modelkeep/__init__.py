"""Modelkeep: keeps a deployed tabular model accurate, from notebooks.

`import modelkeep as mk` gives the analyst's functions (`dir(mk)` lists them, `help(mk.score)`
explains one). Each is imported when it is first used, so that the import itself costs nothing.
"""

from importlib import import_module

# the module of each name, below modelkeep
_MODULES = {
    "Bundle": "training.bundle",
    "PredictionLog": "analyst.predictions",
    "Registry": "analyst.registry",
    "Workspace": "analyst.workspace",
    "calibration": "analyst.quality",
    "card": "analyst.registry",
    "compare": "analyst.quality",
    "confusion": "analyst.quality",
    "costs": "analyst.costs",
    "diagnose": "analyst.diagnosis",
    "distribution": "analyst.columns",
    "drift": "analyst.columns",
    "explain": "analyst.diagnosis",
    "figures": "reports",
    "forget": "analyst.predictions",
    "groups": "analyst.costs",
    "importance": "analyst.quality",
    "predict": "analyst.quality",
    "rate": "analyst.columns",
    "recalibrate": "analyst.diagnosis",
    "score": "analyst.quality",
    "score_file": "analyst.predictions",
    "trace": "analyst.predictions",
    "what_if": "analyst.quality",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"modelkeep has no {name!r}; there is: {', '.join(sorted(_MODULES))}")
    if name == "figures":  # a module itself
        return import_module("modelkeep.reports.figures")
    return getattr(import_module(f"modelkeep.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
