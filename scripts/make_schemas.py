"""Write schemas/: JSON Schema 2020-12 and CDDL, generated from the structs that the code decodes into.

The JSON Schemas describe the JSON form (base64 for bytes), the CDDL file the data model of PL-MP/1 itself. What is
only ever JSON, like the report of a verification, has no CDDL. What neither can say (canonical form, relations between
fields) is in PROTOCOL section 3 and in schemas/vectors/.
``--check`` writes nothing and exits 1 if a file differs, is missing or is left over.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from polledger.core import (  # noqa: E402
    challenge,
    claim,
    compareform,
    nest,
    proof,
    publicproof,
    records,
    renewal,
    reportform,
    sketch,
    source,
    state,
)
from polledger.core.scan import INT_MAX  # noqa: E402

TARGET = ROOT / "schemas"

KINDS: dict[str, type[msgspec.Struct]] = {
    "genesis": records.Genesis,
    "step": records.Step,
    "checkpoint": records.Checkpoint,
    "resume": records.Resume,
    "final": records.Final,
    "seal": records.Seal,
    "renewal": renewal.Renewal,
    "statement": renewal.Statement,
    "covered": renewal.Covered,
    "source": source.TaskSource,
    "state": state.StateManifest,
    "nest": nest.NestHeader,
    "sketches": sketch.Sketches,
    "challenge": challenge.Challenge,
    "refusal": challenge.Refusal,
    "proof": proof.ProofHeader,
    "public_proof": publicproof.PublicProof,
}
"""Everything that is encoded on its own, by its ``type``."""

TEXTS: dict[str, type[msgspec.Struct]] = {"claim": claim.Statement}
"""What is signed as JSON: the payload of a claim's envelope."""

REPORTS: dict[str, tuple[Any, ...]] = {
    "verify-report": (reportform.VerificationForm, reportform.FailureForm),
    "compare-report": (compareform.RivalsForm, compareform.RivalsFailureForm),
}
"""What commands say in JSON: one of these. Their schemas leave room for fields of later versions."""

CDDL_HEAD = f"""; PL-MP/1 in CDDL (RFC 8610), generated from the structs by scripts/make_schemas.py.
; CDDL speaks of CBOR; PL-MP/1 is MessagePack with the same data model. An absent field is left out.
; .size of a text counts UTF-8 bytes here: four times the limit in code points, which is what is enforced.

safe-int = -{INT_MAX}..{INT_MAX}
count = 0..{INT_MAX}
positive = 1..{INT_MAX}
digest = bstr .size 32
real = bstr .size 8                      ; IEEE-754 binary64, big-endian
key = tstr .size (1..64)                 ; of a-z, 0-9 and _
config-value = bool / safe-int / tstr / real / [* config-value] / {{* key => config-value}}

; PROTOCOL section 5; a tensor is named by its path in a state, by its number in a nest; an int is in decimal
structure = ["none"] / ["bool", bool] / ["int", tstr] / ["float", real]
          / ["str", tstr] / ["bytes", bstr] / ["list", [* structure]] / ["tuple", [* structure]]
          / ["map", [* [tstr, structure]]]
          / ["tensor", tstr / count] / ["array", count] / ["scalar", count]

record = genesis / step / checkpoint / resume / final
"""


def json_schemas() -> Iterator[tuple[str, str]]:
    """File name and text of every JSON Schema."""
    kinds = {name: (kind,) for name, kind in (KINDS | TEXTS).items()} | REPORTS
    for name, alternatives in kinds.items():
        schema = _schema(alternatives)
        head = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:polledger:schema:{name}:1",
        }
        text = json.dumps(_plain(head | schema), indent=2, ensure_ascii=False)
        yield f"{name}.schema.json", text + "\n"


def _schema(kinds: Sequence[Any]) -> dict[str, Any]:
    """The schema of a value of one of ``kinds``."""
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    return (schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}) | {"$defs": components}


def _plain(value: Any) -> Any:
    """``value`` with the Sphinx roles of the docstrings replaced by what they name."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", value) if isinstance(value, str) else value


def cddl() -> str:
    """The text of the one CDDL file."""
    rules: dict[str, str] = {}
    for kind in KINDS.values():
        _struct(inspect.type_info(kind), rules)
    return CDDL_HEAD + "".join(f"\n{rules[name]}" for name in rules)


def _struct(info: Any, rules: dict[str, str]) -> str:
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", info.cls.__name__).lower()
    if name not in rules:
        rules[name] = ""  # holds the place: a struct comes before those it is made of
        fields = dict(_fields(info, rules))
        lines = [f"  {fields[key]},\n" for key in sorted(fields)]
        rules[name] = f"{name} = {{\n{''.join(lines)}}}\n"
    return name


def _fields(info: Any, rules: dict[str, str]) -> Iterator[tuple[str, str]]:
    if info.tag is not None:
        yield info.tag_field, f'"{info.tag_field}": "{info.tag}"'
    for field in info.fields:
        optional = "" if field.required else "? "
        yield field.encode_name, f'{optional}"{field.encode_name}": {_type(field.type, rules)}'


def _type(info: Any, rules: dict[str, str]) -> str:
    match info:
        case inspect.Metadata():
            return "key" if "pattern" in (info.extra_json_schema or {}) else _type(info.type, rules)
        case inspect.StructType():
            return _struct(info, rules)
        case inspect.UnionType():
            return " / ".join(_type(item, rules) for item in info.types)
        case inspect.ListType(item_type=inspect.AnyType()):
            return "structure"
        case inspect.ListType():
            return f"[{_occurs(info)} {_type(info.item_type, rules)}]"
        case inspect.DictType():
            return f"{{{_occurs(info)} {_type(info.key_type, rules)} => {_type(info.value_type, rules)}}}"
        case inspect.LiteralType():
            return " / ".join(json.dumps(value) for value in info.values)
        case _:
            return _scalar(info)


def _scalar(info: Any) -> str:
    match info:
        case inspect.AnyType():
            return "config-value"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType(ge=low, le=high):
            integers = {-INT_MAX: "safe-int", 0: "count", 1: "positive"}
            return integers[low or 0] if high == INT_MAX else f"{low}..{high}"
        case inspect.BytesType(min_length=low, max_length=high):
            if low == high:
                return {32: "digest", 8: "real"}.get(high or 0) or f"bstr .size {high}"
            return f"bstr .size ({low or 0}..{high})"
        case inspect.StrType(min_length=low, max_length=high):
            return "tstr" if high is None else f"tstr .size ({low or 0}..{4 * high})"
    raise SystemExit(f"no CDDL for {info}")


def _occurs(info: Any) -> str:
    if info.max_length is None:
        return "*"
    return f"{info.min_length or 0}*{info.max_length}"


def main() -> None:
    """Write the files, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    check = parser.parse_args().check
    wanted = {**dict(json_schemas()), "polledger.cddl": cddl()}
    found = {path.name: path.read_text("utf-8") for path in TARGET.glob("*.*") if path.is_file()}
    drift = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if check:
        sys.exit(f"schemas/ is not what the structs say: {', '.join(drift)}" if drift else 0)
    TARGET.mkdir(exist_ok=True)
    for name in drift:
        if name in wanted:
            (TARGET / name).write_text(wanted[name], "utf-8")
        else:
            (TARGET / name).unlink()
    print(f"{len(wanted)} files, {len(drift)} changed")


if __name__ == "__main__":
    main()
