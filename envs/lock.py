"""Derive envs/requirements.lock and envs/v4d.yaml from pyproject.toml: `make lock`."""

import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PYPROJECT = HERE.parent / "pyproject.toml"


def requirements_digest() -> str:
    """Changes when what pyproject.toml asks for does; both derived files carry it."""
    document = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    project = document["project"]
    asked = [project["requires-python"], project["dependencies"], project["optional-dependencies"]]
    return hashlib.sha256(json.dumps([asked, document["tool"]["v4d"]["lock"]]).encode()).hexdigest()[:16]


def resolve(*extras: str, constraints: list[str]) -> list[str]:
    """Exact versions with markers and the sha256 of their files, for every platform, a line a package."""
    settings = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["v4d"]["lock"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints))
        file.flush()
        words = ["pip", "compile", str(PYPROJECT), "--universal", "--python-version", settings["python"]]
        words += ["--no-header", "--no-annotate", "--no-emit-index-url", "--constraint", file.name]
        words += ["--generate-hashes"]
        for extra in extras:
            words += ["--extra", extra]
        done = subprocess.run(
            [sys.executable, "-m", "uv", *words], stdout=subprocess.PIPE, text=True, check=True
        )
    lines = done.stdout.replace(" \\\n    ", " ").splitlines()  # a package's hashes behind it
    return [line for line in lines if line and not line.startswith("#")]


def main() -> None:
    pins = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["v4d"]["lock"]["pins"]
    everything = resolve("test", "dev", constraints=pins)
    running = resolve(constraints=[line.partition(" --hash")[0] for line in everything])
    header = f"# Made by `make lock` from pyproject.toml; do not edit. requirements {requirements_digest()}\n"
    lines = [line.replace(" --hash", " \\\n    --hash") for line in everything]
    (HERE / "requirements.lock").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    (HERE / "v4d.yaml").write_text(header + conda_environment(running), encoding="utf-8")


def conda_environment(packages: list[str]) -> str:
    """A conda environment with the same packages; ffmpeg comes as a package of conda's own."""
    lines = [
        "name: v4d",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
        "  - ffmpeg",
        "  - pip:",
    ]
    return "\n".join(lines + [f'      - "{package}"' for package in packages]) + "\n"


if __name__ == "__main__":
    main()
