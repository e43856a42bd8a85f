"""The demo by its commands: what README claims of it, a training that is killed, one that does not fit.

The scenes are drawn straight into shards, without H.264 between; annotations, ledgers, manifest and
dataset.json are what the workflow leaves.
"""

import contextlib
import functools
import hashlib
import importlib.util
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import simplejpeg
import torch
import torch.nn.functional as F
import yaml
from _gpu import Run

from v4d import config as configs
from v4d.config import Config
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.datasets.annotations import write_annotations
from v4d.datasets.synthetic_videos import draw_scene, frames
from v4d.models.checkpoint import load_model
from v4d.preprocessing.ledger import LEDGER_COLUMNS
from v4d.preprocessing.manifest import write_manifest
from v4d.utils.files import read_json
from v4d.utils.processes import run_in_children

ROOT = Path(__file__).parents[1]
PART = "part_0"
COMMAND_SECONDS = 120
"""A command that takes longer is killed."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    """Its exit code; negative where a signal killed it."""
    errors: str
    """What it wrote to stderr."""
    seconds: float

    def last_words(self) -> str:
        """The end of stderr, one line."""
        return " | ".join(self.errors.strip().splitlines()[-3:])[-300:]


@dataclass
class Project:
    """A folder with `data/` and `results/`, in which commands run."""

    folder: Path
    started: dict[subprocess.Popen[bytes], Path] = field(default_factory=dict)
    """Each command, and the file that its stderr goes to."""
    closed: bool = False
    """Whether no command may start any more."""

    def write_config(self, document: dict[str, Any]) -> None:
        """Write a config under its own name."""
        self.config_file(document["name"]).write_text(yaml.safe_dump(document, sort_keys=False))

    def config_file(self, name: str) -> Path:
        """Where the config of this name is."""
        return self.folder / f"{name}.yaml"

    def stage(self, name: str, model: str) -> Path:
        """The folder of a model's training."""
        return self.folder / "results" / name / model / "main"

    def start(
        self, verb: str, name: str, model: str, *, processes: int = 1, share: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start `v4d train` or `v4d test`; with `share` it asks for no GPU of its own."""
        words = ["-m", "v4d.cli", verb, "--config", self.config_file(name).name, "--model", model]
        return self.python([*words, "--nproc", str(processes)], share)

    def python(self, words: Sequence[str], share: bool = False) -> subprocess.Popen[bytes]:
        """Start an interpreter in this folder, which finds v4d and this module."""
        if self.closed:
            raise RuntimeError("the run is over")
        path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, os.environ.get("PYTHONPATH", ""))))
        env = os.environ | {"PYTHONPATH": path, "V4D_SHARE_GPUS": str(int(share))}
        # Not a pipe: processes that outlive the command would keep its reader waiting.
        errors, name = tempfile.mkstemp(".txt", "errors_", self.folder)
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        os.close(errors)
        self.started[child] = Path(name)
        return child

    def wait(self, child: subprocess.Popen[bytes], seconds: float = COMMAND_SECONDS) -> Done:
        """The end of a command, which is killed after `seconds`."""
        begun, late = time.perf_counter(), ""
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(child)
            child.wait()
            late = f"killed after {seconds:g} s"
        errors = self.started[child].read_text(errors="replace")
        return Done(child.returncode, errors + late, time.perf_counter() - begun)

    def run(self, *words: str, seconds: float = COMMAND_SECONDS, **options: Any) -> Done:
        """A command from its start to its end; see `start`."""
        return self.wait(self.start(*words, **options), seconds)

    def close(self) -> None:
        """End what still runs; what those have started ends with them."""
        self.closed = True
        for child in list(self.started):
            kill(child)


def measure(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.empty_cache()  # other processes need the GPU now
    project = Project(run.folder / "training")
    project.folder.mkdir()
    pool = ThreadPoolExecutor(1 if run.tiny else 3)
    try:
        document = demo(run)
        project.write_config(document)
        project.write_config(document | {"name": "killed"})
        make_data(run, project)
        # Side by side, since most of a command's time is its start. Whoever is killed keeps to its lease.
        tested = ("v4d",) if run.tiny else ("v4d", "tsn")
        chains = {model: pool.submit(train_and_test, project, model) for model in tested}
        killed = pool.submit(kill_and_resume, project)
        for model in tested:
            claim = functools.partial(report_claim, run, model, chains[model])
            each(run, f"{model}, trained and tested", claim)
        each(run, "kill -9 and the same again", lambda: report_killed(run, project, killed.result()))
        each(run, "out of memory", lambda: out_of_memory(run, project, document))
        each(run, "two processes", lambda: two_processes(run, project, document))
    finally:
        project.close()
        pool.shutdown(cancel_futures=True)


def each(run: Run, what: str, work: Callable[[], None]) -> None:
    """Do one of the checks; whatever it raises is a check that does not hold."""
    try:
        work()
    except Exception as error:  # the other checks still have something to say
        run.check(what, holds=False, error=f"{type(error).__name__}: {error}"[:500])


def demo(run: Run) -> dict[str, Any]:
    """The demo's config with its two models of several units, untracked."""
    changes: dict[str, Any] = {"models": {"i3ds": None}, "tracking": {"backend": "none"}}
    if run.tiny:
        changes["dataset"] = {"synthetic": {"videos": {"train": 8, "val": 4}}}
        changes["training"] = {"epochs": 2, "batch_size": 4}
        changes["testing"] = {"units": 4, "crops": 1}
    return configs.merge(configs.read(ROOT / "config" / "config.yaml"), changes)


def make_data(run: Run, project: Project) -> None:
    """The demo's data set; by an interpreter of its own, whose children need not import the main script."""
    code = f"import {__name__} as own; own.write_data({project.config_file('demo').name!r})"
    done = project.wait(project.python(["-c", code]))
    if done.code:
        raise RuntimeError(f"no data set was made: {done.last_words()}")
    manifest = pandas.read_parquet(project.folder / "data" / "demo" / "manifest.parquet")
    figures = {"videos": len(manifest), "mb": manifest["bytes"].sum() / 1e6, "seconds": done.seconds}
    run.row("scenes into shards, to the manifest", **figures)


def write_data(config_file: str) -> None:
    """Everything from the annotations to dataset.json, in this folder."""
    config = configs.load(config_file)
    write_annotations(config.dataset)
    for split in config.dataset.splits:
        write_part(config, split)
    write_manifest(config)


def write_part(config: Config, split: str) -> None:
    """The only shard of a split, and its ledgers."""
    paths, look = config.dataset.paths, config.dataset.options.model_dump(exclude={"videos"})
    annotated = pandas.read_parquet(paths.annotations(split)).to_dict("records")
    width, height = map(int, str(config.clips.size).split("x"))
    quality, side = config.frames.quality, look["size"]
    draw = functools.partial(drawn, look=look, size=(width, height), quality=quality)
    names = [(row["video_id"], row["label"]) for row in annotated]
    processes = max(1, min(len(os.sched_getaffinity(0)), len(names) // 8))
    drawings = run_in_children(draw, names, processes=processes, deadline=60)
    rows = []
    with ShardWriter(paths.shard(split, PART), ShardHeader((width, height), quality)) as writer:
        for row, outcome in zip(annotated, drawings, strict=True):
            if outcome.failure:
                raise RuntimeError(f"{row['video_id']} was not drawn: {outcome.reason}")
            jpegs, fps = outcome.value
            facts = {"class_index": row["class_index"], "num_frames": len(jpegs), "fps": float(fps)}
            writer.add(row["video_id"], jpegs, **facts, size=(width, height), source_size=(side, side))
            rows.append({"video_id": row["video_id"], "label": row["label"], "split": split} | facts)
            rows[-1]["bytes"] = sum(map(len, jpegs))
    table = pandas.DataFrame(rows).assign(
        part=PART,
        status="ok",
        reason="",
        warning="",
        width=width,
        height=height,
        source_width=side,
        source_height=side,
        replaced=False,
        annotated_seconds=math.nan,
    )
    table["seconds"] = table["num_frames"] / table["fps"]
    table = table[list(LEDGER_COLUMNS)].astype(LEDGER_COLUMNS)
    for ledger in (paths.clips_ledger(split, PART), paths.frames_ledger(split, PART)):
        ledger.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(ledger, index=False)


def drawn(
    member: tuple[str, str], *, look: dict[str, Any], size: tuple[int, int], quality: int
) -> tuple[list[bytes], int]:
    """The frames of a scene as JPEG, and how many there are in a second.

    Args:
        member: the video's id and class.
        size: width and height of the frames.
    """
    torch.set_num_threads(1)
    scene = draw_scene(*member, **look)
    images = torch.from_numpy(np.stack([*frames(scene, seed=int(scene.radius * 1e6))]))
    width, height = size
    small_FCHW = F.interpolate(images.movedim(-1, 1), (height, width), mode="bicubic", antialias=True)
    small = small_FCHW.movedim(1, -1).contiguous().numpy()
    options = {"quality": quality, "colorsubsampling": "420"}
    return [simplejpeg.encode_jpeg(image, **options) for image in small], scene.fps


def train_and_test(project: Project, model: str) -> tuple[Done, Done, dict[str, Any]]:
    """Both commands, and what the test has found."""
    training = project.run("train", "demo", model, share=True)
    if training.code:
        raise RuntimeError(f"v4d train exited with {training.code}: {training.last_words()}")
    test = project.run("test", "demo", model, share=True)
    # The numbers are written before the plots, which a machine without matplotlib does not draw.
    no_plots = importlib.util.find_spec("matplotlib") is None and "matplotlib" in test.last_words()
    if test.code and not no_plots:
        raise RuntimeError(f"v4d test exited with {test.code}: {test.last_words()}")
    return training, test, read_json(project.folder / f"results/demo/{model}/test/metrics.json")


def report_claim(run: Run, model: str, chain: Future[tuple[Done, Done, dict[str, Any]]]) -> None:
    """V4D learns the order of the motions; averaged scores of single units do not tell it."""
    training, test, found = chain.result()
    top1, reverse = found["top1"], found["orders"]["units_reversed"]["top1"]
    figures = {"top1": top1, "top1_units_reversed": reverse, "videos": found["videos"]}
    times = {"training_seconds": training.seconds, "test_seconds": test.seconds}
    if run.tiny:
        run.row(f"{model}, trained and tested", **figures, **times)
    elif model == "v4d":
        run.check(
            "v4d: 95 % or more, and below 50 % with units reversed", top1 >= 95 > 50 > reverse, **figures
        )
        run.row("v4d: its commands", **times)
    else:
        run.check(f"{model}: below 45 %", top1 < 45, **figures)
        run.row(f"{model}: its commands", **times)


def kill_and_resume(project: Project) -> tuple[int, bool, Done]:
    """V4D's training, killed with its launcher behind the first checkpoint, and started again.

    Returns:
        The epochs that it had finished, whether it had ended before it was killed, the second command.
    """
    stage = project.stage("killed", "v4d")
    child = project.start("train", "killed", "v4d")
    deadline = time.monotonic() + COMMAND_SECONDS
    while not (stage / "checkpoints" / "last.pt").exists():
        if child.poll() is not None or time.monotonic() > deadline:
            kill(child)
            raise RuntimeError(f"no checkpoint came: {project.wait(child).last_words()}")
        time.sleep(0.005)
    kill(child)
    project.wait(child)
    epochs = len(sorted((stage / "checkpoints").glob("epoch_*.pt")))
    return epochs, (stage / "final.pt").exists(), project.run("train", "killed", "v4d")


def report_killed(run: Run, project: Project, outcome: tuple[int, bool, Done]) -> None:
    epochs, ended, done = outcome
    whole, resumed = project.stage("demo", "v4d"), project.stage("killed", "v4d")
    if done.code:
        raise RuntimeError(f"the second command exited with {done.code}: {done.last_words()}")
    history = [read_json(folder / "metrics.json")["epochs"] for folder in (whole, resumed)]
    numbers = [value for row in history[1] for value in row.values() if isinstance(value, float)]
    finite = all(map(math.isfinite, numbers))
    complete = len(history[0]) == len(history[1])
    equal = weights_digest(whole) == weights_digest(resumed)
    figures = {"checkpoints_when_killed": epochs, "epochs": len(history[1]), "same_weights": equal}
    holds = not ended and complete and finite and (equal or run.device.type == "cuda")
    what = "kill -9 and the same again: all epochs, finite"
    run.check(what, holds, **figures, finite=finite, ended_before=ended, seconds=done.seconds)


def weights_digest(stage: Path) -> str:
    """sha256 over the final weights."""
    digest = hashlib.sha256()
    for name, value in sorted(load_model(stage / "final.pt").model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def out_of_memory(run: Run, project: Project, document: dict[str, Any]) -> None:
    """A step that needs more memory than a GPU has ends in one line that says what to set."""
    what = "out of memory: exit code 1 and one line"
    if run.device.type != "cuda":
        run.row(what, skipped="there is no GPU")
        return
    # ResNet-50 keeps 12 MB of a frame of 64 pixels for its backward pass: 360 GB of all videos at once. No
    # tensor of this step has more than 2^31 numbers, which convolutions would split.
    model = {"arch": "v4d_resnet50", "units": 8, "frames": 8, "frame_stride": 1}
    crop = {"kind": "centre", "size": 64, "flip": 0.0}
    training = {"epochs": 1, "batch_size": 480, "precision": "float32", "crop": crop}
    project.write_config(
        configs.merge(
            document, {"name": "large", "models": {"v4d": model, "tsn": None}, "training": training}
        )
    )
    done = project.run("train", "large", "v4d", seconds=60)
    errors = [line for line in done.errors.splitlines() if "error:" in line.lower()]
    named = len(errors) == 1 and "training.accumulate" in errors[0] and "batch_size" in errors[0]
    holds = done.code == 1 and named and "Traceback" not in done.errors
    figures = {"exit_code": done.code, "stderr_lines": len(done.errors.splitlines()), "seconds": done.seconds}
    run.check(what, holds, **figures, said=done.last_words())


def two_processes(run: Run, project: Project, document: dict[str, Any]) -> None:
    """A short training in two processes, on two GPUs or on a CPU."""
    what = "two processes train"
    if run.device.type == "cuda" and torch.cuda.device_count() < 2:
        run.row(what, skipped="there is one GPU")
        return
    epochs = 1 if run.tiny else 2
    training = {"epochs": epochs, "split": "val"}
    project.write_config(configs.merge(document, {"name": "two", "training": training}))
    done = project.run("train", "two", "tsn", processes=2)
    if done.code:
        raise RuntimeError(f"v4d train exited with {done.code}: {done.last_words()}")
    found = read_json(project.stage("two", "tsn") / "metrics.json")
    holds = found["processes"] == 2 and len(found["epochs"]) == epochs
    run.check(what, holds, backend="nccl" if run.device.type == "cuda" else "gloo", seconds=done.seconds)


def kill(child: subprocess.Popen[bytes]) -> None:
    """Kill -9 of a command that still runs."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
