"""The report as a browser shows it: whole, quiet, and without network."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from tests.support.made_by_hand import NASTY, NASTY_CLASSES
from v4d import config as configuration
from v4d.cli import main
from v4d.data.sampling import eval_indices
from v4d.data.shards import ShardReader
from v4d.plotting import curves, plots
from v4d.report import tables as facts
from v4d.report.comparison import compare
from v4d.report.example_videos import jpeg_address, samples, thumbnails
from v4d.report.page import TEMPLATE_FOLDER, accuracy_rows
from v4d.report.tables import cost_table

TABLES = 8
"""Models, significance, confused classes of three models, data set, time, origin."""


def chromium() -> str:
    """The browser; CI installs it, so that there its missing_reason is a failure."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    if os.environ.get("CI") == "true":
        pytest.fail("no Chromium on PATH, which CI must install")
    pytest.skip("no Chromium on PATH; `apt-get install chromium` brings it")


@pytest.fixture(scope="module")
def project(tested_project, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reported") / "project"
    shutil.copytree(tested_project, folder)
    state = {"run_id": "0123456789abcdef", "uri": "sqlite:///mlflow.db"}
    (folder / "results/hand/colour/mlflow_run.json").write_text(json.dumps(state))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["report", "--config", "config.yaml"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(project) -> str:
    return (project / "results/hand/report.html").read_text(encoding="utf-8")


class Parts(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self.cell = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        self.text += data
        if getattr(self, "cell", False):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def browse(page: Path, *options: str, size: str = "1200,900") -> tuple[str, list[str]]:
    """The document after loading, and what the console said."""
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent}/profile", f"--window-size={size}", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_all_of_it_in_silence(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    document, console = browse(path, "--dump-dom")
    assert console == []
    parts = Parts(document)
    assert len(parts.all("table")) == TABLES
    assert document.count("</html>") == 1
    assert len(parts.all("script")) == 0


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen_and_every_picture_is_drawn(page, tmp_path, width):
    """Measured by a script inside, for which the page's own policy has to be opened."""
    measure = """<iframe id="view" style="width: WIDTHpx; height: 900px" src="report.html"></iframe>
    <script>addEventListener("load", () => {
      const page = document.getElementById("view").contentDocument;
      const root = page.documentElement;
      const images = [...page.images].map(i => i.naturalWidth > 0 && i.complete);
      const loads = document.getElementById("view").contentWindow.performance
        .getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"));
      document.title = JSON.stringify({over: root.scrollWidth - root.clientWidth,
        width: root.clientWidth, images: images, loads: loads});
    })</script>"""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"<!DOCTYPE html><style>iframe {{ border: 0 }}</style>{measure.replace('WIDTH', str(width))}"
    )
    document, console = browse(
        tmp_path / "frame.html", "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"
    )
    assert console == []
    found = json.loads(html.unescape(re.search("<title>(.*)</title>", document).group(1)))
    assert width - 20 < found["width"] <= width  # a scroll bar
    assert found["over"] == 0  # tables scroll inside, the page does not
    assert len(found["images"]) > 20
    assert all(found["images"])
    assert found["loads"] == []


def test_the_test_would_notice_a_request(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page.replace("<main>", '<main><img src="http://localhost:9/x.png">'), encoding="utf-8")
    _, console = browse(path, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)


def test_it_prints(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    _, console = browse(path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path}/report.pdf")
    assert console == []
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_in_it_points_outside(page):
    parts = Parts(page)
    for tag, attributes in parts.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert "url(" not in (TEMPLATE_FOLDER / "report.css").read_text()
    assert "@import" not in page


def test_it_says_what_was_run_and_what_came_of_it(page, project):
    parts = Parts(page)
    rows = [[cell.strip() for cell in row] for row in parts.rows]
    for name in ("colour", "random", "staged"):
        result = json.loads((project / f"results/hand/{name}/test/metrics.json").read_text())
        assert any(row[0] == name and f"{result['top1']:.1f}" in row for row in rows)
    assert ["val", "20", "18", "90.0", "1", "1"] in rows  # annotated, usable, corrupt, missing
    times = {row[0] for row in rows if row[0].startswith(("train", "test "))}
    assert {"train staged: first", "train staged: last", "test colour", "test random"} <= times
    for word in ("fingerprint", "Temporal order", "McNemar", "0123456789abcdef", "mlflow ui", "frame_stride"):
        assert word in parts.text, word
    alts = [image.get("alt") for image in parts.all("img")]
    assert "training curves of staged" in alts
    assert alts.count("unit 1") >= 6  # thumbnails of every unit
    assert (project / "results/hand/plots/training_staged.svg").exists()
    assert {p.stem for p in (project / "results/hand/plots").iterdir()} >= {"accuracies", "temporal_order"}


def test_names_from_outside_are_text_and_nothing_else(page):
    assert "<script" not in page
    assert NASTY in Parts(page).text
    assert NASTY not in page  # only in escaped form


def test_it_is_written_without_frames_training_or_runs(project, tmp_path, monkeypatch):
    folder = tmp_path / "bare"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    shutil.rmtree("data/colours/frames")
    for path in Path("results/hand/staged").glob("*/metrics.json"):
        if path.parent.name != "test":
            path.unlink()
    Path("results/hand/colour/mlflow_run.json").unlink()
    for path in Path("results/hand").glob("*/test/*.png"):
        path.unlink()
    assert main(["report", "--config", "config.yaml"]) == 0
    parts = Parts(Path("results/hand/report.html").read_text())
    assert "The frames are no longer there" in parts.text
    assert "MLflow runs" not in parts.text
    assert "unit 1" not in [image.get("alt") for image in parts.all("img")]


def test_curves_and_bars_are_the_numbers(project, monkeypatch):
    monkeypatch.chdir(project)
    folder = Path("results/hand/staged")
    stages = [json.loads((folder / name / "metrics.json").read_text()) for name in ("first", "last")]
    loss = curves.training_curves(stages).axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in loss.get_lines()}
    epochs = [epoch for stage in stages for epoch in stage["epochs"]]
    for name, key in {"training": "train/loss", "validation": "val/loss"}.items():
        assert lines[name] == [epoch[key] for epoch in epochs]

    comparison = compare(configuration.load("config.yaml"))
    axes = plots.accuracies(accuracy_rows(comparison)).axes[0]
    (bars,), errors = (
        [c for c in axes.containers if isinstance(c, kind)] for kind in (BarContainer, ErrorbarContainer)
    )
    results = comparison.results.values()
    assert [bar.get_width() for bar in bars] == [result["top1"] for result in results]
    for error, result in zip(errors, results, strict=True):
        low, high = error.lines[2][0].get_segments()[0][:, 0]
        assert [low, high] == pytest.approx(result["top1_interval"])


def test_samples_are_right_ones_and_the_worst_wrong_ones_as_the_network_saw_them(project, monkeypatch):
    monkeypatch.chdir(project)
    config = configuration.load("config.yaml")
    folder = Path("results/hand/random/test")
    result = json.loads((folder / "metrics.json").read_text())
    right, wrong = samples(config, "random", result, NASTY_CLASSES)
    table = pd.read_parquet(folder / "predictions.parquet").set_index("video_id")
    mistakes = table[table["label_rank"] > 0].sort_values("confidence", ascending=False, kind="stable")
    assert [video.video_id for video in wrong] == list(mistakes.index[:3])
    assert all(table.loc[video.video_id, "label_rank"] == 0 and video.right for video in right) and right
    for video in wrong:
        assert not video.right and video.best[0][0] != video.label
        assert video.best[0][1] == pytest.approx(100 * mistakes.loc[video.video_id, "confidence"])

    name = table.index[table.index.str.startswith("video-")][0]  # one that moves
    shard = Path("data/colours/frames/val") / f"{table.loc[name, 'part']}.lmdb"
    frames = eval_indices(40, 5, 3, 2)[:, 1]
    expected = [jpeg_address(picture) for picture in ShardReader(shard).frames(name, frames)]
    assert thumbnails(shard, name, result, centred=False) == expected
    assert len(set(expected)) == 5


def test_runs_on_a_server_are_links(project, tmp_path, monkeypatch):
    """What the links of a real server are: tests/test_tracking.py."""
    folder = tmp_path / "linked"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    url = "https://runs.example/#/experiments/1/runs/abc"
    monkeypatch.setattr(facts, "run_links", lambda _: [{"model": "colour", "run_id": "abc", "url": url}])
    assert main(["report", "--config", "config.yaml"]) == 0
    parts = Parts(Path("results/hand/report.html").read_text())
    assert [a["href"] for a in parts.all("a") if not a["href"].startswith("#")] == [url]
    assert "mlflow ui" not in parts.text


def test_names_of_classes_are_text_and_a_plot_of_a_model_that_is_gone_goes(project, tmp_path, monkeypatch):
    folder = tmp_path / "named"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    confused = Path("results/hand/colour/test/confused.csv")
    confused.write_text("label,predicted,videos,share\n007,nan,3,50.0\n")
    Path("results/hand/plots/training_gone.svg").write_text("<svg/>")
    assert main(["report", "--config", "config.yaml"]) == 0
    rows = Parts(Path("results/hand/report.html").read_text()).rows
    assert ["007", "nan", "3", "50.0"] in [[cell.strip() for cell in row] for row in rows]
    assert not Path("results/hand/plots/training_gone.svg").exists()


def test_time_and_memory_are_what_stages_and_snakemake_measured(project, tmp_path, monkeypatch):
    folder = tmp_path / "measured"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    for name in ("train/staged/last", "test/colour"):
        benchmark = Path("results/hand/benchmarks") / f"{name}.tsv"
        benchmark.parent.mkdir(parents=True)
        benchmark.write_text("s\th:m:s\tmax_rss\n30.1\t0:00:30\t2048.0\n")
    parts = Path("data/colours/benchmarks/clips/val")
    parts.mkdir(parents=True)
    for number, memory in enumerate((1024, "-")):  # a job too short to be measured
        row = f"s\tmax_rss\tcpu_time\n1800\t{memory}\t3600\n"
        (parts / f"part_{number}.tsv").write_text(row)
    costs = cost_table(configuration.load("config.yaml")).set_index("stage")
    memory = costs["peak_memory_gb"]
    assert memory["train staged: last"] == memory["test colour"] == 2
    assert memory[["train staged: first", "test random"]].isna().all()
    clips = costs.loc["data: clips"]
    assert (clips["jobs"], clips["hours"], clips["device_hours"], clips["peak_memory_gb"]) == (2, 1, 2, 1)
    first = costs.loc["train staged: first"]  # 15 seconds, two processes
    assert (first["hours"], first["device_hours"]) == pytest.approx((15 / 3600, 30 / 3600))
