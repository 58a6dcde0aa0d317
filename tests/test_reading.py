"""JSON that anybody may have written: plain JSON of a sane size, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceeraser.system import reading


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "'a' stands in it twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "more than a number can be"),
        (b'{"a":', "Expecting value"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b'"\xff"', "utf-8"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_not_plain_json_is_one_line(text: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=why) as refused:
        reading.json_value(path, "figures; measure again")
    assert str(refused.value).startswith(f"{path}: ") and str(refused.value).endswith("expected figures; measure again")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_too_large_missing_or_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert reading.json_value(path, "a list") == [1, 2, 3]
    with pytest.raises(ValueError, match="holds a list; expected an object"):
        reading.json_object(path, "an object")
    with pytest.raises(ValueError, match="is larger than 0 MB"):
        reading.json_value(path, "a list", largest=4)
    with pytest.raises(ValueError, match="may not be read"):
        reading.json_value(tmp_path, "a list")
    with pytest.raises(FileNotFoundError):
        reading.json_value(tmp_path / "b.json", "a list")


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_nothing_but_a_value_error_comes_of_any_bytes(data: bytes) -> None:
    try:
        reading.json_text(data, "it", "JSON")
    except ValueError as error:
        assert str(error).startswith("it: this is not JSON (")
