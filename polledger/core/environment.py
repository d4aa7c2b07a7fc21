"""Which environments must give the same bits. PROTOCOL section 10, "Environment class"."""

from polledger.core.records import Environment

CLASS_FIELDS = (
    "device",
    "cpu",
    "capability",
    "torch",
    "torch_git",
    "cuda",
    "cudnn",
    "driver",
    "threads",
    "interop_threads",
    "python",
    "numpy",
    "polledger",
)
"""What may decide bits besides the flags. Python, NumPy and polledger run the data set, the batches and the recipe: a
run must not be refuted because a verifier has another version of one. The platform's name is only recorded."""


def environment_class(environment: Environment) -> dict[str, str | int | bool]:
    """Every value that belongs to the class, by name; flags as ``flags.NAME``."""
    values: dict[str, str | int | bool] = {name: getattr(environment, name) for name in CLASS_FIELDS}
    values.update({f"flags.{name}": value for name, value in environment.flags.items()})
    return values


def same_class(a: Environment, b: Environment) -> list[str]:
    """Names of the values in which ``a`` and ``b`` are of different classes, ascending; empty for the same class."""
    first, second = environment_class(a), environment_class(b)
    missing = object()
    names = first.keys() | second.keys()
    return sorted(name for name in names if not _same(first.get(name, missing), second.get(name, missing)))


DRAW_FIELDS = ("device", "torch", "torch_git", "cuda", "flags.gpu_capability", "flags.gpu_multiprocessors")
"""What decides which numbers torch's generators give for a seed. A GPU cuts a draw by its multiprocessors, so that two
models give different dropout masks for one seed."""


def same_draws(a: Environment, b: Environment) -> bool:
    """Whether equal seeds give equal random numbers in both, rounding aside, as far as it can be known.

    On CPUs: of one architecture, which the instruction sets tell; torch uses another generator on each.
    """
    if a.cpu != b.cpu and not _instructions(a) & _instructions(b):
        return False
    first, second = environment_class(a), environment_class(b)
    return all(_same(first.get(name), second.get(name)) for name in DRAW_FIELDS)


def _instructions(environment: Environment) -> set[str]:
    return set(str(environment.flags.get("cpu_isa", "")).split())


def _same(a: object, b: object) -> bool:
    # True == 1, and a switch is not a number.
    return type(a) is type(b) and a == b
