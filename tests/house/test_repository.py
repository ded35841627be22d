"""What the repository keeps: no machine's paths, no addresses of package indexes, nothing large."""

import re

import pytest

import workspaces

LARGEST_BYTES = 1_000_000
# classes of one letter, so that no line here is found by itself
MACHINE = re.compile(r"(?<![\w.}\])\"'*/-])/(?:wor[k]|roo[t]|hom[e]/\w|User[s]/\w)\b")
QUOTED_MACHINE = re.compile(r"[\"'](?:file://)?/(?:wor[k]|roo[t]|hom[e]/\w|User[s]/\w)")
SESSION = re.compile(r"\bfar[m]-")
INDEX = re.compile(
    r"pypi[.]org|pythonhosted[.]org|anaconda[.]org|registry[.]npmjs|index-ur[l]|find-link[s]"
)


def texts() -> dict[str, str]:
    found = {}
    for name in workspaces.tracked():
        data = (workspaces.REPOSITORY / name).read_bytes()
        if b"\0" not in data:
            found[name] = data.decode("utf-8")
    return found


@pytest.mark.parametrize("pattern", [MACHINE, QUOTED_MACHINE, SESSION, INDEX])
def test_no_text_names_a_machine_or_an_index(pattern):
    lines = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert lines == []


def test_tests_use_no_private_names():
    """Of ours; named tuples, Jupyter and scikit-learn have some that are meant for others."""
    private = re.compile(
        r"(?<!self)(?<!cls)[.]_(?!repr_|asdict|replace|fields|exit|raw_predict)[a-z]\w*"
    )
    lines = [
        f"{name}:{number}: {found.group()}"
        for name, text in texts().items()
        if re.fullmatch(r"tests/.*[.]py", name) and "/house/" not in name
        for number, line in enumerate(text.splitlines(), 1)
        if (found := private.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", line)))
    ]
    assert lines == []


def test_nothing_large_is_in_git():
    sizes = {n: (workspaces.REPOSITORY / n).stat().st_size for n in workspaces.tracked()}
    assert {name: size for name, size in sizes.items() if size > LARGEST_BYTES} == {}


@pytest.mark.parametrize(
    "text", ["see /{}/main", "'/{}/x'", '"file:///{}/x"', "cd /{}", "PATH=/{}/bin", "(/{}/a)"]
)
def test_the_rule_sees_a_machine(text):
    named = text.format("wo" + "rk")
    assert MACHINE.search(named) or QUOTED_MACHINE.search(named)
    relative = f"root / name; {{root}}/{'wo' + 'rk'}; ../{'wo' + 'rk'}/x; <root>/x; a/root"
    assert not MACHINE.search(relative)


def test_every_action_of_a_workflow_is_pinned_by_its_commit():
    workflows = {n: t for n, t in texts().items() if n.startswith(".github/workflows/")}
    used = re.findall(r"uses: (\S+)", "\n".join(workflows.values()))
    assert len(used) >= 4
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []
