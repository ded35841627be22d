"""The shape of lib/modelkeep: packages import from those below them, pieces are small, importing does nothing."""

import ast

import pytest

from layers import LIB, MODULES, imported

PACKAGES = (  # from low to high; a package imports only from packages below it
    "core",
    "data",
    "evaluation",
    "predictions",
    "training",
    "registry",
    "monitoring",
    "serving",
    "rollout",
    "backtest",
    "jobs",
    "reports",
    "analyst",
    "ops",
    "notifications",
    "cli",
)
LEVEL = {name: level for level, name in enumerate(PACKAGES)}
FULLEST_FOLDER = 15
LONGEST_FILE, LONGEST_FUNCTION, LONG_FUNCTION = 500, 50, 30
PURE_CALLS = {
    "re.compile",
    "frozenset",
    "np.timedelta64",
    "Meta",
    "datetime",
    "attrgetter",
}  # they make constants


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


def package(name: str) -> str:
    return name.split(".")[0]


def test_every_package_has_its_place():
    assert {package(name) for name in MODULES} - {"__init__", "__main__"} == set(PACKAGES)


@pytest.mark.parametrize("name", [name for name in MODULES if package(name) in LEVEL])
def test_imports_go_down_only(name):
    others = {package(each) for each in imported(MODULES[name])} - {package(name)}
    up = [other for other in others if LEVEL[other] >= LEVEL[package(name)]]
    assert not up, f"{name} imports from {up}, which must stand below {package(name)}"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_has_a_tour_and_few_modules(name):
    assert ast.get_docstring(MODULES[name]), f"{name}/__init__.py does not say what is in it"
    modules = [path for path in (LIB / name).glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= FULLEST_FOLDER


def test_modules_of_a_package_import_in_one_direction():
    """No circle within a package: each module can be read after those that it imports."""
    below = {name: imported(tree) & set(MODULES) for name, tree in MODULES.items()}
    while leaves := [name for name, others in below.items() if not others & set(below)]:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert below == {}


@pytest.mark.parametrize("name", MODULES)
def test_importing_does_nothing(name):
    body = MODULES[name].body if name != "__main__" else MODULES[name].body[:-1]
    doing = [f"line {each.lineno}: {ast.unparse(each)}" for each in body if acts(each)]
    assert doing == []


def test_files_are_short():
    lines = {
        str(path.relative_to(LIB)): len(path.read_text().splitlines()) for path in LIB.rglob("*.py")
    }
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
