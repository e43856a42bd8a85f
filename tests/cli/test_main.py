"""The command line: help everywhere, one line where a user is wrong."""

import importlib
import json
import shlex
import subprocess
import sys

import pytest

from tests.support.project import assert_one_line_error, environment, run, v4d
from v4d import __version__
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

LIST_HEAVY_IMPORTS = """
import contextlib, io, json, sys
from v4d.cli import COMMANDS, main
for words in [["--help"], *([name, "--help"] for name in COMMANDS)]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(words)
heavy = {"torch", "numpy", "pandas", "pyarrow", "matplotlib", "mlflow", "av", "jsonschema"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""


def help_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_its_parser_takes(name, capsys):
    text = help_of(capsys, name)
    assert text.startswith(f"usage: v4d {name} ")
    (example,) = [line for line in text.splitlines() if line.startswith("Example: ")]
    program, command, *words = shlex.split(example.removeprefix("Example: "))
    assert (program, command) == ("v4d", name)
    module = importlib.import_module(f"v4d.cli.{COMMANDS[name][1]}")
    getattr(module, name.replace("-", "_")).parser(name).parse_args(words)


def test_the_commands_that_others_rely_on_exist():
    assert set(COMMANDS) >= STAGES | TOOLS


def test_help_lists_the_commands_and_what_they_do(capsys):
    lines = [" ".join(line.split()) for line in help_of(capsys).splitlines()]
    assert all(f"{name} {what}" in lines for name, (what, _) in COMMANDS.items())


def test_help_imports_nothing_heavy(tmp_path):
    command = [sys.executable, "-c", LIST_HEAVY_IMPORTS]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"v4d {__version__}\n"


def test_an_unknown_command_is_named_with_the_choices(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "'trian'" in said and all(name in said for name in COMMANDS)


def test_no_command_is_a_usage_error(tmp_path):
    done = run(cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: v4d ")


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
