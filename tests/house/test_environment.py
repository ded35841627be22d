"""The environment: every package pinned by hash, by no address, the same for pip and for conda."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from modelkeep.core import workspace

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = (ROOT / "tests/extras.lock").read_text()  # compiled with the lock as its constraint
PIN = re.compile(r"[\w.-]+(\[[\w, -]+\])?==\S+( ; [^\\]+)?( --hash=sha256:[0-9a-f]{64})+")


def logical_lines(lock: str = LOCK) -> list[str]:
    joined = re.sub(r"\s*\\\n\s*", " ", lock)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def pinned(lock: str = LOCK) -> dict[str, list[Requirement]]:
    """The requirements by name; one package may have a version for each Python."""
    found = {}
    for line in logical_lines(lock):
        requirement = Requirement(line.split(" --hash")[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def direct() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]
    return [Requirement(each) for each in every]


def test_every_line_of_the_lock_is_a_version_with_hashes_and_no_address():
    assert [line for line in logical_lines() if not PIN.fullmatch(line)] == []
    assert "://" not in LOCK


def test_the_optional_packages_of_tests_are_pinned_and_change_no_other():
    lines = logical_lines(EXTRAS)
    assert [line for line in lines if not PIN.fullmatch(line)] == [] and "://" not in EXTRAS
    assert pinned(EXTRAS).keys().isdisjoint(pinned())
    assert "extras.lock" in (ROOT / ".ci/run").read_text()


def test_what_is_installed_is_what_is_pinned():
    here = [
        choice
        for choices in pinned().values()
        for choice in choices
        if choice.marker is None or choice.marker.evaluate()
    ]
    installed = {str(choice): version(choice.name) for choice in here}
    wrong = [
        f"{c}: {installed[str(c)]}" for c in here if not c.specifier.contains(installed[str(c)])
    ]
    assert wrong == []


@pytest.mark.parametrize("requirement", direct(), ids=lambda each: each.name)
def test_what_the_project_names_is_in_the_lock_and_within_bounds(requirement):
    name = canonicalize_name(requirement.name)
    # the build of XGBoost without graphics cards is a sixth of the size, and the same module
    choices = (pinned() | pinned(EXTRAS))[name if name != "xgboost" else "xgboost-cpu"]
    for choice in choices:
        (exact,) = choice.specifier
        assert requirement.specifier.contains(exact.version)


def test_each_package_has_one_version_for_any_one_python():
    for name, choices in pinned().items():
        for python in ("3.11.9", "3.12.0", "3.13.1"):
            here = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
            fit = [c for c in choices if c.marker is None or c.marker.evaluate(here)]
            assert len(fit) <= 1, f"{name} on {python}: {fit}"


def test_conda_gets_python_and_pip_and_leaves_the_rest_to_the_lock():
    listed = workspace.value((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [Requirement(e.replace("=", "==") if e.count("=") == 1 else e) for e in listed[:-1]]
    names = {each.name for each in conda}
    assert {"python", "pip"} <= names <= {"python", "pip", "git", "make"}
    assert listed[-1] == {"pip": ["-r requirements.lock"]}
    (python,) = (each.specifier for each in conda if each.name == "python")
    asked = SpecifierSet(PROJECT["requires-python"])
    assert all(asked.contains(each.version) for each in python)
