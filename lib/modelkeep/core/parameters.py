"""The parameters of a stage: what its notebook declares, checked against what it is given."""

import ast
import io
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from modelkeep.core import notebooks, workspace
from modelkeep.core.errors import ModelkeepError

TAG = "parameters"
INJECTED = "# Parameters\n"  # how the cell begins that papermill injects
FORM = "`name: type = default  # meaning`"
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}

RENAMED = {  # parameters of before, and what they are called now (another name in another stage)
    "by": ("model",),
    "draws": ("bootstrap_samples", "permutations"),
    "dwell_minutes": ("min_step_minutes",),
    "floor": ("tolerated_error_rate",),
    "look_seconds": ("analysis_interval_seconds",),
    "maturity_hours": ("label_maturity_hours",),
    "pages_a_year": ("false_alarms_per_year",),
    "penalty": ("l2",),
    "wait_days": ("label_wait_days",),
}


class WrongParameters(ModelkeepError, ValueError):
    """Parameters do not fit what the notebook declares; the message lists every problem."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell."""

    name: str
    annotation: ast.expr
    default: object
    meaning: str

    @property
    def type(self) -> str:
        """The annotation as it is written."""
        return ast.unparse(self.annotation)


def resolve(root: Path, stage: str, overrides: Mapping[str, object]) -> dict[str, object]:
    """The values for a run of `stage`: its params file's, then `overrides` (text is YAML)."""
    path = root / "notebooks" / f"{stage}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.ipynb"))
        hint = workspace.meant(stage, known) or f"; there are {', '.join(known) or 'none'}"
        raise WrongParameters(f"notebooks/{stage}.ipynb is not there{hint}")
    lines, problems = declared(notebooks.read(path), f"notebooks/{stage}.ipynb")
    given = workspace.params(root, stage)
    if not problems:
        overrides = {name: _read(lines.get(name), value) for name, value in overrides.items()}
        problems += _unknown(lines, given, f"params/{stage}.yaml")
        problems += _unknown(lines, overrides, "-p")
        problems += _missing(lines, given, f"params/{stage}.yaml")
        problems += _ill_typed(lines, given, f"params/{stage}.yaml")
        problems += _ill_typed(lines, overrides, "-p")
    if problems:
        raise WrongParameters("\n  ".join([f"stage {stage} was not started:", *problems]))
    values = {**given, **overrides}
    return {name: _exact(values[name], line.annotation) for name, line in lines.items()}


def use_file(root: Path, stage: str, names: dict[str, object]) -> dict[str, str]:
    """Give a notebook that is run by hand the values of its params file; `names` are its globals.

    Where papermill has injected values, those stay. Returns a fact for the page when the run has
    other values than the file, else nothing.
    """
    if not any(str(cell).startswith(INJECTED) for cell in names.get("In", ())):
        names.update(resolve(root, stage, {}))
    stated = workspace.params(root, stage)
    other = [
        f"{name} {workspace.written(names[name])} (params/{stage}.yaml: {workspace.written(value)})"
        for name, value in stated.items()
        if names[name] != value
    ]
    return {"other values": ", ".join(other)} if other else {}


def program(
    root: Path, name: str, settings: type, overrides: Mapping[str, object]
) -> dict[str, object]:
    """The values of `params/<name>.yaml` for a dataclass of settings, then `overrides` (text is
    YAML).
    """
    lines = {
        f.name: Parameter(f.name, _annotation(f.type), f.default, f.name) for f in fields(settings)
    }
    given = workspace.params(root, name)
    overrides = {key: _read(lines.get(key), value) for key, value in overrides.items()}
    problems = _missing(lines, given, f"params/{name}.yaml")
    for values, where in ((given, f"params/{name}.yaml"), (overrides, "-p")):
        problems += _unknown(lines, values, where) + _ill_typed(lines, values, where)
    if problems:
        raise WrongParameters("\n  ".join([f"{name} was not started:", *problems]))
    values = {**given, **overrides}
    return {key: _exact(values[key], line.annotation) for key, line in lines.items()}


def _annotation(kind: object) -> ast.expr:
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    return ast.parse(text, mode="eval").body


def declared(nb: dict, where: str) -> tuple[dict[str, Parameter], list[str]]:
    """The lines of the notebook's one parameters cell by name, and what is wrong with the cell."""
    cells = notebooks.tagged(nb, TAG)
    if len(cells) != 1:
        return {}, [f"{where}: {len(cells)} cells are tagged `{TAG}`; tag exactly one"]
    where = f"{where}, cell {cells[0] + 1}"
    source = nb["cells"][cells[0]]["source"]
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        return {}, [f"{where}, line {error.lineno}: {error.msg}; write lines of {FORM}"]
    comments = _comments(source)
    lines, problems = {}, []
    for statement in statements:
        try:
            line = _line(statement, comments.get(statement.end_lineno, ""))
            lines[line.name] = line
        except WrongParameters as problem:
            problems.append(f"{where}, line {statement.lineno}: {problem}")
    return lines, problems


def fits(value: object, annotation: ast.expr) -> bool:
    """Whether `value` is of the type: a whole number fits float, a bool fits no number."""
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, right=right):
            return fits(value, left) or fits(value, right)
        case ast.Name(id=name):
            return isinstance(value, TYPES[name]) and isinstance(value, bool) == (name == "bool")
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(fits(each, item) for each in value)
        case ast.Subscript(slice=ast.Tuple(elts=[key, item])):
            pairs = value.items() if isinstance(value, dict) else ()
            return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in pairs)
    raise TypeError(ast.unparse(annotation))


def _line(statement: ast.stmt, meaning: str) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as default):
            type_ = ast.unparse(kind)
        case _:
            raise WrongParameters(f"`{ast.unparse(statement)}` is not of the form {FORM}")
    if not _is_type(kind):
        known = f"{', '.join(TYPES)}, list[...], dict[str, ...] and ... | None"
        raise WrongParameters(f"`{name}` has the type {type_}; the types are {known}")
    if not meaning:
        raise WrongParameters(f"`{name}` has no meaning; write {FORM}")
    try:
        value = ast.literal_eval(default)
    except ValueError:
        raise WrongParameters(f"the default of `{name}` is not a plain value") from None
    if not fits(value, kind):
        raise WrongParameters(f"the default of `{name}`, {value!r}, is not {type_}; change one")
    return Parameter(name, kind, value, meaning)


def _is_type(annotation: ast.expr) -> bool:
    match annotation:
        case ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return name in TYPES
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_type(left) and _is_type(right)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return _is_type(item)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            return _is_type(key) and _is_type(item)
    return False


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _unknown(lines: dict[str, Parameter], given: Mapping, where: str) -> list[str]:
    return [
        f"{where}: `{name}` is not a parameter{_remedy(str(name), lines, given)}"
        for name in given
        if name not in lines
    ]


def renamed(given: Mapping, names: Sequence[str]) -> list[str]:
    """What is wrong with params that lack some of these names: each is missing, or was renamed."""
    former = {new: old for old, now in RENAMED.items() for new in now if old in given}
    return [
        f"`{former[name]}` was renamed to `{name}`" if name in former else f"`{name}` is missing"
        for name in names
        if name not in given
    ]


def _remedy(name: str, lines: dict[str, Parameter], given: Mapping) -> str:
    for new in RENAMED.get(name, ()):
        if new in lines:
            return f"; it was renamed to `{new}`"
    free = [name for name in lines if name not in given]
    hint = workspace.meant(name, free) or workspace.meant(name, list(lines))
    return hint or f"; its parameters are {', '.join(lines) or 'none'}"


def _missing(lines: dict[str, Parameter], given: Mapping, where: str) -> list[str]:
    return [
        f"{where}: `{name}` is missing ({line.meaning}); "
        f"add `{name}: {_shown(line.default)}`, the notebook's default"
        for name, line in lines.items()
        if name not in given
    ]


def _ill_typed(lines: dict[str, Parameter], given: Mapping, where: str) -> list[str]:
    return [
        f"{where}: `{name}: {_shown(given[name])}` is {type(given[name]).__name__}, "
        f"it must be {line.type} ({line.meaning})"
        for name, line in lines.items()
        if name in given and not fits(given[name], line.annotation)
    ]


def _shown(value: object) -> str:
    special = {None: "null", True: "true", False: "false"}
    return special[value] if value is None or isinstance(value, bool) else repr(value)


def _read(line: Parameter | None, value: object) -> object:
    if line is None or not isinstance(value, str):
        return value
    read = workspace.value(value)
    return read if fits(read, line.annotation) else value


def _exact(value: object, annotation: ast.expr) -> object:
    is_float = isinstance(annotation, ast.Name) and annotation.id == "float"
    return float(value) if is_float else value
