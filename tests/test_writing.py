"""A file or a folder is whole, or it is not there."""

import pytest

from faceeraser import writing


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
    with pytest.raises(ValueError, match="exists already; choose another target, or --overwrite"), writing.whole_folder(
        tmp_path / "run"
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
