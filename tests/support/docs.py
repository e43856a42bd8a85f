"""The Markdown pages: their blocks of code, and a small finished demo to run these in.

A line before a fence says what the test does with it:

    <!-- runnable -->        run it, in the folder of the page
    <!-- runnable dry -->    the same, with `-n` for each `snakemake`
    <!-- file: NAME -->      write it to this file of that folder
"""

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from tests.support.project import ROOT, environment, run, run_rank
from tests.support.reference import released_resnet18_shapes
from tests.support.workflow import checkout
from v4d import config as configs

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]
MARK = re.compile(r"<!-- (runnable|runnable dry|file: \S+) -->")
DEMO = {
    "dataset": {"part_size": 16, "synthetic": {"videos": {"train": 16, "val": 8}, "size": 64}},
    "training": {"epochs": 1, "batch_size": 8, "workers": 0, "processes": 1},
    "testing": {"units": 4, "crops": 1},
    "tracking": {"backend": "none"},
}
"""Laid over config/config.yaml: the same names and networks, with few videos and one epoch."""


class Block(NamedTuple):
    """A fenced block: its language, its text, and what the comment before it says ("" without one)."""

    language: str
    text: str
    mark: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    before = ""
    for line in lines:
        if line.startswith("```"):
            text = []
            for inner in lines:
                if inner == "```":
                    break
                text.append(inner)
            mark = MARK.fullmatch(before)
            yield Block(line[3:], "\n".join(text) + "\n", mark[1] if mark else "")
        before = line


def outside(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = (part for line in lines for part in re.split(r"&&|;|\|", line.partition(" #")[0]))
    words = (shlex.split(part, comments=True) for part in parts)
    bare = ([word for word in line if not re.match(r"[A-Z0-9_]+=", word)] for line in words)
    return [line for line in bare if line]


def make_demo(folder: Path) -> None:
    """A checkout whose demo is small and finished: data set, weights and tests of its three models."""
    checkout(folder)
    path = folder / "config/config.yaml"
    document = configs.merge(configs.read(path), DEMO)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    config = ("--config", "config/config.yaml")
    run("annotations", *config, cwd=folder)
    parts = [("train", "part_0"), ("val", "part_0")]
    for split, part in parts:
        for command in ("download", "clips", "frames"):
            run(command, *config, "--split", split, "--part", part, cwd=folder)
    run("manifest", *config, cwd=folder)
    run("tracking-init", *config, "--out", "results/demo/tracking.json", cwd=folder)
    for model in document["models"]:
        run_rank("v4d.training.worker", *config, "--model", model, "--stage", "main", cwd=folder)
        run_rank("v4d.evaluation.stage", *config, "--model", model, cwd=folder)
    run("compare", *config, cwd=folder)
    run("report", *config, cwd=folder)
    _add_videos(folder)
    _add_released(folder / "released.pth.tar")


def _add_videos(folder: Path) -> None:
    """What the pages take for a user's own: a clip, two folders of videos, weights of a finished model."""
    with tarfile.open(folder / "data/demo/clips/val/part_0.tar") as clips:
        names = [name for name in clips.getnames() if name.endswith(".mp4")]
        for number, name in enumerate(names[:8]):
            split, label = ("train", "val")[number // 4], ("left", "right")[number % 2]
            content = clips.extractfile(name).read()
            for path in (
                folder / "videos" / split / label / f"{number}.mp4",
                folder / "recordings" / f"{split}-{label}-{number}.mp4",
                folder / "clip.mp4",
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    finished = folder / "results/my_videos/v4d/main"
    finished.mkdir(parents=True)
    shutil.copy(folder / "results/demo/v4d/main/final.pt", finished)


def _add_released(path: Path) -> None:
    """A checkpoint in the authors' layout: a ResNet-18 with 400 classes whose weights are all zero."""
    shapes = released_resnet18_shapes(400)
    weights = {name: torch.zeros(()).expand(tuple(shape)) for name, shape in shapes.items()}  # a small file
    torch.save({"epoch": 1, "arch": "i3dresnet18", "best_prec1": 0.0, "state_dict": weights}, path)


def run_block(block: Block, folder: Path) -> None:
    """Do what the mark of a block says."""
    if block.mark.startswith("file: "):
        path = folder / block.mark.removeprefix("file: ")
        path.write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        _run([sys.executable, "-c", block.text], folder)
    else:
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["v4d"]:
                run(*words[1:], cwd=folder)  # in this process: no interpreter has to start and import torch
            elif words:
                dry = block.mark == "runnable dry" and words[0] == "snakemake"
                _run(
                    ["bash", "-euc", line.replace("snakemake ", "snakemake -n ", 1) if dry else line], folder
                )


def _run(command: list[str], folder: Path) -> None:
    env = environment() | {"PYTHONPATH": str(folder)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
