"""The report: one HTML file that needs no network, and the plots of a config as files beside it.

results/<name>/report.html
results/<name>/plots/*.svg
"""

import base64
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from v4d import __version__
from v4d.config import Config, config_sha
from v4d.data.index import class_names, dataset_info
from v4d.plotting import curves, plots
from v4d.plotting.style import DPI, save
from v4d.report import tables as facts
from v4d.report.comparison import Comparison, cell_text, compare, several_seeds, shown
from v4d.report.example_videos import samples
from v4d.report.paper_tables import NOTE, ONE_SEED, for_readers
from v4d.tracking import open_tracker
from v4d.utils.files import write_text
from v4d.utils.provenance import git_sha

TEMPLATE_FOLDER = Path(__file__).parent
_SVG_WIDTH = re.compile(rb'<svg [^>]*width="([0-9.]+)pt"')
_PIXELS_AN_INCH = 104
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """A plot as an address that has the file inside, and the width at which its text has the page's size."""

    address: str
    width: int  # CSS pixels

    @property
    def is_wide(self) -> bool:
        """Too wide to be read when it is shrunk to a phone."""
        return self.width > 600

    @classmethod
    def of(cls, path: Path) -> "Picture":
        """Read a plot from a PNG or SVG file."""
        content = path.read_bytes()
        if path.suffix == ".svg":
            width = _SVG_WIDTH.search(content)
            inches = float(width[1]) / 72 if width else 0.0
        else:  # width in pixels, in the header of every PNG
            inches = int.from_bytes(content[16:20], "big") / DPI
        address = f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(content).decode()}"
        return cls(address, round(inches * _PIXELS_AN_INCH))


def write_report(config: Config) -> Path:
    """Gather, draw and write; the path of the page.

    Raises:
        V4DError: a model is not tested.
    """
    comparison = compare(config)
    figures = {name: Picture.of(path) for name, path in draw(config, comparison).items()}
    page = render(context(config, comparison, figures))
    write_text(config.paths.report, page)
    return config.paths.report


def log_report(config: Config) -> None:
    """Add report, plots and comparison to the runs of the models that have one."""
    paths = config.paths
    tables = [paths.comparison, paths.published, paths.significance, paths.comparison_text]
    tables += [paths.comparison_seeds, paths.comparison_tables]
    files = dict.fromkeys([paths.report, *tables], "report")
    files |= dict.fromkeys(sorted(paths.plots.glob("*.svg")), "report/plots")
    for name in config.every_run:
        if paths.run_state(name).exists():
            with open_tracker(config, name, stage="report") as tracker:
                for file, folder in files.items():
                    if file.exists():
                        tracker.log_artifact(file, folder)
                tracker.close("FINISHED")


def draw(config: Config, comparison: Comparison) -> dict[str, Path]:
    """Draw what compares models; their own plots lie in their test folders."""
    folder = config.paths.plots
    stages = {name: facts.training_stages(config, name) for name in config.models}
    trained = {name: found for name, found in stages.items() if found}
    figures: dict[str, Figure] = {"accuracies": plots.accuracies(accuracy_rows(comparison))}
    if any(len(result["orders"]) > 1 for result in comparison.results.values()):
        figures["temporal_order"] = plots.temporal_order(comparison.results)
    if any(len(result["by_units"]) > 1 for result in comparison.results.values()):
        figures["by_units"] = plots.by_units(comparison.results)
    if trained:
        figures["validation"] = curves.validation_curves(trained)
    figures |= {f"training_{name}": curves.training_curves(found) for name, found in trained.items()}
    for stale in {path for path in folder.glob("*.svg") if path.stem not in figures}:
        stale.unlink()  # of a model that is no more
    for name, figure in figures.items():
        save(folder / f"{name}.svg", figure)
    return {name: folder / f"{name}.svg" for name in figures}


def accuracy_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Our models and the published ones of the same data set, for a plot."""
    ours = [
        {"name": name, "top1": result["top1"], "interval": result["top1_interval"], "published": False}
        for name, result in comparison.results.items()
    ]
    published = [
        {"name": f"{row.model} (published)", "top1": row.top1, "interval": None, "published": True}
        for row in comparison.published.itertuples()
    ]
    return ours + published


def context(config: Config, comparison: Comparison, figures: dict[str, Picture]) -> dict[str, Any]:
    """Everything that the template shows."""
    info = dataset_info(config)
    classes = class_names(config)
    results = comparison.results
    models = [model_section(config, name, comparison.runs[name], classes, figures) for name in results]
    table = comparison.models.drop(columns="mlflow_run_id")
    intervals = [result["top1_interval"] for result in results.values()]
    table.insert(8, "95 % interval", [f"{low:.1f} – {high:.1f}" for low, high in intervals])
    return {
        "config": config,
        "version": __version__,
        "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "best": max(results.values(), key=lambda result: result["top1"]),
        "info": info,
        "comparison": shown(table),
        "tables": [(frame["table"].iloc[0], for_readers(frame)) for frame in comparison.tables],
        "tables_note": NOTE,
        "noise_note": "" if several_seeds(comparison) else ONE_SEED,
        "several_seeds": several_seeds(comparison),
        "significance": comparison.significance,
        "published": comparison.published,
        "figures": figures,
        "models": models,
        "counts": facts.count_table(info),
        "costs": facts.cost_table(config),
        "links": facts.run_links(config),
        "uri": config.tracking.uri if config.tracking.backend == "mlflow" else "",
        "provenance": provenance(config, comparison, info),
        "config_text": facts.config_text(config),
    }


def model_section(
    config: Config, name: str, result: dict[str, Any], classes: list[str], figures: dict[str, Picture]
) -> dict[str, Any]:
    """A model's part of the page."""
    folder = config.paths.test(name)
    right, wrong = samples(config.run(name)[0], name, result, classes)
    drawn = {part: folder / f"{part}.png" for part in ("confusion", "per_class", "reliability")}
    return {
        "name": name,
        "result": result,
        "curves": figures.get(f"training_{name}"),
        "figures": {part: Picture.of(path) for part, path in drawn.items() if path.exists()},
        "confused": facts.confused_classes(config, name),
        "right": right,
        "wrong": wrong,
    }


def provenance(config: Config, comparison: Comparison, info: dict[str, Any]) -> dict[str, str]:
    """Where the numbers come from."""
    results = comparison.results.values()
    return {
        "code (this report)": git_sha() or "outside a git checkout",
        "code (tests)": ", ".join(sorted({result.get("git_sha") or "unknown" for result in results})),
        "config": f"{config.name}, sha {config_sha(config)}",
        "data set": f"{info['name']} ({info['source']}), fingerprint {info['fingerprint']}",
        "test protocol": ", ".join(sorted({protocol(result) for result in results})),
        "hardware": ", ".join(sorted({result.get("hardware", "unknown") for result in results})),
        "seed": ", ".join(map(str, config.seeds)),
    }


def protocol(result: Mapping[str, Any]) -> str:
    """How a model was tested, in words."""
    way = f"{result['test_units']} units into {result['units']}" if result["combinations"] else "one pass"
    if result["combinations"] == "all_units" or (result["combinations"] and result.get("clip_level")):
        way = f"{result['test_units']} units" + (
            ", each by itself" if result.get("clip_level") else " at once"
        )
    way += ", logits averaged" if result.get("average") == "logits" else ""
    size = f" of {result['crop_size']}" if result["crop_size"] else ""
    return f"{way}, up to {result['crops']} crops{size}, {result['precision']}, split {result['split']}"


def render(values: dict[str, Any]) -> str:
    """The page; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell_text
    environment.globals["numeric"] = lambda table, column: pd.api.types.is_numeric_dtype(table[column])
    return environment.get_template("template.html").render(values)
