"""README and guides: each command is run in a workspace with the real example, and prints what the page says."""

import subprocess

import pytest

import documents
import workspaces
from workspaces import REPOSITORY, run

PAGES = ["README.md", *(f"docs/{p.name}" for p in sorted((REPOSITORY / "docs").glob("*.md")))]
TEXTS = {page: (REPOSITORY / page).read_text() for page in PAGES}
SHORT, LONG = ({p: documents.commands(t, slow) for p, t in TEXTS.items()} for slow in (False, True))
RUN = [pytest.param(SHORT[page], id=page) for page in PAGES if SHORT[page]]
RUN += [
    pytest.param(LONG[page], id=f"{page} whole", marks=pytest.mark.slow)
    for page in PAGES
    if LONG[page] != SHORT[page]
]


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """A repository with the example's first cycle run and committed."""
    root = tmp_path_factory.mktemp("docs") / "modelkeep"
    workspaces.copy(root)
    run(root, "git", "init", "-q", "-b", "main")
    workspaces.commit(root, "Fork")
    run(root, "dvc", "repro", "-q")
    workspaces.commit(root, "First cycle")
    return root


@pytest.fixture
def workspace(cycle, tmp_path):
    """A clone with the same cache, for the commands of one page."""
    root = workspaces.clone(cycle, tmp_path / "modelkeep")
    run(root, "dvc", "cache", "dir", "--local", str(cycle / ".dvc" / "cache"))
    run(root, "dvc", "checkout", "-q")
    return root


@pytest.mark.parametrize("commands", RUN)
def test_each_command_prints_what_the_page_says(commands, workspace):
    env = workspaces.surroundings(workspace) | {"MODELKEEP_TOKEN": ""}
    env |= {"PYTHONPATH": str(workspace / "lib"), "DVC_NO_ANALYTICS": "1"}
    for who in ("AUTHOR", "COMMITTER"):  # tags and commits of a page
        env |= {f"GIT_{who}_NAME": "A. Person", f"GIT_{who}_EMAIL": "a@example.org"}
    shell = documents.Shell(workspace, env)
    try:
        for command in commands:
            shell.run(command)
    finally:
        shell.close()


def test_a_page_that_says_something_else_is_found(tmp_path):
    shell = documents.Shell(tmp_path, {})
    right, wrong = documents.commands("```console\n$ echo 12 rows\n12 ...\n$ echo 12\n13\n```\n")
    shell.run(right)
    with pytest.raises(AssertionError, match="it prints:\n12"):
        shell.run(wrong)


def test_a_block_that_is_not_run_says_so(tmp_path):
    assert documents.commands("```console no-run\n$ crontab -l\n```\n", slow=True) == []
    assert documents.commands("```console slow\n$ true\n```\n") == []
    (failing,) = documents.commands("```console fails\n$ false\n```\n")
    documents.Shell(tmp_path, {}).run(failing)
    assert subprocess.run(["bash", "-c", failing.text]).returncode
