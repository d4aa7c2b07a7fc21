"""The vectors of tests/vectors/derivation.json, made by a second transcription of the protocol."""

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).resolve().parents[1] / "vectors" / "derivation.json"


def vectors(section: str) -> Any:
    return json.loads(_FILE.read_text(encoding="utf-8"))[section]
