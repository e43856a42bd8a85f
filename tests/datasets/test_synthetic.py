"""The made-up set: reproducible, real files, and no unit that could tell the class by itself."""

import dataclasses
import functools
import tarfile

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from v4d import config as configs
from v4d.config import DatasetConfig
from v4d.data.sampling import eval_indices, train_indices
from v4d.datasets import open_source
from v4d.datasets.synthetic import CLASSES
from v4d.datasets.synthetic_videos import DIRECTIONS, Scene, draw_scene, encode, frames


@functools.cache
def dataset(part_size: int = 1000, **synthetic) -> DatasetConfig:
    values = {"videos": {"train": 8, "val": 4}, "size": 64, **synthetic}
    document = {"name": "s", "dataset": {"name": "s", "source": "synthetic", "part_size": part_size}}
    document["dataset"]["synthetic"] = values
    return configs.build(configs.resolve(document)).dataset


def scene_of(video_id: str, class_index: int) -> Scene:
    return draw_scene(video_id, CLASSES[class_index], size=64, rest_frames=16, seed=0)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again, other = (
        open_source(dataset(seed=seed)).download("val", "part_0").read_bytes() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_an_archive_holds_the_ids_of_its_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = open_source(dataset(part_size=3))
    assert source.parts("train") == ["part_0", "part_1", "part_2"]
    table = source.annotations().tables["train"]
    with tarfile.open(source.download("train", "part_2")) as archive:
        assert archive.getnames() == ["train_00006.mp4", "train_00007.mp4"]
    assert list(table.loc[table["part"] == "part_2", "video_id"]) == ["train_00006", "train_00007"]


def test_files_are_as_from_a_site(tmp_path):
    """H.264 with B-frames, one key frame, an audio track, 25 or 30 frames a second, a few seconds."""
    path = tmp_path / "v.mp4"
    scene = scene_of("train_00001", 1)
    path.write_bytes(encode(scene))
    with av.open(str(path)) as container:
        assert container.streams.audio and container.streams.video[0].average_rate in (25, 30)
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    assert len(frames) == scene.num_frames and 2 <= scene.num_frames / scene.fps <= 6
    kinds = [PictureType(frame.pict_type).name for frame in frames]
    assert kinds.count("I") == 1 and kinds.count("B") > 10


@pytest.mark.parametrize("class_index", range(4))
def test_the_path_is_the_class(class_index):
    first, second = (np.array(DIRECTIONS[w]) for w in CLASSES[class_index].split("_then_"))
    for number in range(50):
        scene = scene_of(f"v{number}", class_index)
        steps = np.diff(scene.path, axis=0)
        moving = np.flatnonzero(np.abs(steps).sum(1))
        middle = (np.diff(moving)).argmax()
        assert (steps[moving[: middle + 1]] @ first > 0).all()
        assert (steps[moving[middle + 1 :]] @ second > 0).all()
        assert np.diff(moving).max() > 16  # the rest


def units_of_jumps(class_index: int, count: int) -> np.ndarray:
    """Places (x, y) in the two frames of 4 units of videos of the task `motion`: `[count, 4, 2, 2]`."""
    rows = []
    for number in range(count):
        name = f"c{class_index}v{number}"
        scene = draw_scene(name, CLASSES[class_index], size=64, rest_frames=4, seed=0, task="motion")
        rows.append(scene.path[eval_indices(scene.num_frames, 4, 2, 3)])
    return np.array(rows)


def test_in_the_task_motion_only_the_inside_of_units_tells_the_class():
    left, right = (
        units_of_jumps(CLASSES.index(name), 400) for name in ("left_then_right", "right_then_left")
    )
    angles = [units[:, :, 0] * 2 * np.pi / 64 for units in (left, right)]  # of the first frame of each unit
    places = [np.concatenate([np.cos(a), np.sin(a)], -1).reshape(len(a), -1) for a in angles]
    assert guessed(*places) < 0.6
    for units, way in ((left, -1), (right, 1)):
        moved = units[..., 1, 0] - units[..., 0, 0]
        moved = moved[:, [0, -1]] * [way, -way]  # in the first and in the last unit, as the class has it
        inside = abs(moved) < 16  # no jump in between
        assert inside.mean() > 0.6 and (moved[inside] > 0).mean() > 0.8


def test_the_task_is_part_of_what_archives_are_made_of_unless_it_is_the_old_one():
    assert "task" not in open_source(dataset()).archive_settings()
    assert open_source(dataset(task="motion")).archive_settings()["task"] == "motion"


def test_what_leaves_on_one_side_comes_in_on_the_other():
    scene = scene_of("v0", 1)
    path = np.array([[0.0, 32.0], [64.0, 32.0], [32.0, 0.0]])
    scene = dataclasses.replace(scene, path=path, shape="disc", noise=0.0)
    left, right, top = (frame.astype(int) for frame in frames(scene))
    assert (left == right).all()
    near = np.abs(left - scene.background).sum(-1) > 30
    assert near[32, 1] and near[32, 62] and not near[32, 32]
    near = np.abs(top - scene.background).sum(-1) > 30
    assert near[1, 32] and near[62, 32]


def test_no_unit_of_the_demo_sees_both_motions():
    for number in range(200):
        scene = scene_of(f"v{number}", number % 4)
        steps = np.diff(scene.path, axis=0, prepend=scene.path[:1])
        moving = np.sign(steps.sum(1))
        for unit in eval_indices(scene.num_frames, 8, 4, 3):
            seen = moving[unit[0] : unit[-1] + 1]
            assert not ((seen > 0).any() and (seen < 0).any())


def shown(class_index: int, count: int, units: int) -> np.ndarray:
    """Where the object is (around the edges) in frames 0, 3, 6 and 9 of each of some units of a video."""
    rows = []
    for number in range(count):
        scene = scene_of(f"c{class_index}v{number}", class_index)
        index = train_indices(scene.num_frames, units, 4, 3, np.random.default_rng(number))
        angle = scene.path[index.ravel()] * 2 * np.pi / 64
        rows.append(np.concatenate([np.cos(angle), np.sin(angle)]).ravel())
    return np.array(rows)


def guessed(first: np.ndarray, second: np.ndarray) -> float:
    """How often a nearest-neighbour classifier that learned half of the rows is right on the others."""
    half = len(first) // 2
    known, asked = (
        np.concatenate([first[:half], second[:half]]),
        np.concatenate([first[half:], second[half:]]),
    )
    labels = np.repeat([0, 1], half)
    distance = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2 * asked @ known.T
    votes = labels[np.argsort(distance, 1)[:, :25]].mean(1) > 0.5
    return (votes == labels).mean()


@pytest.mark.slow
def test_neither_one_unit_nor_the_places_of_the_rests_tell_two_classes_of_one_axis_apart():
    left, right = (CLASSES.index(name) for name in ("left_then_right", "right_then_left"))
    assert guessed(shown(left, 800, 1), shown(right, 800, 1)) < 0.6
    rests = []
    for class_index in (left, right):
        scenes = [scene_of(f"c{class_index}v{n}", class_index) for n in range(800)]
        places = np.array([(s.path[0], s.path[_middle_of_the_rest(s)]) for s in scenes]) * 2 * np.pi / 64
        rests.append(np.concatenate([np.cos(places), np.sin(places)], 1).reshape(800, -1))
    assert guessed(*rests) < 0.6


def _middle_of_the_rest(scene) -> int:
    moving = np.flatnonzero(np.abs(np.diff(scene.path, axis=0)).sum(1))
    gap = np.diff(moving).argmax()
    return int(moving[gap] + moving[gap + 1]) // 2
