"""Every network on the device against float64 on a CPU, and training steps for which the host never waits."""

import copy
import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from _gpu import Run, convolutions
from torch import Tensor, nn

from v4d import config as configs
from v4d.config import StageConfig
from v4d.data.batch import Batch
from v4d.distributed.group import DistributedContext
from v4d.models import VideoModel, create_model
from v4d.models.base import BatchNorm
from v4d.models.conv4d import Conv4d
from v4d.models.convolution import ConvBackend
from v4d.models.layers import BasicBlock, Bottleneck
from v4d.models.numerics import CASES_2D, CASES_3D, check_device, wrong_cases
from v4d.training.step import TrainStep

TOTAL_UNITS, FRAMES, PIXELS, CLASSES = 6, 4, 48, 5
"""Units of all videos together: the same for every network, so that one measures shapes for the next."""


@dataclass(frozen=True)
class Network:
    """A network that a config can name."""

    name: str
    arch: str
    units: int
    options: dict[str, Any] = field(default_factory=dict)


def _networks(backbone: str) -> list[Network]:
    wide = {"kernel": (3, 3, 3, 3), "preset": "paper"}
    return [
        Network(f"i3ds {backbone}", f"i3ds_{backbone}", 1),
        Network(f"tsn {backbone}", f"i3ds_{backbone}", 3),
        Network(f"v4d {backbone}, released", f"v4d_{backbone}", 3, {"preset": "released"}),
        Network(f"v4d {backbone}, paper", f"v4d_{backbone}", 3, {"preset": "paper"}),
        *([Network("i3ds resnet18++", "i3ds_resnet18pp", 1)] if backbone == "resnet18" else []),
        *([Network("v4d resnet18, 3x3x3x3", "v4d_resnet18", 3, wide)] if backbone == "resnet18" else []),
    ]


@dataclass(frozen=True)
class Mode:
    """How a device computes, and the errors allowed, each relative to the norm of what is right."""

    name: str
    fp32_precision: str
    """Of convolutions: `ieee` or `tf32`."""
    bf16: bool
    logits: float
    """Error allowed in evaluation and in training."""
    gradient: float
    """The same for the gradient of all parameters as one vector."""
    parameter: float
    """The same for the gradient of a single weight: one wrong kernel is lost among the others' gradients."""
    convolution: float
    """The same for a convolution by itself, and for its gradients."""

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Compute so. In bf16 cuDNN picks the fastest kernel, as it does in a training."""
        with (
            convolutions(self.fp32_precision, benchmark=self.bf16),
            torch.autocast(device.type, torch.bfloat16, enabled=self.bf16),
        ):
            yield


# Where a ReLU's input has another sign in float64, the gradient differs by a step: gradients differ by about
# the root of what activations differ by. A wrong kernel is still off by the order of 1.
FLOAT32 = Mode("float32", "ieee", False, 1e-4, 2e-2, 3e-2, 1e-5)
TF32 = Mode("TF32", "tf32", False, 1e-2, 3e-1, 5e-1, 4e-3)
BF16 = Mode("bf16", "tf32", True, 5e-2, 6e-1, 8e-1, 2e-2)
EXACT = Mode("float64", "ieee", False, 0, 0, 0, 0)


@dataclass(frozen=True)
class Computed:
    """What a network gives for some videos, in float64 on the CPU."""

    evaluated: Tensor
    """Logits in evaluation mode."""
    trained: Tensor
    """Logits in training mode."""
    gradients: dict[str, Tensor]
    """Of the loss in training mode, by parameter."""


def measure(run: Run) -> None:
    known_cases(run)
    backbones = ("tiny",) if run.tiny else ("tiny", "resnet18", "resnet50")
    for network in itertools.chain.from_iterable(map(_networks, backbones)):
        with run.attempt(network.name):
            compare(run, network)
    for changes in training_settings():
        what = "3 steps without a wait: " + ", ".join(f"{name} {value}" for name, value in changes.items())
        with run.attempt(what):
            steps_without_waiting(run, what, changes)


def known_cases(run: Run) -> None:
    """The forms of convolution that v4d checks itself; wrong 3D ones it avoids on a GPU."""
    if run.device.type == "cuda":
        check_device(run.device)
    for what, cases in (("2D", CASES_2D), ("3D", CASES_3D)):
        wrong = wrong_cases(cases, run.device)
        avoided = what == "3D" and (run.device.type == "cpu" or not ConvBackend.conv3d)
        figures = {"avoided": avoided} if wrong else {}
        run.check(f"{what} convolutions", not wrong or avoided, wrong="; ".join(wrong) or "none", **figures)


def compare(run: Run, network: Network) -> None:
    """A row with the network's errors in every mode; where one is too large, with its wrong convolutions."""
    torch.manual_seed(0)
    videos = TOTAL_UNITS // network.units
    sizes = {"num_classes": CLASSES, "units": network.units, "frames": FRAMES, "dropout": 0.0}
    model = create_model(network.arch, **sizes, **network.options)
    x_NUCTHW = torch.randn(videos, network.units, 3, FRAMES, PIXELS, PIXELS)
    labels = torch.arange(videos) % CLASSES
    settle(model)
    fix_statistics(model, x_NUCTHW)
    right = computed(copy.deepcopy(model).double(), x_NUCTHW.double(), labels, EXACT)
    model, x_NUCTHW, labels = (each.to(run.device) for each in (model, x_NUCTHW, labels))
    figures: dict[str, Any] = {}
    holds = True
    for mode in (FLOAT32, BF16) if run.device.type == "cpu" else (FLOAT32, TF32, BF16):
        found = computed(model, x_NUCTHW, labels, mode)
        errors, right_here = judged(found, right, mode)
        figures |= {f"{mode.name}_{name}": value for name, value in errors.items()}
        if not right_here or run.tiny:
            named = wrong_convolutions(model, x_NUCTHW, mode)
            figures[f"{mode.name}_wrong_convolutions"] = "; ".join(named) or "none"
            holds = holds and not named
        holds = holds and right_here
    run.check(network.name, holds, **figures)


def settle(model: Any) -> None:
    """Give a new network weights with which rounding grows no more than in a trained one.

    Branches are small beside what they are added to, else 50 random layers make noise of bf16 gradients. The
    classifier is large enough that the backbone's gradients are not lost beside its own.
    """
    nn.init.normal_(model.fc.weight, std=0.1)
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            nn.init.constant_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight, 0.2)
        elif isinstance(module, Conv4d):
            nn.init.normal_(module.weight, std=0.2 * module.weight[0].numel() ** -0.5)


def fix_statistics(model: VideoModel, x_NUCTHW: Tensor) -> None:
    """Give batch norms the statistics of these videos, and let no later pass change them."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x_NUCTHW)
    for norm in norms:
        norm.momentum = 0.0


def computed(model: VideoModel, x_NUCTHW: Tensor, labels: Tensor, mode: Mode) -> Computed:
    parameters = dict(model.named_parameters())
    with mode.on(x_NUCTHW.device):
        with torch.no_grad():
            evaluated = model.eval()(x_NUCTHW)
        trained = model.train()(x_NUCTHW)
        loss = F.cross_entropy(trained.to(torch.promote_types(trained.dtype, torch.float32)), labels)
    with convolutions(mode.fp32_precision, benchmark=mode.bf16):
        gradients = torch.autograd.grad(loss, [*parameters.values()])
    named = zip(parameters, map(exact, gradients), strict=True)
    return Computed(exact(evaluated), exact(trained), dict(named))


def judged(found: Computed, right: Computed, mode: Mode) -> tuple[dict[str, Any], bool]:
    """The errors, and whether all of them are as small as they should be."""
    vectors = [torch.cat([g.flatten() for g in each.gradients.values()]) for each in (found, right)]
    weights = {name: value for name, value in right.gradients.items() if value.dim() > 1}
    each = {name: distance(found.gradients[name], value) for name, value in weights.items()}
    worst = max(each, key=lambda name: each[name] if each[name] == each[name] else torch.inf)
    evaluation, training = distance(found.evaluated, right.evaluated), distance(found.trained, right.trained)
    gradient = distance(*vectors)
    errors = {"eval": evaluation, "train": training, "gradient": gradient, "worst": each[worst], "of": worst}
    holds = (  # false also where an error is NaN
        max(evaluation, training) <= mode.logits
        and gradient <= mode.gradient
        and each[worst] <= mode.parameter
    )
    return errors, holds


def wrong_convolutions(model: VideoModel, x_NUCTHW: Tensor, mode: Mode) -> list[str]:
    """The network's convolutions that, each by itself on its own input in the network, are not float64's."""
    given: dict[str, tuple[Any, ...]] = {}

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        given[name] = (args[0].detach().clone(), *args[1:])

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d | Conv4d)
    }
    hooks = [m.register_forward_hook(functools.partial(note, name)) for name, m in layers.items()]
    try:
        with mode.on(x_NUCTHW.device), torch.no_grad():
            model.train()(x_NUCTHW)
    finally:
        for hook in hooks:
            hook.remove()
    wrong = []
    for name, (x, *rest) in given.items():
        ours = convolved(layers[name], x, rest, mode)
        right = convolved(copy.deepcopy(layers[name]).cpu().double(), exact(x), rest, EXACT)
        pairs = zip(("forward", "to input", "to weight"), ours, right, strict=True)
        errors = {what: distance(one, other) for what, one, other in pairs}
        large = [f"{what} {error:.1e}" for what, error in errors.items() if not error <= mode.convolution]
        if large:
            wrong.append(f"{name} of {[*x.shape]}: {', '.join(large)}")
    return wrong


def convolved(module: Any, x: Tensor, rest: list[Any], mode: Mode) -> list[Tensor]:
    """A convolution's result, and its gradients to the input and to the weight."""
    x = x.detach().requires_grad_()
    with mode.on(x.device), torch.enable_grad():
        y = module(x, *rest)
    with convolutions(mode.fp32_precision, benchmark=mode.bf16):
        gradients = torch.autograd.grad(y, (x, module.weight), y.detach())  # that of sum(y^2)/2
    return [exact(each) for each in (y, *gradients)]


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def distance(ours: Tensor, right: Tensor) -> float:
    """The norm of the error relative to the norm of what is right."""
    return ((ours - right).norm() / right.norm()).item()


def training_settings() -> Iterator[dict[str, Any]]:
    """What a step may do: one or two passes, both kinds of labels, with and without a limit."""
    for accumulate in (1, 2):
        for labels in ({"label_smoothing": 0.1}, {"mixup": 0.2}):
            for limit in (20.0, None):
                yield {"accumulate": accumulate, **labels, "clip_grad_norm": limit}


def steps_without_waiting(run: Run, what: str, changes: dict[str, Any]) -> None:
    """Steps during which PyTorch raises where the host would wait for a GPU; on a CPU they are only done."""
    arch, units, videos = "v4d_tiny" if run.tiny else "v4d_resnet18", 2, 4
    step = train_step(run, arch, units, changes | {"batch_size": videos * changes["accumulate"]})
    shape = (videos, units, FRAMES, PIXELS, PIXELS, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8).to(run.device)
    labels = (torch.arange(videos) % CLASSES).to(run.device)
    batch = Batch(frames, labels, ["a video"] * videos, torch.ones(videos, device=run.device))
    batches = [batch] * changes["accumulate"]
    step.step(batches, 0, 0, 0.0)  # the first one brings constants to the device
    run.synchronise()
    with waiting_refused(run.device):
        sums = [step.step(batches, 0, number, 0.0) for number in range(1, 4)]
    losses = torch.stack(sums)[:, 0].tolist()
    finite = all(0 < loss < torch.inf for loss in losses)
    run.check(what, finite, losses=", ".join(f"{loss:.3g}" for loss in losses))


def train_step(run: Run, arch: str, units: int, training: dict[str, Any]) -> TrainStep:
    document = {
        "name": "parity",
        "dataset": {"name": "parity", "source": "synthetic"},
        "models": {"m": {"arch": arch, "units": units, "frames": FRAMES, "dropout": 0.5}},
        "training": training,
    }
    stage: StageConfig = configs.build(configs.resolve(document)).models["m"].final
    torch.manual_seed(0)
    model = create_model(arch, num_classes=CLASSES, units=units, frames=FRAMES, dropout=0.5)
    return TrainStep(model.to(run.device).train(), stage, DistributedContext(0, 1, run.device), seed=0)


@contextmanager
def waiting_refused(device: torch.device) -> Iterator[None]:
    """Raise where the host would wait for the GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
