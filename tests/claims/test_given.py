"""Data that an experiment reads and that do not come with the package."""

from __future__ import annotations

import pytest

from surefoot.claims import given
from surefoot.claims.supervised.prospect import yacht
from surefoot.cli import main
from surefoot.errors import UsageError


def test_a_file_is_found_in_the_folder_that_was_given(tmp_path):
    (tmp_path / "one.txt").write_text("1")
    with given.folder(tmp_path):
        assert given.file("one.txt", "one number") == tmp_path / "one.txt"
        with pytest.raises(UsageError, match=r"reads two.txt \(two numbers\), and .* does not have it"):
            given.file("two.txt", "two numbers")
    with pytest.raises(UsageError, match="no folder was given. Give its folder with --data FOLDER"):
        yacht()


def test_other_machines_do_not_have_it(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["claim", "prospect", "--tier", "instance", "--data", str(tmp_path), "--on", "ray"])
    assert "other machines do not have this folder" in capsys.readouterr().err
