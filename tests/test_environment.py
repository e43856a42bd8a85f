"""The lock files say what pyproject.toml asks for; docs and code name no machine of ours."""

import importlib.util
import re
import subprocess
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.project import environment, train_command

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock_script():
    spec = importlib.util.spec_from_file_location("lock", ROOT / "envs/lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(lines: list[str]) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in without_hashes(lines):
        requirement = Requirement(line)
        found.setdefault(re.sub(r"[-_.]+", "-", requirement.name).lower(), []).append(requirement)
    return found


def lines_of_lock() -> list[str]:
    text = (ROOT / "envs/requirements.lock").read_text().replace(" \\\n   ", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def without_hashes(lines: list[str]) -> list[str]:
    return [line.partition(" --hash")[0] for line in lines]


@pytest.mark.parametrize("lines", [lines_of_lock, lambda: lines_of_conda()])
def test_every_package_has_the_hashes_of_its_files(lines):
    for line in lines():
        assert re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; .+?)?( --hash=sha256:[0-9a-f]{64})+", line), line


def test_what_installs_them_checks_the_hashes_and_builds_with_what_they_name():
    for name in ("Makefile", "envs/Dockerfile"):
        text = (ROOT / name).read_text()
        for command in re.findall(r"pip install (?!--index-url).*", text):
            assert "--require-hashes" in command or "--no-deps --no-build-isolation" in command, command
    assert any(line.startswith("setuptools==") for line in lines_of_lock())


def test_an_image_gets_what_is_the_projects_and_nothing_else(tmp_path):
    build = pytest.importorskip("docker.utils.build")
    others = ("videos/a/x.mp4", "data/x", "weights.pt", "cookies.txt", "config/my_cookies.txt", ".env")
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = {"Snakefile", "v4d/cli/main.py", "envs/requirements.lock", "config/config.yaml", "tests/a.py"}
    for name in wanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    sent = {name for name in build.exclude_paths(tmp_path, patterns) if (tmp_path / name).is_file()}
    assert sent == wanted


def lines_of_conda() -> list[str]:
    document = yaml.safe_load((ROOT / "envs/v4d.yaml").read_text())
    return next(entry["pip"] for entry in document["dependencies"] if isinstance(entry, dict))


@pytest.mark.parametrize("name", ["requirements.lock", "v4d.yaml"])
def test_derived_files_belong_to_this_pyproject(name):
    first = (ROOT / "envs" / name).read_text().splitlines()[0]
    assert first.endswith(lock_script().requirements_digest()), "pyproject.toml has changed: run `make lock`"


def test_every_dependency_is_pinned_to_a_version_it_admits():
    pins = locked(lines_of_lock())
    project = PYPROJECT["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["test"]
    for text in asked + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        pinned = pins[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        for pin in pinned:
            (version,) = [spec.version for spec in pin.specifier]
            assert requirement.specifier.contains(version), (text, str(pin))


def test_conda_has_the_same_versions():
    lock, conda = locked(lines_of_lock()), locked(lines_of_conda())
    assert set(conda) <= set(lock)
    for name, pins in conda.items():
        assert {str(p.specifier) for p in pins} <= {str(p.specifier) for p in lock[name]}, name
    for text in PYPROJECT["project"]["dependencies"]:
        assert re.sub(r"[-_.]+", "-", Requirement(text).name).lower() in conda


NEEDED_TO_TRAIN = ("torch", "numpy", "pandas", "pyarrow", "pyyaml", "pydantic", "lmdb", "simplejpeg")


def bare_environment(folder: Path) -> Path:
    """An interpreter whose site-packages hold NEEDED_TO_TRAIN and what these need, and nothing else."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    waiting, seen = list(NEEDED_TO_TRAIN), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        installed = distribution(name)
        for entry in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not (packages / entry).exists():  # CUDA's wheels share a folder
                (packages / entry).symlink_to(installed.locate_file(entry))
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return folder / "bin/python"


@pytest.mark.slow
def test_a_training_needs_no_workflow_tools(tiny, tmp_path):
    """A bare GPU image has no Snakemake, MLflow, decord or ffmpeg, and may have no way to install them."""
    python = bare_environment(tmp_path / "bare")
    for words in (("-c", "import v4d.evaluation.stage"), train_command(1)[1:]):
        done = subprocess.run([python, *words], cwd=tiny, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tiny / "results/tiny/v4d/main/final.pt").exists()
