"""Public weights of the slow pathway, which is I3D-S ResNet-50: pytorchvideo's and MMAction2's files.

pytorchvideo's SLOW_8x8_R50.pyth holds `model_state`, MMAction2's SlowOnly ResNet-50 `state_dict`; both were
trained on Kinetics-400, one unit of 8 frames, 8 source frames apart. pytorchvideo's saw pixels normalised by
0.45 and 0.225, which the network keeps (`normalisation`): folded into the first convolution they would be
other numbers at the borders, where it is padded with zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from v4d.errors import V4DError
from v4d.models.checkpoint import first_difference
from v4d.models.registry import create_model
from v4d.models.state_dict_names import fitted, plain_state_dict
from v4d.models.v4d import VideoNet

FRAMES = 8
"""Of a unit, where nobody says another number: the files do not tell it."""


@dataclass(frozen=True)
class Layout:
    """How others name the tensors of I3D-S ResNet-50."""

    what: str
    """What a message calls such a file."""
    outer: dict[str, str]
    """Our name of a layer outside of the stages -> theirs."""
    block: str
    """Their prefix of a residual block; `stage` counts from 1 (res2), `block` from 0."""
    inner: dict[str, str]
    """Our name of a layer in a block -> theirs."""
    normalisation: str = "imagenet"

    def theirs(self, ours: str) -> str:
        """Their name of one of our tensors."""
        layer, _, kind = ours.rpartition(".")
        if layer in self.outer:
            return f"{self.outer[layer]}.{kind}"
        stage, _, block, layer = layer.split(".", 3)  # res2.blocks.0.conv1
        return f"{self.block.format(stage=int(stage[-1]) - 1, block=block)}.{self.inner[layer]}.{kind}"


LAYOUTS = (
    Layout(
        "SLOW_8x8_R50 of pytorchvideo",
        {"stem.conv": "blocks.0.conv", "stem.bn": "blocks.0.norm", "fc": "blocks.5.proj"},
        "blocks.{stage}.res_blocks.{block}",
        {
            **{f"conv{number}": f"branch2.conv_{letter}" for number, letter in enumerate("abc", 1)},
            **{f"bn{number}": f"branch2.norm_{letter}" for number, letter in enumerate("abc", 1)},
            **{"downsample.0": "branch1_conv", "downsample.1": "branch1_norm"},
        },
        "pytorchvideo",
    ),
    Layout(
        "SlowOnly ResNet-50 of MMAction2",
        {"stem.conv": "backbone.conv1.conv", "stem.bn": "backbone.conv1.bn", "fc": "cls_head.fc_cls"},
        "backbone.layer{stage}.{block}",
        {
            **{f"conv{number}": f"conv{number}.conv" for number in (1, 2, 3)},
            **{f"bn{number}": f"conv{number}.bn" for number in (1, 2, 3)},
            **{"downsample.0": "downsample.conv", "downsample.1": "downsample.bn"},
        },
    ),
)


def slow_layout(document: Any) -> Layout | None:
    """Whose file of weights this is, told by the name of its first convolution; None for any other."""
    tensors = _tensors(document)
    return next((each for each in LAYOUTS if each.theirs("stem.conv.weight") in tensors), None)


def load_slow(document: Mapping[str, Any], source: str | Path, *, frames: int | None = None) -> VideoNet:
    """I3D-S ResNet-50 of one unit in evaluation mode, with the weights of a file that has a `slow_layout`.

    Args:
        document: what is in the file `source`.
        frames: of a unit; None for 8.

    Raises:
        V4DError: a tensor is missing, unexpected or of another shape.
    """
    layout = slow_layout(document)
    assert layout is not None
    given, _ = plain_state_dict(_tensors(document))
    classifier = given.get(layout.theirs("fc.weight"))
    classes = len(classifier) if classifier is not None and classifier.dim() else 1
    options = {"dropout": 0.5, "normalisation": layout.normalisation}
    model = create_model("i3ds_resnet50", num_classes=classes, units=1, frames=frames or FRAMES, **options)
    own: dict[str, Tensor] = model.state_dict()
    wanted = {layout.theirs(name): name for name in own}
    difference = first_difference(wanted, given)
    if difference:
        raise V4DError(f"{source} is no {layout.what}: {difference}")
    own |= {wanted[name]: fitted(value, own[wanted[name]], name, source) for name, value in given.items()}
    model.load_state_dict(own)
    return cast(VideoNet, model.eval())


def _tensors(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        return {}
    inner = document.get("model_state", document.get("state_dict", document))
    return inner if isinstance(inner, Mapping) else {}
