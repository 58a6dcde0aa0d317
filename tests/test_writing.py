"""A file or a folder is whole, or it is not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faceeraser.system import writing


def test_a_file_is_there_once_it_is_whole(tmp_path) -> None:
    path = tmp_path / "new" / "page.html"
    with writing.whole_file(path) as partial:
        partial.write_text("half")
        assert not path.exists() and partial.parent == path.parent
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_can_be_and_several_files_are_written_at_once(tmp_path) -> None:
    with writing.whole_file(tmp_path / ("x" * 251 + ".png")) as one, writing.whole_file(tmp_path / "b.png") as other:
        assert one != other and one.suffix == other.suffix == ".png", "what it is written by goes by the ending"
        one.write_text("1")
        other.write_text("2")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["1", "2"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(RuntimeError), writing.whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_once_it_is_whole_and_what_was_begun_stays_to_go_on_with(tmp_path) -> None:
    target = tmp_path / "run"
    with pytest.raises(RuntimeError), writing.whole_folder(target) as folder:
        (folder / "one").write_text("1")
        raise RuntimeError
    assert not target.exists()
    with writing.whole_folder(target, resume=True) as folder:
        assert (folder / "one").read_text() == "1"
        (folder / "two").write_text("2")
    assert {path.name for path in target.iterdir()} == {"one", "two"} and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_exists_is_replaced_only_when_told(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    with (
        pytest.raises(ValueError, match="exists already; choose another target, or --overwrite"),
        writing.whole_folder(tmp_path / "run"),
    ):
        raise AssertionError("nothing is begun")
    with writing.whole_folder(tmp_path / "run", overwrite=True) as folder:
        (folder / "new").write_text("1")
    assert (tmp_path / "run" / "new").exists()


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with writing.whole_folder(tmp_path / "run") as folder:
        assert folder == tmp_path / "run.partial"
    assert list(tmp_path.iterdir()) == []


def killed(folder: Path, arguments: str) -> None:
    """Python in a process of its own, in a folder, that ends itself by kill -9."""
    program = f"import os, signal\nfrom pathlib import Path\nfrom faceeraser.system import writing\n{arguments}"
    program += "\nos.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_a_killed_process_left_half_written_goes_with_the_next_that_writes_there(tmp_path) -> None:
    killed(
        tmp_path,
        """
with writing.scratch(Path(".")) as folder, writing.whole_file(Path("a.txt")) as half:
    (folder / "wheel").write_text("35 MB")
    half.write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)""",
    )
    left = names(tmp_path)
    assert len(left) == 3 and all(name.startswith(".") for name in left)
    other = tmp_path / left[0].replace(left[0].split("-")[1], str(os.getpid()))
    other.mkdir()  # of a process that lives: this one
    with writing.whole_file(tmp_path / "a.txt") as half:
        half.write_text("whole")
    assert names(tmp_path) == [other.name, "a.txt"]


@pytest.mark.parametrize(
    ("at", "left"), [("rename", ["old"]), ("rename 2", ["old"]), ("rmtree", ["new"]), ("never", ["new"])]
)
def test_a_folder_is_exchanged_and_a_kill_at_any_step_of_it_loses_neither(tmp_path, at, left) -> None:
    for name, said in (("run", "old"), ("made", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "told").write_text(said)
    killed(
        tmp_path,
        f"""
import shutil
count, rename = [0], Path.rename
def die(*words, **more): os.kill(os.getpid(), signal.SIGKILL)
def counted(self, to):
    count[0] += 1
    if count[0] == {dict([("rename", 1), ("rename 2", 2)]).get(at, 0)}: die()
    return rename(self, to)
Path.rename = counted
if {at == "rmtree"}: shutil.rmtree = die
writing.publish(Path("made"), Path("run"))""",
    )
    writing.restore(tmp_path / "run")
    assert [(tmp_path / "run" / "told").read_text()] == left and ".run.before" not in names(tmp_path)
