import json
import shlex
import sys

import pytest

import tiny
from modelkeep.cli import commands, main
from modelkeep.core import notebooks, verdicts

HELP = ["run", "index", "compare", "verdicts", "clean", "serve", "investigate", "monitoring"]
HELP += ["trace", "score", "log export"]
HELP += ["release", "promote", "rollback", "history", "show", "champion", "update"]
HELP += [f"rollout {action}" for action in ("plan", "start", "status", "pause", "abort", "run")]
MODELKEEP = (sys.executable, "-m", "modelkeep")


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tiny.workspace(tmp_path / "clone", fails="divisor: 0\n")
    monkeypatch.chdir(root / "notebooks")
    return root


def told(capsys, *argv):
    code = main.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", HELP)
def test_every_command_has_help_with_an_example(command, capsys):
    code, out, _ = told(capsys, *command.split(), "--help")
    assert code == 0
    assert f"Example: modelkeep {command}" in out


def test_help_lists_every_command_in_sections_and_loads_nothing_heavy(tmp_path):
    heavy = "{'numpy', 'pandas', 'papermill', 'nbformat', 'psutil', 'msgspec', 'gto', 'dvc'}"
    code = f"import sys; from modelkeep.cli import main; main.main(['--help'])\nprint(*{heavy} & set(sys.modules), 'END')"
    done = tiny.run(tmp_path, sys.executable, "-c", code)
    names = [name.split()[0] for name in HELP]
    assert [name for name in names if f"\n  {name} " not in done.stdout] == []
    for section in ("Pipeline", "Serving", "Versions", "Rollout", "Automation"):
        assert f"\n{section}:\n" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "END"


def test_a_misspelt_or_renamed_command_is_named(capsys):
    assert "`show` now" in told(capsys, "explain", "v1")[2]
    assert "did you mean `history`?" in told(capsys, "histroy")[2]


def test_the_shell_completes_commands_stages_and_options(root):
    def completed(words):
        env = {"_MODELKEEP_COMPLETE": "bash_complete", "COMP_WORDS": words}
        env["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        done = tiny.run(root, *MODELKEEP, **env)
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert "fails" in completed("modelkeep run ")
    assert completed("modelkeep rele") == ["release"]
    assert "--parameter" in completed("modelkeep run --par")


def test_the_help_of_run_names_the_stages_of_the_workspace(root, capsys):
    assert "Stages:\n    fails\n" in told(capsys, "run", "--help")[1]


def test_a_closed_pipe_is_quiet(root):
    for stage in ("train", "prepare"):
        verdicts.write(verdicts.Verdict(stage, "done", "x" * 70_000), root)
    command = f"{shlex.quote(sys.executable)} -m modelkeep verdicts | head -c 10"
    done = tiny.run(root, "bash", "-c", command)
    assert (done.stdout, done.stderr) == ("prepare: x", "")


def test_wrong_input_is_one_clean_message_and_two(root, capsys):
    code, out, err = told(capsys, "run", "failz", "--json")
    assert (code, json.loads(out)["state"]) == (2, "failed")
    assert err == "modelkeep: notebooks/failz.ipynb is not there; did you mean `fails`?\n"


def test_outside_a_workspace_the_remedy_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, "verdicts")
    assert (code, out) == (2, "")
    assert "dvc.yaml and params/" in err


def test_a_parameter_needs_a_name_and_a_value(root, capsys):
    code, _, err = told(capsys, "run", "fails", "-p", "divisor")
    assert code == 2
    assert "`divisor` is not NAME=VALUE" in err


def test_our_own_defects_are_not_dressed_up_as_wrong_input(root, monkeypatch):
    monkeypatch.setattr(commands.workspace, "root", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main.main(["verdicts"])


def test_a_failed_notebook_is_one_and_names_its_page(root):
    done = tiny.run(root, *MODELKEEP, "run", "fails", "--json")
    page = root / "reports" / "failed" / "fails.html"
    assert done.returncode == 1
    assert json.loads(done.stdout)["page"] == str(page)
    assert page.exists()
    last = done.stderr.splitlines()[-1]
    assert last == f"modelkeep: {json.loads(done.stdout)['error']}"
    assert "Traceback" not in done.stderr


def test_a_parameter_of_the_command_line_goes_first(root):
    done = tiny.run(root / "notebooks", *MODELKEEP, "run", "fails", "-p", "divisor=4")
    assert (done.returncode, done.stdout) == (0, "reports/fails.html\n")
    assert "0.25" in (root / "reports" / "fails.html").read_text()


def test_the_code_that_runs_is_that_of_the_tree(root):
    own = root / "lib" / "modelkeep"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    (own / "__main__.py").write_text("import sys; print('own', sys.argv[1:])")
    done = tiny.run(root / "notebooks", *MODELKEEP, "verdicts", "--json")
    assert done.stdout == "own ['verdicts', '--json']\n"


def test_verdicts_are_said_in_the_order_of_the_loop(root, capsys):
    for stage, sentence in {"train": "It learned.", "prepare": "It is clean."}.items():
        verdicts.write(verdicts.Verdict(stage, "done", sentence), root)
    code, out, _ = told(capsys, "verdicts")
    lines = out.splitlines()
    assert (code, lines[:2]) == (0, ["prepare: It is clean.", "train: It learned."])
    assert "reports/index.html" in lines[-1]
    code, out, _ = told(capsys, "verdicts", "--json")
    assert [v["sentence"] for v in json.loads(out).values()] == ["It is clean.", "It learned."]


def test_index_tells_the_verdicts_and_the_failures(root, capsys):
    verdicts.write(verdicts.Verdict("train", "done", "It learned."), root)
    (root / "reports" / "failed").mkdir(parents=True)
    (root / "reports" / "failed" / "monitor.html").write_text("")
    assert told(capsys, "index")[:2] == (0, "reports/index.html\n")
    page = (root / "reports" / "index.html").read_text()
    assert "It learned." in page
    assert "failed/monitor.html" in page
    _, out, _ = told(capsys, "verdicts")
    assert "monitor: its last run failed; see reports/failed/monitor.html" in out


def test_a_conclusion_of_an_earlier_run_is_said_to_be_one(root, capsys):
    chain = {"prepare": ("", "rows"), "train": ("rows", "model"), "evaluate": ("model", "page")}
    locks = {
        stage: {
            "deps": [{"path": takes, "md5": takes}] if takes else [],
            "outs": [{"path": makes, "md5": makes}],
        }
        for stage, (takes, makes) in chain.items()
    }
    for stage in locks:
        verdicts.write(verdicts.Verdict(stage, "done", f"{stage} ended."), root)
    lock = root / "dvc.lock"
    lock.write_text(json.dumps({"stages": locks}))

    def old():
        lines = told(capsys, "verdicts")[1].splitlines()
        told(capsys, "index")
        page = (root / "reports" / "index.html").read_text()
        found = [line.split(":")[0] for line in lines if "This is of an earlier run" in line]
        assert page.count("This is of an earlier run") == len(found) + ("evaluate" in found)
        return found

    assert old() == []
    locks["prepare"]["outs"][0]["md5"] = "made anew"
    lock.write_text(json.dumps({"stages": locks}))
    assert old() == ["train", "evaluate"]
    locks["train"]["deps"][0]["md5"] = "made anew"
    lock.write_text(json.dumps({"stages": locks}))
    assert old() == []


def test_a_failure_makes_the_conclusions_after_it_old(root, capsys):
    locks = {
        "train": {"outs": [{"path": "model", "md5": "1"}]},
        "evaluate": {"deps": [{"path": "model", "md5": "1"}]},
    }
    (root / "dvc.lock").write_text(json.dumps({"stages": locks}))
    verdicts.write(verdicts.Verdict("evaluate", "done", "It is better."), root)
    (root / "reports" / "failed").mkdir(parents=True)
    (root / "reports" / "failed" / "train.html").write_text("")
    line = told(capsys, "verdicts")[1].splitlines()[0]
    assert line.startswith("evaluate: It is better. (This is of an earlier run")


def test_clean_brings_notebooks_to_their_committed_form(root, capsys):
    path, own = (root / "notebooks" / f"{name}.ipynb" for name in ("monitor", "my_own"))
    executed = (tiny.NOTEBOOKS / "executed.ipynb").read_bytes()
    for each in (path, own):
        each.write_bytes(executed)
    code, _, error = told(capsys, "clean", "--check")  # what the pre-commit hook calls
    assert code and "notebooks/monitor.ipynb: outputs make DVC run the stage again" in error
    assert "`modelkeep clean` takes them off" in error and path.read_bytes() == executed
    assert told(capsys, "clean")[:2] == (0, "notebooks/monitor.ipynb\n")
    assert path.read_text() == notebooks.text(notebooks.canonical(notebooks.read(path)))
    assert told(capsys, "clean", "--check", "--json")[:2] == (0, "[]\n")
    assert own.read_bytes() == executed  # your own keep their outputs
    assert told(capsys, "clean", "--all")[:2] == (0, "notebooks/my_own.ipynb\n")
