"""What a task's committed source says about itself, read as text: nothing of it is imported. PROTOCOL section 14.

Reading sees only what is written out: what code would do when it runs is not told here.
"""

import ast
from collections.abc import Mapping

from polledger.errors import UsageError
from polledger.helper import OWN_ROOT
from polledger.training.replay import TaskProgram
from polledger.training.source import verify_tree

_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python's parser raises for text that is no program."""


def check_class(spec: str, data: bytes, class_name: str) -> None:
    """Raise UsageError unless the file of ``spec``, as text, leaves no doubt that ``class_name`` is its task.

    Genesis names the class, but which of several the verifier vouches for is not the prover's to say.
    """
    found = possible_tasks(data, class_name)
    if len(found) > 1:
        names = f"{', '.join(found[:-1])} and {found[-1]}"
        raise UsageError(f"{spec} defines {names}: name one, as in {spec}:{found[0]}")
    if found != [class_name]:
        raise UsageError(f"{spec} does not say which class is the task: name it, as in {spec}:{class_name}")


def possible_tasks(data: bytes, class_name: str) -> list[str]:
    """Top-level classes of a file that descend from Task, or from whatever ``class_name`` descends from.

    Descent is followed through the classes of the file itself; what they inherit from elsewhere is told by name.
    """
    try:
        tree = ast.parse(data)
    except _UNPARSABLE:
        return []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    bases = {node.name: {_base_name(base) for base in node.bases} for node in classes}
    roots = {name: _roots(name, bases) for name in bases}
    wanted = roots.get(class_name, set()) | _names_of_task(tree)
    return [name for name, found in roots.items() if found & wanted or _last_parts(found) & {"Task"}]


def _base_name(base: ast.expr) -> str:
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base)


def _roots(name: str, bases: Mapping[str, set[str]]) -> set[str]:
    """What the class ``name`` descends from beyond the classes in ``bases``."""
    found, waiting, seen = set[str](), [name], set[str]()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in bases:
            waiting += bases[current]
        else:
            found.add(current)
    return found


def _names_of_task(tree: ast.Module) -> set[str]:
    """Other names under which the file imports something called Task."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {item.asname for node in imports for item in node.names if item.name == "Task" and item.asname}


def _last_parts(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def committed_files(program: TaskProgram) -> Mapping[str, bytes]:
    """The program's files; those of polledger's own module as they lie here (empty if they are not the committed)."""
    if program.files is not None:
        return program.files
    found = verify_tree(program.source, OWN_ROOT)
    return found if isinstance(found, dict) else {}


def overrides_of(program: TaskProgram) -> list[str]:
    """Which of ``build``, ``step`` and ``batch`` the task's class defines in its own body: that makes it custom.

    Not seen: what a base class in another file defines, or code that sets attributes later. The code has to be read.
    """
    names = {name for node in _class_body(program) for name in _defined(node)}
    return sorted(names & {"build", "step", "batch"})


def _class_body(program: TaskProgram) -> list[ast.stmt]:
    """Statements in the body of every class of the task's name in its file; none where that does not parse."""
    try:
        tree = ast.parse(committed_files(program).get(program.source.entry, b""))
    except _UNPARSABLE:
        return []
    wanted = program.source.class_name.rpartition(".")[2]
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == wanted]
    return [statement for node in classes for statement in node.body]


def check_inputs(program: TaskProgram, given: Mapping[str, str]) -> None:
    """Raise UsageError for a name in ``given`` that the task's class, read as text, does not declare."""
    names = declared_names(program)
    unknown = sorted(given.keys() - names) if names is not None else []
    if unknown:
        known = ", ".join(sorted(names or ())) or "none"
        raise UsageError(
            f"--input {unknown[0]}: {program.source.class_name} has no such input (declared: {known})"
        )


def declared_names(program: TaskProgram) -> set[str] | None:
    """Keys of the literal ``inputs`` in the body of the task's class; None where reading does not tell."""
    for node in _class_body(program):
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if "inputs" in _defined(node) and isinstance(value, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
            return {key for key in keys if isinstance(key, str)} if all(keys) else None
    return None


def declares_inputs(program: TaskProgram) -> bool:
    """Whether the task may read inputs that the verifier supplies; True where that cannot be excluded.

    Looks for a class attribute ``inputs`` or any use of an attribute of that name in the committed files.
    """
    files = committed_files(program)
    if not files:
        return True
    return any(_mentions_inputs(data) for path, data in files.items() if path.endswith(".py"))


def _mentions_inputs(data: bytes) -> bool:
    try:
        tree = ast.parse(data)
    except _UNPARSABLE:
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "inputs":
            return True
        if isinstance(node, ast.ClassDef) and any("inputs" in _defined(item) for item in node.body):
            return True
    return False


def _defined(node: ast.stmt) -> set[str]:
    """Names that one statement of a class body defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return {target.id for target in targets if isinstance(target, ast.Name)}
