from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polledger.core.encoding import EncodingRejected, encode
from polledger.core.source import SOURCE_BYTES, Distribution, SourceFile, TaskSource, parse_source

D1 = b"\x01" * 32


def file(path: str, size: int = 1) -> SourceFile:
    return SourceFile(path=path, executable=False, size=size, digest=D1)


def source(*files: SourceFile, **changes: Any) -> TaskSource:
    fields: dict[str, Any] = {"v": 1, "entry": files[0].path, "class_name": "Digits", "lines": 9}
    fields |= {"files": list(files), "distributions": [Distribution(name="torch", version="2.13.0")]}
    return TaskSource(**fields | changes)


def test_a_source_comes_back_as_it_was() -> None:
    tree = source(file("a/__init__.py"), file("a/b.py"), entry="a/b.py", module="a.b")
    assert parse_source(encode(tree)) == tree


@pytest.mark.parametrize(
    "path",
    [
        "/abs.py", "//host/a.py", "..", "../a.py", "a/../../b.py", "a/..", ".", "./a.py", "a/./b.py", "a//b.py", "a/",
        "a\\b.py", "..\\a.py", "C:/a.py", "a.py:stream", "a\0.py", "a\n.py", "a\x7f.py", "a\u2028.py",
        "\u202e.py", "p" * 256,
    ],
    ids=ascii,
)  # fmt: skip
def test_a_path_that_may_lead_elsewhere_or_deceive_does_not_exist(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        file(path)


@pytest.mark.parametrize(
    "path", ["a.py", "a/b/c.py", "..a.py", "a..b/c...py", ".hidden/x.py", "p" * 255, "é.py"]
)
def test_an_ordinary_path_is_taken(path: str) -> None:
    assert file(path).path == path


@given(st.text(st.sampled_from("a./\\\0:"), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_path_that_is_taken_stays_below_its_directory(path: str) -> None:
    try:
        file(path)
    except ValueError:
        return
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert not {"\\", "\0", ":"} & set(path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.py", "a.py"], "listed twice"),
        (["b.py", "a.py"], "ascending"),
        (["a/b.py", "a.py"], "ascending"),
        (["a", "a/b"], "a file and a directory"),
        (["a", "a.py", "a/b"], "a file and a directory"),
        (["a/b", "a/b.py", "a/b/c/d"], "a file and a directory"),
    ],
)
def test_a_tree_that_cannot_be_written_does_not_exist(paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(*map(file, paths))


def test_the_entry_is_one_of_the_files() -> None:
    with pytest.raises(ValueError, match="none of the files"):
        source(file("a.py"), entry="b.py")


def test_sizes_add_up_to_at_most_one_mebibyte() -> None:
    half = SOURCE_BYTES // 2
    assert source(file("a.py", half), file("b.py", half))
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        source(file("a.py", half), file("b.py", half + 1))


@pytest.mark.parametrize("name", ["", "a b", "a-b", "1a", "a.", ".a", "a..b", "a;b", "__import__('os')"])
def test_class_and_module_are_dotted_identifiers(name: str) -> None:
    for field in ("class_name", "module"):
        with pytest.raises(ValueError, match="identifiers"):
            source(file("a.py"), **{field: name})


def test_a_tree_of_too_many_files_is_rejected() -> None:
    files = [msgspec.to_builtins(file(f"{i:04d}.py"), builtin_types=(bytes,)) for i in range(4097)]
    tree = msgspec.to_builtins(source(file("0000.py")), builtin_types=(bytes,)) | {"files": files}
    assert parse_source(encode(tree | {"files": files[:4096]})).files[-1].path == "4095.py"
    with pytest.raises(EncodingRejected, match="length <= 4096"):
        parse_source(encode(tree))


def test_a_source_beyond_its_limits_is_rejected() -> None:
    names = [{"name": f"{i:05d}" + "n" * 200, "version": "1"} for i in range(6000)]
    tree = msgspec.to_builtins(source(file("a.py")), builtin_types=(bytes,)) | {"distributions": names}
    with pytest.raises(EncodingRejected) as caught:
        parse_source(encode(tree))
    assert caught.value.defect == "size"
