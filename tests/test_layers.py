"""The shape of lib/modelkeep: imports go down the ladder, pieces are small, importing does nothing."""

import ast
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib" / "modelkeep"
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(LIB.glob("*.py"))}
LADDER = (  # from low to high; a module imports only from lower levels
    "bins cohorts columns encoding entries eprocess figures files forms leftovers parents report scores sealed settings tags tails",
    "charts frontier gate postgres profile quickscorer ramp schema shelf sources sqlite store verdicts workspace",
    "canary contract engine experiments log models notebooks rows sweep tables traffic trees twosample",
    "alerts drift exposition journal mistakes openapi parameters partitions proof record reference rules windows",
    "bundle dashboards evidence live livebins looks policies runner shadow story turns watch",
    "collect compare evaluate history investigations monitor panels past prepare train",  # what the pages say
    "monitoring served serving",
    "inference releases telemetry trials",
    "commits labels replay web",
    "answers backtest replies rollout wire",
    "server",
    "candidates investigate serve steering",
    "update",
    "cli",
    "__main__",
)
LEVEL = {name: level for level, names in enumerate(LADDER) for name in names.split()}
LONGEST_FILE, LONGEST_FUNCTION, LONG_FUNCTION = 300, 50, 30
PURE_CALLS = {
    "re.compile",
    "frozenset",
    "np.timedelta64",
    "Meta",
    "datetime",
    "attrgetter",
}  # they make constants


def imported(tree: ast.Module) -> set[str]:
    """The modules of ours that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "modelkeep":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modelkeep."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "modelkeep" and len(name) > 1}
    return found


def acts(statement: ast.stmt) -> bool:
    """Whether a statement of a module does something when the module is imported."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.ClassDef():
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return False
        case ast.Expr(value=ast.Constant()):
            return False
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]):
            return any(acts(each) for each in body)
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
            return any(ast.unparse(call) not in PURE_CALLS for call in calls)
    return True


def functions() -> list[tuple[int, str]]:
    return [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_ladder_names_every_module_once():
    named = " ".join(LADDER).split()
    assert sorted(named) == sorted(set(named))
    assert sorted(named) == sorted(set(MODULES) - {"__init__"})


@pytest.mark.parametrize("name", LEVEL)
def test_imports_go_down_only(name):
    up = [other for other in imported(MODULES[name]) if LEVEL[other] >= LEVEL[name]]
    assert not up, f"{name} (level {LEVEL[name]}) imports {up}, which must be below it"


@pytest.mark.parametrize("name", MODULES)
def test_importing_does_nothing(name):
    body = MODULES[name].body if name != "__main__" else MODULES[name].body[:-1]
    doing = [f"line {each.lineno}: {ast.unparse(each)}" for each in body if acts(each)]
    assert doing == []


def test_files_are_short():
    lines = {path.name: len(path.read_text().splitlines()) for path in LIB.glob("*.py")}
    assert {name: n for name, n in lines.items() if n > LONGEST_FILE} == {}


def test_functions_are_short():
    assert [each for each in functions() if each[0] > LONGEST_FUNCTION] == []
    long = [each for each in functions() if each[0] > LONG_FUNCTION]
    assert len(long) <= len(functions()) / 10, sorted(long)


def test_the_rule_of_imports_sees_what_acts():
    quiet = "'Text.'\nimport os\nX: int = 1\nY = re.compile('a')\nif TYPE_CHECKING:\n    import b"
    assert not any(acts(each) for each in ast.parse(quiet).body)
    for line in ("print(1)", "X = open('a')", "if X:\n    Y = 1", "for x in y:\n    pass", "X()"):
        assert acts(ast.parse(line).body[0]), line
