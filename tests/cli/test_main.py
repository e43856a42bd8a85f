"""The command line: help everywhere, one line where a user is wrong."""

import pytest

from tests.support.project import assert_one_line_error, run, v4d
from v4d.cli import COMMANDS, main

STAGES = {
    "annotations",
    "download",
    "clips",
    "frames",
    "manifest",
    "verify",
    "train",
    "test",
    "compare",
    "report",
}
TOOLS = {"predict", "import-released", "export", "describe", "estimate", "doctor"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"v4d {command}" in text and len(text) > 100


def test_the_commands_that_others_rely_on_exist():
    assert set(COMMANDS) >= STAGES | TOOLS


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_an_unknown_command_names_the_choices(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["annotations", "manifest", "compare", "report"])
def test_a_missing_config_is_one_line(command, tmp_path):
    done = run(command, "--config", "nowhere.yaml", cwd=tmp_path, check=False)
    assert_one_line_error(done, "nowhere.yaml")
    assert list(tmp_path.iterdir()) == []


def test_the_program_prints_and_exits_as_its_function_does(tmp_path):
    """Most tests call the function."""
    done = v4d("annotations", "--config", "nowhere.yaml", cwd=tmp_path, check=False)
    assert_one_line_error(done, "v4d annotations: error: ", "nowhere.yaml")
    assert v4d("--version", cwd=tmp_path).stdout.startswith("v4d ")
