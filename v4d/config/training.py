"""Keys of a training and of a test, and where their numbers go."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from v4d.config.fields import Block, List, Number, key
from v4d.errors import V4DError

Order = Literal["normal", "units_reversed", "frames_reversed", "both_reversed", "units_shuffled"]
Precision = Literal["auto", "float32", "bf16"]
Compile = bool | Literal["auto"]
Side = Annotated[int, Field(ge=16)]
Workers = Annotated[int, Field(ge=0)] | None


class OptimizerConfig(Block):
    """`training.optimizer`."""

    name: Literal["sgd", "adamw"] = key("sgd", "sgd or adamw.")
    lr: Number = key(0.01, "Peak learning rate for batch_size videos.", gt=0)
    momentum: Number = key(0.9, "Momentum of SGD.", ge=0, lt=1)
    nesterov: bool = key(False, "Nesterov's momentum.")
    weight_decay: Number = key(0.0005, "Weight decay.", ge=0)
    decay_norm_and_bias: bool = key(False, "Decay batch norm and biases as well.")
    bias_lr_factor: Number = key(2.0, "Learning rate of biases as a multiple; 2 as released.", gt=0)
    reference_batch: Annotated[int, Field(ge=1)] | None = key(
        None, "Batch for which lr is meant, scaled linearly to the real one; null for batch_size."
    )


class ScheduleConfig(Block):
    """`training.schedule`."""

    name: Literal["step", "cosine", "onecycle", "constant"] = key(
        "step", "step, cosine, onecycle or constant."
    )
    per: Literal["step", "epoch"] = key(
        "step", "Whether the learning rate changes with each step, or stays for an epoch."
    )
    milestones: List[Annotated[Number, Field(gt=0)]] = key(
        (55, 80, 100), "Epochs after which a step schedule multiplies by gamma."
    )
    gamma: Number = key(0.1, "Factor of a step schedule.", gt=0, le=1)
    warmup_epochs: Number = key(0, "Epochs of linear warm-up.", ge=0)
    warmup_factor: Number = key(0.1, "Share of the learning rate at the start of warm-up.", gt=0, le=1)
    final_factor: Number = key(
        0.0, "Share of the learning rate at the end of cosine and one-cycle.", ge=0, le=1
    )
    rise: Number = key(0.3, "Share of a one-cycle schedule in which the rate rises.", gt=0, lt=1)


class CropConfig(Block):
    """`training.crop`: spatial augmentation of training, and the crop of validation."""

    kind: Literal["multi_scale", "short_side_jitter", "random_resized", "centre"] = key(
        "multi_scale", "multi_scale (released), short_side_jitter (paper), random_resized, or centre."
    )
    size: int = key(224, "Side of what the network sees in training and validation (pixels).", ge=16)
    jitter: List[Side] = key(
        (256, 320),
        "Bounds of the short side for short_side_jitter (pixels).",
        min_length=2,
        max_length=2,
    )
    flip: Number = key(0.5, "Probability of a horizontal flip; 0 where direction matters.", ge=0, le=1)
    color_jitter: Number = key(0.0, "Strength of colour jitter; 0 is off.", ge=0, le=1)
    randaugment: int = key(0, "Magnitude of RandAugment; 0 is off.", ge=0, le=30)


class TrainingConfig(Block):
    """`training`: how models are trained; a model and a stage may differ in any of these keys."""

    split: str = key("train", "The split to train on.")
    val_split: str = key("val", "The split to validate on.")
    epochs: int = key(110, "Passes over the training videos.", ge=1)
    batch_size: int = key(48, "Videos of one optimiser step over all processes.", ge=1)
    accumulate: int = key(1, "Forward passes that make up one step.", ge=1)
    optimizer: OptimizerConfig = key(OptimizerConfig, "The optimiser.")
    schedule: ScheduleConfig = key(ScheduleConfig, "The learning rate over the epochs.")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = key(20, "Largest gradient norm; null for none.")
    label_smoothing: Number = key(0.0, "Label smoothing.", ge=0, lt=1)
    mixup: Number = key(0.0, "Alpha of mixup; 0 is off.", ge=0)
    ema: Number = key(0.0, "Decay of an average of the weights; 0 is off.", ge=0, lt=1)
    crop: CropConfig = key(CropConfig, "Spatial augmentation of training, and the crop of validation.")
    processes: int = key(2, "Processes on a CPU; on GPUs it is one a granted GPU.", ge=1, changes="nothing")
    gpus: int = key(1, "GPUs that a training or test job asks for.", ge=1, changes="nothing")
    workers: Workers = key(None, "Loader processes a rank; null for a sensible number.", changes="nothing")
    locality: int = key(
        0,
        "Shards of a shuffling window when the data exceeds the page cache; 0 shuffles over all.",
        ge=0,
    )
    bad_frames: Literal["raise", "skip_video"] = key(
        "raise", "raise, or skip_video, which drops the video from the batch's weight and counts it."
    )
    decode_on: Literal["host", "device"] = key(
        "host",
        "Where frames are decoded in training, validation and test: host, or device, for machines whose "
        "cores cannot feed their GPUs.",
    )
    precision: Precision = key(
        "auto",
        "auto is bf16 on a GPU and float32 on a CPU. (PyTorch's float32 convolutions on a GPU are TF32.)",
    )
    compile: Compile = key(
        "auto",
        "torch.compile the network; auto does on a GPU, for a stage of 5,000 steps or more (a start takes a "
        "minute longer).",
        changes="cost",
        recorded=False,
    )
    checkpoint_activations: bool = key(
        False, "Recompute activations in the backward pass to save memory.", changes="cost"
    )
    sync_batchnorm: bool = key(False, "Batch norm over all processes.")
    precise_bn_videos: int = key(
        0,
        "Videos over which batch norm statistics are measured anew before validation; 0 is off.",
        ge=0,
    )
    checkpoint_minutes: Number = key(
        15, "Minutes between checkpoints inside an epoch.", gt=0, changes="nothing"
    )
    keep_checkpoints: int = key(2, "Epoch checkpoints to keep beside the best.", ge=1, changes="nothing")
    log_steps: int = key(20, "Steps between two log lines.", ge=1, changes="nothing")


def _shows_videos_as_they_are(orders: tuple[str, ...]) -> tuple[str, ...]:
    if "normal" not in orders:
        raise ValueError("should have 'normal' among its items")
    return orders


class TestingConfig(Block):
    """`testing`: how models are tested."""

    __test__: ClassVar[bool] = False  # pytest: this is no test

    split: str = key("val", "The split to test on.")
    units: int = key(
        10,
        "Units of a test video (U_infer); a model with fewer is combined by Algorithm 1. At least the "
        "model's own are used.",
        ge=1,
    )
    crops: int = key(
        3,
        "Crops of a frame, spread over its longer side; one where the frame is no larger than the crop.",
        ge=1,
        le=9,
    )
    crop_size: Side | None = key(256, "Side of the square crop, pixels; null takes the frame's short side.")
    short_side: Side | None = key(None, "Scale frames to this short side first; null leaves them.")
    orders: Annotated[List[Order], AfterValidator(_shows_videos_as_they_are)] = key(
        ("normal", "units_reversed", "frames_reversed"),
        "Orders in which a video is shown; normal is one of them.",
        unique=True,
    )
    sampling: Literal["released", "centred"] = key(
        "released", "Where units lie; as released, or in the middle of equal sections."
    )
    combinations: bool | Literal["all_units"] = key(
        True,
        "true: all combinations of units (Algorithm 1); false: one pass over evenly spaced units; all_units: "
        "one pass in which all units go through the 4D blocks together (the authors' test of Kinetics-400).",
    )
    average: Literal["softmax", "logits"] = key(
        "softmax",
        "What is averaged over combinations, over the units of a clip-level network, and over crops.",
        before="softmax",
    )
    checkpoint: Literal["last", "best"] = key(
        "last",
        "Weights of a trained model that are tested: of its last epoch, or of the best validation epoch "
        "(as the authors do; where testing.split is the validation split, it is the kinder choice).",
        before="last",
    )
    batch_size: int = key(4, "Videos at a time, a process.", ge=1, changes="nothing")
    chunk: int = key(
        64,
        "Unit features at a time behind a 4D block, which bounds memory.",
        ge=1,
        changes="nothing",
    )
    precision: Precision = key("auto", "auto is bf16 on a GPU and float32 on a CPU.")
    workers: Workers = key(None, "Loader processes a rank; null for a sensible number.", changes="nothing")


class TrackingConfig(Block):
    """`tracking`: where metrics and artifacts go."""

    backend: str = key("mlflow", "mlflow, or none.", changes="runs")
    uri: str = key("sqlite:///mlflow.db", "MLflow's tracking address.", changes="runs")
    experiment: str | None = key(None, "MLflow experiment; null for v4d/<name>.", changes="runs")
    log_model: bool = key(
        True,
        "Log final weights in MLflow's own model format too, so that mlflow.pytorch.load_model opens them.",
        changes="nothing",
    )
    system_metrics: bool = key(True, "Log CPU, memory and GPU use.", changes="nothing")


def decodes_on_gpu(decode_on: str, device_type: str) -> bool:
    """Whether a GPU decodes the frames, which gives slightly other ones; a CPU's are the host's."""
    return decode_on == "device" and device_type == "cuda"


def compiles(compile: Compile, device_type: str, steps: int) -> bool:
    """Whether to compile a network for so many steps. `auto`: where the time comes back.

    On an H200 a step of 8 videos took 49.5 ms instead of 64.3, and compilation 45 s: 3,000 steps.
    """
    return compile is True or (compile == "auto" and device_type == "cuda" and steps >= 5000)


def takes_bf16(precision: str, device_type: str) -> bool:
    """Whether to compute in bf16: `auto` does on a GPU and not on a CPU."""
    return precision == "bf16" or (precision == "auto" and device_type == "cuda")


def check_share(training: TrainingConfig, processes: int) -> None:
    """Refuse a batch that does not spread evenly.

    Raises:
        V4DError: it does not divide by processes times accumulated passes.
    """
    if training.batch_size % (processes * training.accumulate):
        raise V4DError(
            f"training.batch_size {training.batch_size} does not divide by {processes} processes "
            f"x {training.accumulate} accumulated passes: change one of the three"
        )


def check_mixup(training: TrainingConfig, processes: int) -> None:
    """Refuse a mixup that would mix nothing.

    Raises:
        V4DError: a process has a single video a pass.
    """
    if training.mixup and training.batch_size == processes * training.accumulate:
        raise V4DError(
            f"training.mixup mixes the videos of a pass, and batch_size {training.batch_size} over "
            f"{processes} processes x {training.accumulate} accumulated passes is one: raise it, or lower "
            "accumulate"
        )
