"""The tree of v4d/: which file may import which, how large a room may grow, where a module's test is."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.project import ROOT

LAYERS = [
    ("cli",),
    ("report", "doctor", "workflow"),
    ("training", "evaluation"),
    ("checkpoints",),
    ("preprocessing", "tracking"),
    ("datasets", "data"),
    ("models", "plotting", "distributed"),
    ("config",),
    ("utils",),
    ("errors", "v4d"),
]
"""Rooms (and files beside them), top first. A line imports from lines below it only; v4d is `__version__`."""

LARGEST_SHARE = 0.2
"""Of the lines of v4d/ that one room may have."""

COVERS = {
    "cli/test_main.py": "cli.command cli.data cli.models cli.predict cli.reports cli.system cli.train errors",
    "config/test_config.py": "config.data config.load config.models config.relations config.root"
    " config.training",
    "config/test_schema.py": "config.fields config.registry",
    "data/test_loader.py": "data.batch data.dataset",
    "data/test_shards.py": "data.shard_format data.shard_writer",
    "data/test_transforms.py": "data.color",
    "datasets/test_archives.py": "datasets.replacements",
    "datasets/test_download.py": "datasets.download.checksums datasets.download.fetch datasets.download.http"
    " datasets.download.ranges datasets.kinetics_archives datasets.lockfile",
    "datasets/test_plugin.py": "datasets.base",
    "datasets/test_kinetics.py": "datasets.annotations datasets.kinetics_annotations"
    " datasets.kinetics_versions",
    "datasets/test_synthetic.py": "datasets.synthetic_videos",
    "distributed/test_launcher.py": "distributed.group distributed.job",
    "doctor/test_doctor.py": "doctor.finding doctor.hardware doctor.software",
    "evaluation/test_predict.py": "checkpoints evaluation.video_file",
    "evaluation/test_stage.py": "data.index evaluation.pieces evaluation.predictions evaluation.results",
    "models/test_anchors.py": "models.imagenet",
    "models/test_conv4d.py": "models.convolution models.layout",
    "models/test_network.py": "models models.freezing models.layers models.registry models.v4d",
    "models/test_released.py": "models.state_dict_names",
    "preprocessing/test_clips.py": "preprocessing.transcode utils.ffmpeg utils.threads",
    "preprocessing/test_decode.py": "utils.processes",
    "preprocessing/test_estimate.py": "utils.cost",
    "report/test_comparison.py": "datasets.published report.mlflow_runs report.paper_tables",
    "report/test_report.py": "plotting.curves plotting.style report.example_videos report.page report.tables",
    "tracking/test_tracking.py": "tracking.base tracking.journal",
    "preprocessing/test_frames.py": "preprocessing.ledger",
    "training/test_options.py": "training.inputs training.metric_logger",
    "training/test_resume.py": "training.outputs training.trainer",
    "training/test_step.py": "training.validation",
    "workflow/test_workflow.py": "config.paths tracking.dataset_run training.worker utils.provenance"
    " workflow",
}
"""Modules without a test file of their own name, by the test that covers them."""

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of v4d by its dotted name; a package is its `__init__.py`."""
    paths = sorted((ROOT / "v4d").rglob("*.py"))
    dotted = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(dotted, paths, strict=True)}


def imported_names(path: Path) -> Iterator[str]:
    """What a file imports from v4d, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports() -> Graph:
    """Module -> the modules of v4d that it imports."""
    known = modules()
    graph: Graph = defaultdict(set)
    for module, path in known.items():
        for name in imported_names(path):
            while name and name not in known:  # an object in a module, or not of v4d
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def between_rooms(graph: Graph) -> Graph:
    rooms: Graph = defaultdict(set)
    for module, targets in graph.items():
        rooms[room(module)] |= {room(target) for target in targets} - {room(module)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """The groups whose members reach one another."""
    reach = {start: reached(graph, start) for start in graph}
    groups = {
        frozenset(other for other in ends if start in reach.get(other, ())) for start, ends in reach.items()
    }
    return sorted(sorted(group) for group in groups if group)


def reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - found
        found |= new
        todo.extend(new)
    return found


def against_the_layers(graph: Graph) -> Iterator[str]:
    level = {name: number for number, line in enumerate(LAYERS) for name in line}
    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            if room(module) != room(target) and level[room(target)] <= level[room(module)]:
                yield f"{module} imports {target}, which is not below it"


def test_imports_point_down_and_never_in_a_circle():
    graph = imports()
    unplaced = {room(module) for module in modules()} - {name for line in LAYERS for name in line}
    assert not unplaced, f"rooms without a layer: {unplaced}"
    problems = [f"files import one another: {', '.join(group)}" for group in circles(graph)]
    problems += [f"rooms import one another: {', '.join(group)}" for group in circles(between_rooms(graph))]
    assert_none([*problems, *against_the_layers(graph)])


def test_no_room_is_a_hall():
    lines: dict[str, int] = defaultdict(int)
    for module, path in modules().items():
        lines[room(module)] += len(path.read_text(encoding="utf-8").splitlines())
    whole = sum(lines.values())
    assert_none(
        f"{name} has {count} of {whole} lines, more than {LARGEST_SHARE:.0%}"
        for name, count in lines.items()
        if count > LARGEST_SHARE * whole
    )


def own_test(module: str, path: Path) -> str:
    """`v4d/room/file.py` has `tests/room/test_file.py`, a package `tests/room/test_room.py`."""
    parts = module.split(".")[1:]
    folder = parts if path.name == "__init__.py" else parts[:-1]
    return "/".join(["tests", *folder, f"test_{parts[-1] if parts else 'v4d'}.py"])


def has_code(path: Path) -> bool:
    """Whether a file defines a function or a class."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_every_module_has_a_test():
    known = modules()
    covered = {f"v4d.{name}": f"tests/{test}" for test, names in COVERS.items() for name in names.split()}
    problems = [f"COVERS names {name}, which is gone" for name in covered.keys() - known.keys()]
    problems += [
        f"COVERS names {test}, which is gone" for test in COVERS if not (ROOT / "tests" / test).exists()
    ]
    for module, path in known.items():
        own = own_test(module, path)
        if (ROOT / own).exists() and module in covered:
            problems.append(f"{module} has {own}: take it out of COVERS")
        if not (ROOT / own).exists() and module not in covered and has_code(path):
            problems.append(f"{module} has no {own} and is not in COVERS")
    assert_none(problems)


def assert_none(problems: Iterable[str]) -> None:
    found = list(problems)
    assert not found, "\n" + "\n".join(found)
