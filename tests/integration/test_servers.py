import sys
from pathlib import Path

import pytest

import servers


def test_a_program_is_found_in_the_folders_that_are_named(tmp_path):
    here = Path(sys.executable)
    assert servers.need(here.name, "python3", str(here.parent)) == str(here)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("true", pytest.fail)])
def test_a_missing_program_is_told_with_its_remedy(ci, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="no-such is not installed: apt-get install it"):
        servers.need("no-such", "it")


def test_ports_are_free():
    assert 0 < servers.free_port() < 2**16
