import ast

import pytest

import tiny
from modelkeep.core import notebooks, parameters

EVERY = (
    "count: 1\nshare: 1\nname: a\nsure: true\nlimit: null\ncolumns: []\nranges: {}\nanything: []\n"
)


def refusal(root, stage, **overrides):
    with pytest.raises(parameters.WrongParameters) as error:
        parameters.resolve(root, stage, overrides)
    return str(error.value)


def test_values_come_from_the_params_file_and_then_the_overrides(tmp_path):
    root = tiny.workspace(tmp_path, hello="word: ho\ntimes: 3\n")
    assert parameters.resolve(root, "hello", {}) == {"word": "ho", "times": 3}
    assert parameters.resolve(root, "hello", {"times": 4}) == {"word": "ho", "times": 4}


def test_the_parameters_cell_is_the_schema():
    nb = notebooks.read(tiny.NOTEBOOKS / "every_type.ipynb")
    lines, problems = parameters.declared(nb, "here")
    assert problems == []
    assert {name: line.type for name, line in lines.items()} == {
        "count": "int",
        "share": "float",
        "name": "str",
        "sure": "bool",
        "limit": "int | None",
        "columns": "list[str]",
        "ranges": "dict[str, list[float]]",
        "anything": "list",
    }
    assert lines["columns"].meaning == "which; x = y is fine here"
    assert lines["ranges"].meaning == "from, to"
    assert lines["ranges"].default == {"a": [0, 1]}


def test_every_problem_of_the_values_is_said_at_once(tmp_path):
    root = tiny.workspace(tmp_path, hello="wrod: ho\ntimes: 2.5\n")
    said = refusal(root, "hello", tmies=1, times=True).splitlines()
    assert said == [
        "stage hello was not started:",
        "  params/hello.yaml: `wrod` is not a parameter; did you mean `word`?",
        "  -p: `tmies` is not a parameter; did you mean `times`?",
        "  params/hello.yaml: `word` is missing (what to say); add `word: 'hi'`, "
        "the notebook's default",
        "  params/hello.yaml: `times: 2.5` is float, it must be int (how often)",
        "  -p: `times: true` is bool, it must be int (how often)",
    ]


def test_every_problem_of_the_cell_is_said_at_once(tmp_path):
    said = refusal(tiny.workspace(tmp_path, bad_lines=""), "bad_lines").splitlines()
    assert [line.partition(": ")[0][-6:] for line in said[1:]] == [f"line {n}" for n in range(1, 7)]
    for line, words in zip(
        said[1:],
        [
            "is not of the form",
            "is not of the form",
            "no meaning",
            "the type tuple",
            "not int",
            "plain",
        ],
        strict=True,
    ):
        assert words in line


@pytest.mark.parametrize(
    ("stage", "said"),
    [("no_parameters", "0 cells are tagged"), ("two_parameter_cells", "2 cells are tagged")],
)
def test_there_is_exactly_one_parameters_cell(tmp_path, stage, said):
    assert said in refusal(tiny.workspace(tmp_path, **{stage: ""}), stage)


def test_a_cell_that_is_no_python_is_said_with_its_line():
    nb = {"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "a: =1"}]}
    assert "cell 1, line 1" in parameters.declared(nb, "here")[1][0]


def test_a_stage_without_notebook_says_which_was_meant(tmp_path):
    root = tiny.workspace(tmp_path, hello="")
    assert "did you mean `hello`?" in refusal(root, "helo")
    assert "there are hello" in refusal(root, "prepare")


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -1], [1.0, True, "1", None]),
        ("float", [1, 0.5, float("inf")], [True, "1"]),
        ("str", ["1", ""], [1, None]),
        ("bool", [True, False], [1, "true"]),
        ("str | None", ["a", None], [1]),
        ("list[str]", [[], ["a"]], ["a", [1], {}]),
        ("list", [[1, "a"]], [{}]),
        ("dict[str, int]", [{}, {"a": 1}], [{1: 1}, {"a": "b"}, {"a": True}, []]),
        ("list[int] | float", [[1], 1.5], ["a", ["a"]]),
    ],
)
def test_values_fit_their_type(annotation, good, bad):
    node = ast.parse(annotation, mode="eval").body
    assert [value for value in good if not parameters.fits(value, node)] == []
    assert [value for value in bad if parameters.fits(value, node)] == []


def test_text_from_the_command_line_is_read_by_the_type(tmp_path):
    root = tiny.workspace(tmp_path, every_type=EVERY)
    text = {"count": "8", "name": "2013-10-01", "limit": "5", "columns": "[a, b]", "sure": "false"}
    values = parameters.resolve(root, "every_type", text)
    assert values == {
        **{"count": 8, "share": 1.0, "name": "2013-10-01", "sure": False, "limit": 5},
        **{"columns": ["a", "b"], "ranges": {}, "anything": []},
    }
    assert isinstance(values["share"], float)
    text = {"name": "12", "limit": "null"}
    values = parameters.resolve(root, "every_type", text)
    assert (values["name"], values["limit"]) == ("12", None)
    assert "`count: 'many'` is str, it must be int" in refusal(root, "every_type", count="many")


@pytest.mark.parametrize(("old", "new"), [("by", "model"), ("draws", "permutations")])
def test_a_name_of_before_is_answered_with_the_one_of_now(old, new, tmp_path):
    root = tiny.workspace(tmp_path, hello=f"word: ho\ntimes: 3\n{old}: x\n")
    text = (root / "notebooks" / "hello.ipynb").read_text()
    (root / "notebooks" / "hello.ipynb").write_text(text.replace("word", new))
    with pytest.raises(parameters.WrongParameters, match=f"`{old}` is not a .*renamed to `{new}`"):
        parameters.resolve(root, "hello", {})
