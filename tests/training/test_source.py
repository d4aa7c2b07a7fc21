"""Finding, committing and rebuilding a task's source tree."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from polledger.core.source import SOURCE_BYTES, TaskSource
from polledger.errors import MalformedError, UsageError
from polledger.helper import OWN_ROOT
from polledger.training.location import describe_error
from polledger.training.source import (
    TaskLocation,
    collect_source,
    imported_distributions,
    load_task_class,
    resolve_task,
    source_digest,
    task_modules,
    uncommitted_modules,
    verify_tree,
    write_tree,
)

TASK = "from polledger import Task\n\nclass Mine(Task):\n    config = {'steps': 3}\n"


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path) -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name, module in list(sys.modules.items()):
        # Only what a test made: libraries with native code load once per process.
        if str(tmp_path) in str(getattr(module, "__file__", "")):
            sys.modules.pop(name)
            sys.modules.update({name: modules[name]} if name in modules else {})
    sys.path[:] = path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def collected(
    location: TaskLocation, modules: Mapping[str, str] | None = None
) -> tuple[TaskSource, dict[str, bytes]]:
    return collect_source(location, class_name="Mine", modules=modules)


class TestResolve:
    def test_file_outside_a_package_stands_alone(self, project: Path) -> None:
        write(project, {"train.py": TASK})
        found = resolve_task("train.py")
        assert found == TaskLocation(path=project / "train.py", module=None, class_name=None, root=project)

    def test_class_is_named_after_a_colon(self, project: Path) -> None:
        write(project, {"train.py": TASK})
        assert resolve_task("train.py:Mine").class_name == "Mine"
        assert resolve_task(f"{project}/train.py:Mine").path == project / "train.py"

    def test_file_in_a_package_is_found_by_path_and_by_name_alike(self, project: Path) -> None:
        write(project, {"a/__init__.py": "", "a/b/__init__.py": "", "a/b/train.py": TASK})
        found = resolve_task("a/b/train.py")
        assert (found.root, found.module) == (project, "a.b.train")
        assert resolve_task("a.b.train") == found

    def test_module_without_a_package_is_the_same_as_its_file(self, project: Path) -> None:
        write(project, {"train.py": TASK})
        assert resolve_task("train:Mine") == resolve_task("train.py:Mine")

    def test_package_itself_resolves_to_its_init_file(self, project: Path) -> None:
        write(project, {"pack/__init__.py": TASK})
        found = resolve_task("pack")
        assert (found.path, found.module, found.root) == (project / "pack/__init__.py", "pack", project)

    def test_own_examples_are_found_from_anywhere(self, project: Path) -> None:
        found = resolve_task("polledger.examples.digits")
        assert found.path == OWN_ROOT / "polledger/examples/digits.py"
        assert (found.root, found.module) == (OWN_ROOT, "polledger.examples.digits")

    def test_resolving_runs_no_code(self, project: Path) -> None:
        write(
            project,
            {"evil/__init__.py": "raise SystemExit('ran')", "evil/train.py": "raise SystemExit('ran')"},
        )
        assert resolve_task("evil.train").module == "evil.train"
        assert "evil" not in sys.modules

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("", "a task is named"),
            (":Mine", "a task is named"),
            ("train.py:", "a task is named"),
            ("train.py:not-a-name", "a task is named"),
            ("trian.py", "did you mean train.py"),
            ("no/where.py", "no such file"),
            ("./", "is a directory"),
            ("data.txt/", "not a Python file"),
            ("./data.txt", "not a Python file"),
            ("my-train.py", "importable name"),
            ("no_such_module", "there is no module 'no_such_module'"),
            ("polledger.examples.digit", "did you mean digits"),
            ("polledger.nothing.at_all", "no module 'nothing' in polledger"),
            ("spaced", "package without a file"),
            ("what is this", "a task is named"),
        ],
    )
    def test_bad_name_gets_one_line_that_helps(self, project: Path, spec: str, message: str) -> None:
        write(project, {"train.py": TASK, "data.txt": "", "my-train.py": TASK, "spaced/x.py": ""})
        with pytest.raises(UsageError, match=message) as caught:
            resolve_task(spec)
        assert "\n" not in str(caught.value)


class TestLoad:
    def test_file_alone_with_sibling_imports(self, project: Path) -> None:
        write(project, {"train.py": "import sibling_of_mine\n" + TASK, "sibling_of_mine.py": "VALUE = 1\n"})
        cls = load_task_class(resolve_task("train.py"))
        assert cls.__name__ == "Mine"
        assert sys.modules["sibling_of_mine"].VALUE == 1

    def test_module_in_a_package_with_relative_imports(self, project: Path) -> None:
        write(
            project,
            {"pack_r/__init__.py": "", "pack_r/base.py": TASK, "pack_r/train.py": "from .base import Mine\n"},
        )
        assert load_task_class(resolve_task("pack_r.train:Mine")).__module__ == "pack_r.base"

    def test_file_named_like_a_standard_module_does_not_replace_it(self, project: Path) -> None:
        write(project, {"random.py": TASK})
        import random

        assert load_task_class(resolve_task("random.py")).__name__ == "Mine"
        assert sys.modules["random"] is random

    def test_own_example_loads(self) -> None:
        cls = load_task_class(resolve_task("polledger.examples.digits"))
        assert cls.__name__ == "Digits"

    def test_own_example_loads_from_a_materialised_tree(self, tmp_path: Path) -> None:
        location = resolve_task("polledger.examples.digits")
        source, contents = collect_source(location, class_name="Digits")
        by_digest = {entry.digest: contents[entry.path] for entry in source.files}
        write_tree(source, by_digest.__getitem__, tmp_path)
        (tmp_path / "polledger/examples/digits.py").write_text(TASK.replace("Mine", "Digits"))
        copy = TaskLocation(
            path=tmp_path / source.entry, module=location.module, class_name="Digits", root=tmp_path
        )
        cls = load_task_class(copy)
        assert cls.config == {"steps": 3}
        assert sys.modules["polledger.examples"].__file__ == str(tmp_path / "polledger/examples/__init__.py")

    def test_module_by_name_alone_loads(self) -> None:
        location = TaskLocation(path=None, module="polledger.examples.digits", class_name="Digits", root=None)
        assert load_task_class(location).__name__ == "Digits"

    def test_imported_subclasses_do_not_count_as_defined_here(self, project: Path) -> None:
        write(
            project, {"base_task.py": TASK, "train.py": "from base_task import Mine\nclass Own(Mine): pass\n"}
        )
        assert load_task_class(resolve_task("train.py")).__name__ == "Own"

    @pytest.mark.parametrize(
        ("text", "spec", "message"),
        [
            ("x = 1\n", "train.py", "defines no subclass"),
            (TASK + "class Other(Task): pass\n", "train.py", "name one, as in train.py:Mine"),
            (TASK, "train.py:Mien", "did you mean Mine"),
            (TASK, "train.py:Zebra", "it has Mine"),
            (TASK + "number = 3\n", "train.py:number", "not a subclass"),
            ("def broken(:\n", "train.py", "does not load: SyntaxError"),
            ("import nothing_like_this\n", "train.py", "ModuleNotFoundError.*train.py, line 1"),
            ("\n\nraise ValueError('two\\nlines')\n", "train.py", "ValueError: two lines .train.py, line 3"),
            ("import sys\nsys.exit(3)\n", "train.py", "SystemExit"),
        ],
    )
    def test_code_that_does_not_load_gets_one_line(
        self, project: Path, text: str, spec: str, message: str
    ) -> None:
        write(project, {"train.py": text})
        with pytest.raises(UsageError, match=message) as caught:
            load_task_class(resolve_task(spec))
        assert "\n" not in str(caught.value)

    def test_module_that_comes_from_elsewhere_is_refused(self, project: Path, tmp_path: Path) -> None:
        write(project, {"one/pack_e/__init__.py": "", "one/pack_e/t.py": TASK})
        write(project, {"two/pack_e/__init__.py": "", "two/pack_e/t.py": TASK})
        load_task_class(resolve_task("one/pack_e/t.py"))
        with pytest.raises(UsageError, match="is imported from"):
            load_task_class(resolve_task("two/pack_e/t.py"))


class TestCollect:
    def test_file_alone_is_its_own_tree(self, project: Path) -> None:
        write(project, {"train.py": TASK, "unrelated.py": "x = 1\n"})
        source, contents = collected(resolve_task("train.py"))
        assert [entry.path for entry in source.files] == ["train.py"]
        assert contents == {"train.py": TASK.encode()}
        assert (source.entry, source.class_name, source.lines) == ("train.py", "Mine", 3)

    def test_package_brings_its_python_files_and_the_packages_above(self, project: Path) -> None:
        names = ("a/__init__.py", "a/other.py", "a/b/__init__.py", "a/b/helper.py", "a/b/train.py")
        write(project, dict.fromkeys(names, TASK))
        source, _ = collected(resolve_task("a.b.train"))
        listed = [entry.path for entry in source.files]
        assert listed == ["a/__init__.py", "a/b/__init__.py", "a/b/helper.py", "a/b/train.py"]
        assert (source.entry, source.module) == ("a/b/train.py", "a.b.train")

    def test_own_examples_are_files_and_polledger_is_not(self) -> None:
        source, _ = collected(resolve_task("polledger.examples.digits"))
        paths = {entry.path for entry in source.files}
        assert {"polledger/examples/__init__.py", "polledger/examples/digits.py"} <= paths
        assert all(path.startswith("polledger/examples/") for path in paths)

    def test_loaded_modules_join_the_tree(self, project: Path) -> None:
        write(project, {"train.py": TASK, "lib/helper.py": "y = 2\n"})
        source, contents = collected(
            resolve_task("train.py"), {"lib/helper.py": str(project / "lib/helper.py")}
        )
        assert [entry.path for entry in source.files] == ["lib/helper.py", "train.py"]
        assert contents["lib/helper.py"] == b"y = 2\n"

    def test_digest_follows_every_byte_name_and_executable_bit(self, project: Path) -> None:
        write(project, {"train.py": TASK})
        location = resolve_task("train.py")
        digests = {source_digest(collected(location)[0])}
        (project / "train.py").chmod(0o755)
        digests.add(source_digest(collected(location)[0]))
        write(project, {"train.py": TASK + "\n"})
        digests.add(source_digest(collected(location)[0]))
        digests.add(source_digest(collect_source(location, class_name="Other")[0]))
        assert len(digests) == 4

    def test_tree_of_one_mebibyte_is_accepted_and_one_byte_more_refused(self, project: Path) -> None:
        write(project, {"train.py": "#" * (SOURCE_BYTES - 4), "big.py": "####"})
        modules = {"big.py": str(project / "big.py")}
        collected(resolve_task("train.py"), modules)
        write(project, {"big.py": "#####"})
        with pytest.raises(UsageError, match=r"at most 1048576 are committed; the largest is train\.py"):
            collected(resolve_task("train.py"), modules)

    def test_file_name_that_cannot_be_committed_is_refused(self, project: Path) -> None:
        write(project, {"train.py": TASK, "a:b.py": ""})
        with pytest.raises(UsageError, match=r"cannot be committed: the path 'a:b\.py'"):
            collected(resolve_task("train.py"), {"a:b.py": str(project / "a:b.py")})

    def test_two_files_for_one_path_are_refused(self, project: Path) -> None:
        write(project, {"train.py": TASK, "elsewhere/train.py": TASK})
        with pytest.raises(UsageError, match=r"both claim train\.py"):
            collected(resolve_task("train.py"), {"train.py": str(project / "elsewhere/train.py")})


class TestModules:
    @staticmethod
    def module(name: str, file: Path) -> ModuleType:
        made = ModuleType(name)
        made.__file__ = str(file)
        return made

    def test_only_code_outside_the_standard_library_and_site_packages_counts(self, project: Path) -> None:
        import json

        import msgspec

        write(project, {"train.py": TASK, "helper.py": "", ".venv/lib/site-packages/third.py": ""})
        modules = {
            "json": json,
            "msgspec": msgspec,
            "polledger": sys.modules["polledger"],
            "helper": self.module("helper", project / "helper.py"),
            "third": self.module("third", project / ".venv/lib/site-packages/third.py"),
            "gone": self.module("gone", project / "gone.py"),
            "frozen": ModuleType("frozen"),
        }
        found = task_modules(resolve_task("train.py"), modules)
        assert found == {"helper.py": str(project / "helper.py")}

    def test_module_outside_the_root_lies_where_its_name_is_imported_from(self, project: Path) -> None:
        write(project, {"app/train.py": TASK, "lib/tools/__init__.py": "", "lib/tools/x.py": ""})
        modules = {
            "tools": self.module("tools", project / "lib/tools/__init__.py"),
            "tools.x": self.module("tools.x", project / "lib/tools/x.py"),
        }
        found = task_modules(resolve_task("app/train.py"), modules)
        assert sorted(found) == ["tools/__init__.py", "tools/x.py"]

    def test_module_found_through_the_environments_path_keeps_its_importable_place(
        self, project: Path
    ) -> None:
        write(project, {"train.py": TASK, "src/tools.py": ""})
        modules = {"tools": self.module("tools", project / "src/tools.py")}
        location = resolve_task("train.py")
        assert list(task_modules(location, modules)) == ["src/tools.py"]
        by_path = task_modules(location, modules, environment_paths=[str(project / "src")])
        assert list(by_path) == ["tools.py"]

    def test_what_torch_compile_writes_is_no_source(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("torchinductor_me/ab/cabc.py", "elsewhere/ab/kernel.so", "torchinductor_of_mine.py")
        write(project, {"train.py": TASK, **dict.fromkeys(names, "")})
        modules = {name: self.module(f"module{i}", project / name) for i, name in enumerate(names)}
        monkeypatch.setattr(tempfile, "tempdir", str(project))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(project / "elsewhere"))
        monkeypatch.chdir(project / "elsewhere")
        found = task_modules(resolve_task("../train.py"), modules)
        assert sorted(found) == ["torchinductor_of_mine.py"]
        monkeypatch.setattr(tempfile, "tempdir", str(project / "elsewhere"))
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        assert sorted(task_modules(resolve_task("../train.py"), modules)) == sorted(names)

    @pytest.mark.parametrize("variable", ["TRITON_CACHE_DIR", "TRITON_HOME", "HOME"])
    def test_what_triton_compiles_for_a_gpu_is_no_source(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        names = (".triton/cache/AB/cuda_utils.so", ".triton/mine.py")
        write(project, {"train.py": TASK, **dict.fromkeys(names, "")})
        modules = {name: self.module(f"module{i}", project / name) for i, name in enumerate(names)}
        for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/nowhere")
        assert sorted(task_modules(resolve_task("train.py"), modules)) == sorted(names)
        monkeypatch.setenv(variable, str(project / (".triton/cache" if "CACHE" in variable else "")))
        assert sorted(task_modules(resolve_task("train.py"), modules)) == [".triton/mine.py"]

    def test_module_that_is_imported_late_is_named(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(project, {"train.py": TASK, "early_one.py": "", "late_one.py": "", "src/found_one.py": ""})
        monkeypatch.syspath_prepend(project)
        monkeypatch.syspath_prepend(project / "src")
        before = set(sys.modules)
        import early_one
        import found_one

        location = resolve_task("train.py")
        loaded = {"early_one": early_one, "found_one": found_one}
        paths = [str(project / "src")]
        source, _ = collected(location, task_modules(location, loaded, environment_paths=paths))
        assert [entry.path for entry in source.files] == ["early_one.py", "found_one.py", "train.py"]
        assert uncommitted_modules(source, location, before=before) == []
        import late_one

        assert uncommitted_modules(source, location, before=before) == [late_one.__file__]
        assert late_one.__file__ in uncommitted_modules(source, location)
        assert uncommitted_modules(source, location, before=sys.modules) == []

    def test_module_with_a_committed_name_elsewhere_is_no_committed_one(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(project, {"train.py": TASK, "same_name.py": "x = 1\n", "sub/same_name.py": "x = 2\n"})
        monkeypatch.syspath_prepend(project)
        location = resolve_task("train.py")
        source, _ = collected(location, {"same_name.py": str(project / "same_name.py")})
        before = set(sys.modules)
        import sub.same_name

        assert uncommitted_modules(source, location, before=before) == [sub.same_name.__file__]

    def test_distributions_have_versions_and_record_digests(self) -> None:
        import msgspec

        found = {item.name: item for item in imported_distributions({"msgspec": msgspec})}
        assert sorted(found) == ["msgspec", "polledger"]
        assert found["msgspec"].version == msgspec.__version__
        assert all(isinstance(item.record, bytes) and len(item.record) == 32 for item in found.values())


class TestVerify:
    def test_unchanged_tree_is_returned(self, project: Path) -> None:
        write(project, {"train.py": TASK, "helper.py": "x = 1\n"})
        source, contents = collected(resolve_task("train.py"), {"helper.py": str(project / "helper.py")})
        assert verify_tree(source, project) == contents

    def test_every_file_that_differs_or_is_missing_is_named(self, project: Path) -> None:
        write(project, {"train.py": TASK, "b.py": "x", "c.py": "y"})
        modules = {name: str(project / name) for name in ("b.py", "c.py")}
        source, _ = collected(resolve_task("train.py"), modules)
        write(project, {"train.py": TASK.replace("3", "4"), "c.py": "longer"})
        (project / "b.py").unlink()
        assert verify_tree(source, project) == ["b.py is missing", "c.py differs", "train.py differs"]

    def test_files_beside_the_root_are_found_on_the_path(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(project, {"app/train.py": TASK, "lib/tools.py": "z = 1\n"})
        source, contents = collected(
            resolve_task("app/train.py"), {"tools.py": str(project / "lib/tools.py")}
        )
        assert verify_tree(source, project / "app") == ["tools.py is missing"]
        monkeypatch.syspath_prepend(project / "lib")
        assert verify_tree(source, project / "app") == contents


class TestWrite:
    def test_written_tree_equals_the_committed_one(self, project: Path) -> None:
        write(project, {"a/__init__.py": "", "a/train.py": TASK})
        (project / "a/train.py").chmod(0o755)
        source, contents = collected(resolve_task("a.train"))
        by_digest = {entry.digest: contents[entry.path] for entry in source.files}
        copy = project / "copy"
        write_tree(source, by_digest.__getitem__, copy)
        assert verify_tree(source, copy) == contents
        assert (copy / "a/train.py").stat().st_mode & 0o777 == 0o755
        assert (copy / "a/__init__.py").stat().st_mode & 0o111 == 0

    def test_contents_that_do_not_match_are_refused(self, project: Path) -> None:
        write(project, {"train.py": TASK})
        source, _ = collected(resolve_task("train.py"))
        with pytest.raises(MalformedError, match=r"train\.py do not match"):
            write_tree(source, lambda digest: TASK.encode()[:-1] + b"x", project / "copy")
        with pytest.raises(MalformedError, match=r"train\.py do not match"):
            write_tree(source, lambda digest: TASK.encode() + b"x", project / "other")


def test_error_in_a_library_names_the_tasks_own_line(project: Path) -> None:
    write(project, {"train.py": "import json\n\ndef f():\n    json.loads('{')\n"})
    scope: dict[str, object] = {}
    code = compile((project / "train.py").read_text(), str(project / "train.py"), "exec")
    exec(code, scope)
    with pytest.raises(ValueError) as caught:
        scope["f"]()  # type: ignore[operator]
    assert describe_error(caught.value, project).endswith("(train.py, line 4)")
