"""Step 9: was the code that replayed kept from looking for the answer?"""

from collections.abc import Iterator, Mapping

from polledger.core.report import Finding

_REACHED = {"files": "files here", "network": "the network and other processes"}

_ISOLATE = "read the task's code, or verify on Linux with Landlock and user namespaces (no container that denies them)"


def isolation_findings(taken: Mapping[str, bool], *, own: bool, required: bool) -> Iterator[Finding]:
    """What of ``taken`` was not kept from the code that replayed; nothing to say of polledger's ``own``."""
    # Nothing taken: nothing ran, and step 9 says so. A process that says nothing of one was not kept from it.
    lacking = [name for name in _REACHED if taken and not taken.get(name, False)]
    if own or not lacking:
        return
    detail = (
        f"replay was not kept from {' and '.join(_REACHED[name] for name in lacking)}: the task's code could have "
        "looked for the answer"
    )
    name = "isolation.required" if required else "isolation"
    yield Finding(step=9, name=name, outcome="unverifiable", detail=detail, remedy=_ISOLATE)
