"""The made-up set: reproducible, real files, and no unit that could tell the class by itself."""

import tarfile

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from v4d import config as configs
from v4d.config import DatasetConfig
from v4d.data.sampling import eval_indices
from v4d.data.synthetic import CLASSES, DIRECTIONS, draw_scene, encode, make_archive, video_ids


def dataset(**synthetic) -> DatasetConfig:
    values = {"videos": {"train": 8, "val": 4}, "size": 64, **synthetic}
    document = {"name": "s", "dataset": {"name": "s", "source": "synthetic", "synthetic": values}}
    return configs.build(configs.resolve(document)).dataset


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_archive(dataset(seed=seed), "val", "part_0", tmp_path / f"{name}.tar.gz")
    first, again, other = ((tmp_path / f"{name}.tar.gz").read_bytes() for name in "abc")
    assert first == again != other


def test_an_archive_holds_the_ids_of_its_part(tmp_path):
    settings = dataset()
    make_archive(settings, "train", "part_0", tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert archive.getnames() == [f"{i}.mp4" for i, _ in video_ids(settings.synthetic, "train")]


def test_files_are_as_from_a_site(tmp_path):
    """H.264 with B-frames, one key frame, an audio track, 25 or 30 frames a second, a few seconds."""
    path = tmp_path / "v.mp4"
    scene = draw_scene(dataset().synthetic, "train_00001", 1)
    path.write_bytes(encode(scene))
    with av.open(str(path)) as container:
        assert container.streams.audio and container.streams.video[0].average_rate in (25, 30)
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    assert len(frames) == scene.num_frames and 2 <= scene.num_frames / scene.fps <= 6
    kinds = [PictureType(frame.pict_type).name for frame in frames]
    assert kinds.count("I") == 1 and kinds.count("B") > 10


@pytest.mark.parametrize("class_index", range(4))
def test_the_path_is_the_class_and_stays_inside(class_index):
    first, second = (np.array(DIRECTIONS[w]) for w in CLASSES[class_index].split("_then_"))
    for number in range(50):
        scene = draw_scene(dataset().synthetic, f"v{number}", class_index)
        steps = np.diff(scene.path, axis=0)
        moving = np.flatnonzero(np.abs(steps).sum(1))
        middle = (np.diff(moving)).argmax()
        assert (steps[moving[: middle + 1]] @ first > 0).all()
        assert (steps[moving[middle + 1 :]] @ second > 0).all()
        assert np.diff(moving).max() > dataset().synthetic.rest_frames  # the rest
        assert (scene.path >= scene.radius - 1e-6).all() and (scene.path <= 64 - scene.radius + 1e-6).all()


def test_no_unit_of_the_demo_sees_both_motions():
    for number in range(200):
        scene = draw_scene(dataset().synthetic, f"v{number}", number % 4)
        steps = np.diff(scene.path, axis=0, prepend=scene.path[:1])
        moving = np.sign(steps.sum(1))
        for unit in eval_indices(scene.num_frames, 8, 4, 3):
            seen = moving[unit[0] : unit[-1] + 1]
            assert not ((seen > 0).any() and (seen < 0).any())


def unit_features(class_index: int, count: int) -> np.ndarray:
    """What one random unit shows of the object: where it is, and how it moves."""
    rng = np.random.default_rng(class_index)
    rows = []
    for number in range(count):
        scene = draw_scene(dataset().synthetic, f"c{class_index}v{number}", class_index)
        start = rng.integers(0, scene.num_frames - 12)
        rows.append(scene.path[start : start + 12 : 3].ravel())
    return np.array(rows)


def test_a_single_unit_tells_two_classes_of_one_axis_hardly_apart():
    """A nearest-neighbour classifier on the true places of the object, from one unit, is near chance."""
    left, right = (
        unit_features(CLASSES.index(f"{a}_then_{b}"), 800) for a, b in (("left", "right"), ("right", "left"))
    )
    known = np.concatenate([left[:400], right[:400]])
    labels = np.repeat([0, 1], 400)
    asked = np.concatenate([left[400:], right[400:]])
    distance = ((asked[:, None] - known[None]) ** 2).sum(-1)
    votes = labels[np.argsort(distance, 1)[:, :25]].mean(1) > 0.5
    assert (votes == labels).mean() < 0.62
