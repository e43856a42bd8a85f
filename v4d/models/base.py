"""What every network offers: `VideoModel`. Training, testing and prediction know nothing else of a network.

Legend for all of `v4d.models`: N videos, U action units, C channels, T frames of a unit, H, W, K classes.

A network is a module and an entry of `MODELS`, in this package or in a plugin:

    class MeanColour(VideoModel):
        def __init__(self, *, width: int, **shape):
            super().__init__(width=width, **shape)
            self.conv = nn.Conv3d(3, width, 3, padding=1)
            self.fc = nn.Linear(width, self.num_classes)

        def forward(self, x_NUCTHW):
            features = self.conv(x_NUCTHW.flatten(0, 1)).relu().mean((2, 3, 4))
            return self.fc(features).unflatten(0, x_NUCTHW.shape[:2]).mean(1)

    class Options(ArchOptions):
        width: int = key(8, "Channels.", ge=1)

    MODELS["mean_colour"] = Architecture("my_networks:MeanColour", Options)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor, nn

from v4d.errors import V4DError
from v4d.models.numerics import check_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels (0 to 1), by channel: red, green, blue."""
BatchNorm = nn.modules.batchnorm._BatchNorm
"""What all kinds of batch norm layers are."""


@dataclass(frozen=True)
class InputSpec:
    """What a network expects of its input; None where it takes anything."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    """By channel, of pixels from 0 to 1; subtracted."""
    std: tuple[float, ...] = IMAGENET_STD
    """By channel; what is left is divided by it."""
    channels: int = 3
    """Of a frame; 3 are red, green, blue."""
    frames: int | None = None
    """Frames of a unit (T)."""
    frame_stride: int | None = None
    """Source frames from one frame of a unit to the next, for weights whose file does not say it."""
    crop: int | None = None
    """Height and width, pixels."""


class UnitStep(Protocol):
    """A part of a network that computes each unit by itself, unless it is a `MixingStep`."""

    def __call__(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[M*T, C, H, W]` -> a tensor of this kind; M are all videos' units, `units` those of one video."""


class MixingStep(UnitStep, Protocol):
    """A part in which units meet: `y[u] = merge(x[u], sum over s of tap_s(x[u + s]))`.

    `s` goes from -reach to reach, and units outside the video count as zero. A step is one of these where it
    has a `reach` above 0. Algorithm 1 does not call it, but forms the sums itself.
    """

    @property
    def reach(self) -> int:
        """How many units away a unit is seen."""

    def taps(self, x: Tensor, frames: int, first: int, last: int) -> list[Tensor]:
        """Every unit convolved with single taps: `[M*T, C, H, W]` for each s from `first` to `last`.

        The tap s of a unit is what it adds to the unit s places before it.
        """

    def merge(self, x: Tensor, convolved: Tensor) -> Tensor:
        """The step's output from its input and the sum of the taps, both `[M*T, C, H, W]`."""


class VideoModel(nn.Module):
    """A network for videos: x `[N, U, C, T, H, W]`, normalised by `input` -> logits `[N, K]`.

    A subclass needs `__init__` and `forward`. What else is here has a default that is right for most
    networks, or says in one line what the network does not offer.
    """

    spec: dict[str, Any]
    """The arguments of `create_model` that make this network again."""
    units: int
    """Units of a video in training (U)."""
    frames: int
    """Frames of a unit (T)."""
    num_classes: int
    """Number of outputs (K)."""
    input: InputSpec = InputSpec()
    """How frames are normalised for it, and what it needs of them."""
    clip_level: bool = False
    """Whether units do not meet in the network, which then takes any number of them. A test averages the
    scores of the units, each by itself, instead of running their combinations."""
    classifier: str = "fc"
    """Name of the layer with an output a class."""
    gradient_checkpointing: bool | None = None
    """Whether activations are computed again in the backward pass; None: this network cannot."""

    def __init__(self, *, arch: str, num_classes: int, units: int, frames: int, **options: Any):
        """Take what `create_model` gives; `options` are the architecture's own keys."""
        super().__init__()
        shape = {"arch": arch, "num_classes": num_classes, "units": units, "frames": frames}
        self.spec = shape | options
        self.num_classes, self.units, self.frames = num_classes, units, frames
        self.frozen: set[str] = set()
        """Names of `freezable` that are held fixed; see `v4d.models.freezing`."""

    def freezable(self) -> dict[str, list[nn.Module]]:
        """The modules, each with all inside it, that a name under `freeze` in the config stands for.

        The names are those of the `Architecture`. Asked anew whenever the mode changes.
        """
        return {}

    def before_freezing(self, what: str) -> None:
        """Bring a part into the state in which it is frozen; by default it is frozen as it is."""

    def emptied_by(self, what: str) -> tuple[str, ...]:
        """Prefixes of weights that hold nothing in a file of a stage that froze `what`.

        A stage that starts from the file and trains them starts them as new.
        """
        return ()

    def lr_factors(self) -> dict[str, float]:
        """Multiples of the learning rate, by the name of a parameter; 1 for those that are not named."""
        return {}

    def new_in_init(self) -> dict[str, str]:
        """Prefixes of weights that a file of another network may lack, and what to call them in a message."""
        return {f"{self.classifier}.": "classifier"}

    def load_image_weights(self, source: str | Path | Mapping[str, Any]) -> None:
        """Start from a 2D network's weights: "imagenet", a file or a state dict.

        Raises:
            V4DError: there are none for this network, or they do not fit.
        """
        raise V4DError(f"there are no ImageNet weights for {self.spec['arch']}; train it from scratch")

    def unit_steps(self) -> Sequence[UnitStep] | None:
        """The steps from `layout.fold(x)` to the features, in the order of computation.

        With them Algorithm 1 shares work between combinations of units; the logits have to be the mean over
        units of `unit_logits`. None: every combination runs through the whole network.
        """
        return None

    def unit_logits(self, features: Tensor, frames: int) -> Tensor:
        """Logits of each unit by its own features `[M*T, C', h, w]` -> `[M, K]`, in evaluation mode.

        Raises:
            V4DError: this network does not show its features.
        """
        raise V4DError(f"{self.spec['arch']} does not show the features of a unit")

    def forward_features(self, x_NUCTHW: Tensor) -> Tensor:
        """Activations in front of the head, `[N*U*T, C', h, w]`.

        Raises:
            V4DError: this network does not show its features.
        """
        raise V4DError(f"{self.spec['arch']} does not show its features, so there is nothing to explain")

    def head(self, features: Tensor, units: int, frames: int) -> Tensor:
        """Logits `[N, K]` from `forward_features`: in evaluation mode linear in them, but for a bias.

        Raises:
            V4DError: this network does not show its features.
        """
        raise V4DError(f"{self.spec['arch']} does not show its features, so there is nothing to explain")

    def parts(self) -> dict[str, list[nn.Module]]:
        """The rows of a table of costs (`v4d describe`), in order: by default a row a child."""
        return {name: [child] for name, child in self.named_children()}

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            parts = self.freezable()
            for module in (module for what in self.frozen for module in parts[what]):
                module.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As `nn.Module._apply`, through which every move to a GPU goes: checks its convolutions, once."""
        super()._apply(fn, recurse)
        parameter = next(self.parameters(), None)
        if parameter is not None and parameter.is_cuda:
            check_device(parameter.device)
        return self


def check_crop(model: VideoModel, size: int | None, key: str) -> None:
    """Refuse frames of a size that a network does not take; `size` in pixels, None for the frame's own.

    Raises:
        V4DError: names the config's key and the size that is needed.
    """
    wanted = model.input.crop
    if wanted is not None and size != wanted:
        raise V4DError(f"{key} is {size}, and {model.spec['arch']} takes {wanted}x{wanted} pixels only")


def unwrapped(model: nn.Module) -> VideoModel:
    """The network inside DDP, DataParallel and `torch.compile`, in any order."""
    inner: Any = model
    while not isinstance(inner, VideoModel):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    return inner
