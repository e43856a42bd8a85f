"""Public weights of the slow pathway: pytorchvideo's network and the names of MMAction2's, in float64."""

import hashlib
import json
import re

import imageio_ffmpeg
import pytest
import torch
from pytorchvideo.models.hub.resnet import slow_r50
from torch import nn

from tests.support.project import assert_one_line_error, run
from v4d import config as configs
from v4d.checkpoints import load_any, load_finished
from v4d.data.batch import normalise
from v4d.errors import V4DError
from v4d.models import create_model
from v4d.models.checkpoint import load_model, save_model
from v4d.models.slow import LAYOUTS, load_slow, slow_layout
from v4d.training.init_weights import load_initial
from v4d.utils.ffmpeg import run_with_deadline

pytestmark = pytest.mark.slow

MMACTION2 = LAYOUTS[1]
MMACTION2_NAMES = "a51357c59a31e1bfbfb4fbf71a3e9ae0b991443cc104126be6d60ec21cf39a02"
"""sha256 of the 320 sorted names of ResNet3dSlowOnly and I3DHead of mmaction2 1.2.0, a line each. Its logits
were those of ours to 1e-15 in float64."""


@pytest.fixture(scope="module")
def theirs():
    """pytorchvideo's slow_r50 with random weights and statistics. It pools 7x7 places, we pool all."""
    torch.manual_seed(0)
    network = slow_r50(pretrained=False)
    network.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, 0.1 if value.dim() == 1 else value[0].numel() ** -0.5)
    return network.eval()


def renamed_for_mmaction2(name: str) -> str:
    """In the words of its class, by hand."""
    name = re.sub(r"^blocks\.0\.conv\.", "backbone.conv1.conv.", name)
    name = re.sub(r"^blocks\.0\.norm\.", "backbone.conv1.bn.", name)
    name = name.replace("blocks.5.proj.", "cls_head.fc_cls.")
    name = re.sub(r"^blocks\.(\d)\.res_blocks\.", r"backbone.layer\1.", name)
    for number, letter in enumerate("abc", 1):
        name = name.replace(f"branch2.conv_{letter}", f"conv{number}.conv")
        name = name.replace(f"branch2.norm_{letter}", f"conv{number}.bn")
    return name.replace("branch1_conv", "downsample.conv").replace("branch1_norm", "downsample.bn")


@pytest.fixture(scope="module")
def files(theirs, tmp_path_factory):
    """The same weights as pytorchvideo and as MMAction2 publish them."""
    folder = tmp_path_factory.mktemp("slow")
    weights = theirs.state_dict()
    torch.save({"model_state": weights}, folder / "SLOW_8x8_R50.pyth")
    names = {renamed_for_mmaction2(name): value for name, value in weights.items()}
    torch.save({"meta": {"epoch": 150}, "state_dict": names}, folder / "slowonly_r50.pth")
    return folder


def test_the_names_of_mmaction2_are_those_of_its_class(theirs):
    names = sorted(map(renamed_for_mmaction2, theirs.state_dict()))
    assert len(names) == 320 and hashlib.sha256("\n".join(names).encode()).hexdigest() == MMACTION2_NAMES
    model = create_model("i3ds_resnet50", num_classes=2, units=1, frames=2)
    assert sorted(map(MMACTION2.theirs, model.state_dict())) == names


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("SLOW_8x8_R50.pyth", torch.tensor([0.45] * 3), torch.tensor([0.225] * 3)),
        ("slowonly_r50.pth", torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])),
    ],
)
def test_logits_are_those_of_pytorchvideo_s_network_from_the_pixels_on(theirs, files, name, mean, std):
    loaded = load_any(files / name)
    frames = torch.randint(0, 256, (2, 1, 4, 40, 48, 3), dtype=torch.uint8)
    x = normalise(frames, loaded.model.input, torch.float64)
    pixels = (frames.double() / 255 - mean.double()) / std.double()
    assert torch.allclose(x, pixels.movedim(-1, -4), atol=1e-5)
    with torch.no_grad():
        expected, found = theirs.double()(x[:, 0]), loaded.model.double()(x)
    theirs.float()
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert (loaded.units, loaded.frames, loaded.frame_stride) == (1, 8, 8)
    assert len(loaded.classes) == 400 and loaded.classes[115] == "eating ice cream"


def test_v4d_starts_where_it_ends_and_keeps_its_normalisation(files, tmp_path):
    source, classes = files / "SLOW_8x8_R50.pyth", load_any(files / "SLOW_8x8_R50.pyth").classes
    shape = {"num_classes": 400, "units": 4, "frames": 8}
    with pytest.raises(V4DError, match=r"mean \(0.45, .*see (0.485|\(0.485).*`normalisation`"):
        load_initial(create_model("v4d_resnet50", **shape), source, classes)
    model = create_model("v4d_resnet50", **shape, normalisation="pytorchvideo")
    assert load_initial(model, source, classes) == "4D blocks"
    start = load_any(source).model.state_dict()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in start.items())
    save_model(tmp_path / "v4d.pt", model, architecture=model.spec, classes=classes, info={})
    again = load_model(tmp_path / "v4d.pt").model
    assert again.input == model.input and again.input.mean == (0.45, 0.45, 0.45)
    other = create_model("v4d_resnet50", **shape)
    assert load_initial(other, files / "slowonly_r50.pth", classes) == "4D blocks"
    assert other.input.mean == (0.485, 0.456, 0.406) and "normalisation" not in other.spec


def test_a_test_takes_it_with_the_frames_of_the_config(files):
    model = {"arch": "i3ds_resnet50", "units": 1, "frames": 4, "frame_stride": 16, "checkpoint": "x.pyth"}
    document = {"name": "t", "dataset": {"name": "t", "source": "synthetic"}, "models": {"m": model}}
    stage = configs.build(configs.resolve(document)).model("m").final
    classes = load_any(files / "slowonly_r50.pth").classes
    for name in ("SLOW_8x8_R50.pyth", "slowonly_r50.pth"):
        finished = load_finished(files / name, stage, classes)
        assert (finished.units, finished.frames, finished.frame_stride) == (1, 4, 16)
    with pytest.raises(V4DError, match="has other classes than the data set"):
        load_finished(files / name, stage, classes[:200])


def test_predict_takes_both(files, tmp_path):
    video = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi"]
    video += ["-i", "testsrc=size=96x64:rate=20:duration=3", str(tmp_path / "clip.mp4")]
    assert run_with_deadline(video, timeout=60).code == 0
    options = ("--units", 2, "--crops", 1, "--crop-size", 64, "--device", "cpu", "--json", "--top-k", 400)
    shares = []
    for name in ("SLOW_8x8_R50.pyth", "slowonly_r50.pth"):
        done = run("predict", "clip.mp4", "--checkpoint", files / name, *options, cwd=tmp_path)
        (found,) = json.loads(done.stdout)
        by_class = {row["class"]: row["probability"] for row in found["top"]}
        assert len(by_class) == 400 and "eating ice cream" in by_class
        assert sum(by_class.values()) == pytest.approx(1, abs=1e-4)
        shares.append(by_class)
    assert shares[0] != shares[1]  # the same weights see other pixels


def test_both_ways_every_name_counts(theirs, files, tmp_path):
    whole = dict(theirs.state_dict())
    least = {
        name: value for name, value in whole.items() if name != "blocks.3.res_blocks.2.branch2.conv_b.weight"
    }
    wrong = whole | {"blocks.5.proj.weight": whole["blocks.5.proj.weight"][:, :7]}
    words = (
        (least, "no SLOW_8x8_R50 of pytorchvideo: missing blocks.3.res_blocks.2.branch2.conv_b.weight"),
        (whole | {"blocks.6.proj.weight": torch.zeros(2)}, "unexpected blocks.6.proj.weight"),
        (wrong, r"blocks.5.proj.weight has shape \(400, 7\)"),
    )
    for weights, message in words:
        with pytest.raises(V4DError, match=message):
            load_slow({"model_state": weights}, "x.pyth")
    assert slow_layout({"model_state": {}}) is None and slow_layout([]) is None
    torch.save({"model_state": least}, tmp_path / "x.pyth")
    done = run(
        "predict", files / "slowonly_r50.pth", "--checkpoint", tmp_path / "x.pyth", cwd=tmp_path, check=False
    )
    assert_one_line_error(done, "x.pyth is no SLOW_8x8_R50 of pytorchvideo: missing blocks.3")
