"""A comparison as a page: what the JSON object says, in a browser or on paper. Nothing in it is judged again."""

from polledger.core.compareform import RivalsForm, TensorApartForm
from polledger.core.reportform import Number
from polledger.publish.compared import between, short, side_facts
from polledger.publish.markup import Content, Markup, element
from polledger.publish.style import document, table


def compare_page(found: RivalsForm) -> str:
    """The whole page for ``found``."""
    return document(
        "Two rivals compared",
        element("h1", "Two rivals compared"),
        element("p", found["sentence"], class_="known"),
        element(
            "p", f"Compared at {found['compared_at']} by polledger {found['version']}.", class_="faint small"
        ),
        element("h2", "Side by side"),
        _sides(found),
        element("h2", "Between them"),
        table("What each fact is about, and what it is", ("fact", ""), between(found), quiet=True),
        *_tensors(found),
        *_path(found),
        element("h2", "What this does not show"),
        element("ul", *(element("li", text) for text in found["not_shown"])),
    )


def _sides(found: RivalsForm) -> Markup:
    rows = [
        (name, one, other)
        for (name, one), (_, other) in zip(side_facts(found["a"]), side_facts(found["b"]), strict=True)
    ]
    return table("The same facts about A and B", ("fact", "A", "B"), rows, quiet=True)


def _tensors(found: RivalsForm) -> list[Content]:
    binding = found["binding"]
    if not binding["tensors"] or binding["relation"] == "exact":
        return []
    left = f", {binding['left_out']} more are not listed" if binding["left_out"] else ""
    headings = ("tensor", "dtype A, B", "distance", "of A's norm", "cosine", "equal numbers")
    rows = [_row(one) for one in binding["tensors"]]
    return [
        element("h2", "The final models, tensor by tensor"),
        table(f"Those that differ most come first{left}", headings, rows, numbers=(2, 3, 4, 5)),
    ]


def _row(one: TensorApartForm) -> list[Content]:
    dtypes = list(dict.fromkeys(one["dtypes"]))
    share = one["equal"] / one["numbers"] if one["numbers"] else 0.0
    numbers: list[Number] = [one["l2"], one["relative"], one["cosine"]]
    return [one["name"], ", ".join(dtypes), *map(short, numbers), f"{share:.1%}"]


def _path(found: RivalsForm) -> list[Content]:
    path = found["path"]
    if path is None:
        return []
    rows = [
        (str(step), short(distance), short(norm))
        for step, distance, norm in zip(path["steps"], path["distance"], path["norm"], strict=True)
    ]
    return [
        element("h2", "Along the way"),
        table("Checkpoints after as many steps", ("step", "distance", "norm of A"), rows, numbers=(0, 1, 2)),
    ]
