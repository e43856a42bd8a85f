"""Projects of an older version: nothing that they have made is made anew.

`takeover/*.json` hold what Snakemake noted of finished projects at commit 75423bf: of each job the rule, its
inputs, its params and its outputs. Files of these names stand in for the project's own.
"""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.docs import blocks
from tests.support.project import ROOT
from tests.support.workflow import dry_run
from v4d import config as configs

pytestmark = pytest.mark.slow

MADE = 1_767_225_600
"""When the files were made, seconds since 1970."""
PROJECTS = {
    "demo": [],
    "kinetics400": ["config/kinetics400.yaml", "kept.yaml", "small.yaml"],
    "my_videos": ["config/my_videos.yaml"],
}


def older_project(folder: Path, name: str) -> Path:
    """The files and Snakemake's notes of a finished project, with today's code linked beside them."""
    for part in ("Snakefile", "workflow", "profiles", "config", "envs", "v4d"):
        (folder / part).symlink_to(ROOT / part)
    record = json.loads((ROOT / f"tests/workflow/takeover/{name}.json").read_text())
    for job in record["jobs"]:
        for output in job["outputs"]:
            _write(folder / output, "x")
            _note(folder, output, job)
    _write(folder / f"data/{name}/dataset.json", json.dumps(record["info"]))
    dataset = {"name": name, "source": record["source"]}
    _write(folder / f"results/{name}/config.yaml", yaml.safe_dump({"name": name, "dataset": dataset}))
    (kept,) = [block.text for block in blocks(ROOT / "CHANGELOG.md") if "kinetics400_kept" in block.mark]
    (folder / "kept.yaml").write_text(kept)
    (folder / "small.yaml").write_text("dataset: {kinetics: {parts: {train: 11, val: 2}}}\n")
    for split in ("train", "val"):
        for number in (1, 2, 3):
            for label in ("a", "b"):
                _write(folder / f"videos/{split}/{label}/{number}.mp4", f"x{number}\n")
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == "plots":
        path.mkdir(exist_ok=True)
    else:
        path.write_text(text)
    os.utime(path, (MADE, MADE))


def _note(folder: Path, output: str, job: dict[str, Any]) -> None:
    """Snakemake's own record of an output."""
    note = {key: job[key] for key in ("rule", "input", "params")}
    note |= {"log": [], "shellcmd": "", "code": "", "incomplete": False, "record_format_version": 6}
    note |= {"conda_env": None, "container_img_url": None, "software_stack_hash": "", "job_hash": 0}
    note |= {"starttime": MADE, "endtime": MADE, "external_jobid": None, "input_checksums": {}}
    name = base64.b64encode(output.encode()).decode()
    place = folder / ".snakemake/metadata"
    parts = [
        name[start : start + 200] for start in range(0, len(name), 200)
    ]  # as Snakemake splits long names
    place = place.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(note))


def planned(folder: Path, *words: str) -> str:
    """What Snakemake would do."""
    return dry_run(folder, "-n", "--cores", "2", "--resources", "gpu=8", *words)[1]


@pytest.mark.parametrize("name", PROJECTS)
def test_nothing_of_a_finished_project_is_made_anew(tmp_path, name):
    folder = older_project(tmp_path, name)
    files = PROJECTS[name]
    printed = planned(folder, *(["--configfile", *files] if files else []))
    assert "Nothing to be done" in printed, printed


def test_a_stage_that_changed_in_a_shipped_config_is_kept_by_what_the_changelog_says(tmp_path):
    folder = older_project(tmp_path, "kinetics400")
    printed = planned(folder, "--configfile", "config/kinetics400.yaml", "small.yaml")
    assert "Params have changed" in printed and "rule train" in printed, printed
    kept = configs.load(*(folder / name for name in PROJECTS["kinetics400"]))
    assert kept.models["v4d"].stage("tsn").freeze == ("blocks4d_zero",)

    # With its states there, it is refused before Snakemake deletes the weights that they led to.
    (folder / "results/kinetics400/config.yaml").write_text(yaml.safe_dump(kept.document))
    (folder / "results/kinetics400/v4d/tsn/checkpoints").mkdir()
    printed = planned(folder, "--configfile", "config/kinetics400.yaml", "small.yaml")
    (line,) = [line for line in printed.splitlines() if "error: " in line]
    assert "tsn/checkpoints was written for v4d_resnet50, the config's stage 'tsn' is now i3ds" in line
    words = planned(folder, "--configfile", *PROJECTS["kinetics400"])
    assert "Nothing to be done" in words, words


def test_a_changed_param_would_be_seen(tmp_path):
    """The notes are such that Snakemake compares them."""
    folder = older_project(tmp_path, "demo")
    (folder / "other.yaml").write_text("testing: {crops: 1}\n")
    printed = planned(folder, "--configfile", "config/config.yaml", "other.yaml")
    assert "Params have changed" in printed and "test " in printed, printed


TABLE = "tables: [{title: t, rows: [{model: v4d}, {model: tsn}]}]"


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        (TABLE, {"compare": 1, "report": 1}),
        ("seeds: [0, 1]", {"train": 3, "test": 3, "compare": 1, "report": 1}),
        ("models: {tsn: {testing: {crops: 1}}}", {"test": 1, "compare": 1, "report": 1}),
    ],
)
def test_what_a_new_key_makes_of_a_finished_project(tmp_path, overlay, expected):
    """Tables make nothing but themselves anew, further seeds nothing that is there, a protocol one test."""
    folder = older_project(tmp_path, "demo")
    (folder / "other.yaml").write_text(f"{overlay}\n")
    printed = planned(folder, "--quiet", "rules", "--configfile", "config/config.yaml", "other.yaml")
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE)}
    assert {name: counts[name] for name in counts if name not in ("all", "total")} == expected, printed


def test_other_frames_than_those_of_the_data_set_are_refused(tmp_path, monkeypatch):
    folder = older_project(tmp_path, "demo")
    (folder / "other.yaml").write_text("frames: {quality: 80}\n")
    words = ("--configfile", "config/config.yaml", "other.yaml")
    printed = planned(folder, *words)
    (line,) = [line for line in printed.splitlines() if "error: " in line]
    assert "data/demo was made with frames.quality 90, this config has 80" in line
    monkeypatch.setenv("V4D_REMAKE", "1")
    assert "rule frames" in planned(folder, *words)
