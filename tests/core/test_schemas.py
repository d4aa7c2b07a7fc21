import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from polledger.core.encoding import encode
from tests.core.encoding_vectors import Vector, load

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
SCRIPTS = ["make_schemas.py", "make_encoding_vectors.py"]

VALID = [vector for vector in load("accept") if vector.kind != "value"]


def schema_of(value: dict[str, Any]) -> Draft202012Validator:
    name = value["type"]
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8")))


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "scripts" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_generated_files_have_not_drifted(name: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / name, "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_drift_is_found(name: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script(name, monkeypatch)
    monkeypatch.setattr(module, "TARGET", tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    module.main()
    victim = sorted(path for path in tmp_path.rglob("*.*") if path.is_file())[0]
    if change == "edit":
        victim.write_text(victim.read_text("utf-8").replace("1", "2", 1), "utf-8")
    elif change == "remove":
        victim.unlink()
    else:
        (victim.parent / "extra.json").write_text("{}", "utf-8")
    monkeypatch.setattr(sys, "argv", [name, "--check"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code not in (0, None)


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.schema.json")), ids=lambda path: path.name)
def test_schemas_are_valid_json_schema_2020_12(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
def test_the_json_form_of_a_valid_struct_passes_its_schema(vector: Vector) -> None:
    value = vector.content["json"]
    schema_of(value).validate(value)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
def test_the_schema_refuses_missing_unknown_and_mistyped_fields(vector: Vector) -> None:
    value = vector.content["json"]
    validator = schema_of(value)
    assert not validator.is_valid(value | {"unknown": 1})
    for name in value:
        assert not validator.is_valid(value | {name: None})
    optional = {field.name for field in msgspec.structs.fields(vector.parse()) if not field.required}
    for name in value.keys() - optional:
        assert not validator.is_valid({key: value[key] for key in value if key != name})


def test_every_type_has_a_schema() -> None:
    names = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")}
    assert names == {
        "genesis",
        "step",
        "checkpoint",
        "resume",
        "final",
        "seal",
        "renewal",
        "statement",
        "covered",
        "source",
        "state",
        "nest",
        "sketches",
        "challenge",
        "refusal",
        "proof",
        "public_proof",
        "claim",
        "verify-report",
        "compare-report",
    }


def test_the_cddl_file_names_every_field() -> None:
    text = (SCHEMAS / "polledger.cddl").read_text("utf-8")
    for vector in VALID:
        for field in vector.content["json"]:
            assert f'"{field}": ' in text
    assert "record = genesis / step / checkpoint / resume / final\n" in text


def test_vectors_cover_every_type_that_is_encoded_on_its_own() -> None:
    assert {vector.content["json"]["type"] for vector in VALID} == {
        "genesis", "step", "checkpoint", "resume", "final", "seal", "renewal", "statement", "source",
        "challenge", "refusal", "proof", "public_proof",
    }  # fmt: skip
    assert all(encode(vector.parse()) == vector.data for vector in VALID)
