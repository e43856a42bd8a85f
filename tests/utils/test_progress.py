"""Progress in a log file: every item passes, and a line says how far it is."""

import re

import pytest

from v4d.utils import progress as lines
from v4d.utils.progress import LogLines, progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What `time.monotonic` says; a test moves it."""
    now = [100.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    return now


def test_items_pass_and_the_last_line_has_the_count(capsys):
    assert list(progress([1, 2, 3], what="test", unit="videos")) == [1, 2, 3]
    assert re.fullmatch(r"test: 3/3 videos, [\d.]+ videos/s, done in \d+ s\n", capsys.readouterr().err)


def test_a_line_has_the_rate_and_the_time_left_and_comes_now_and_then(capsys, clock):
    log = LogLines("clips", 480, "clips")
    log.update(100)
    assert capsys.readouterr().err == ""
    clock[0] += lines.LOG_SECONDS
    log.update(20)
    assert capsys.readouterr().err == "clips: 120/480 clips, 8.0 clips/s, 0:45 left\n"
    log.update(360)
    assert capsys.readouterr().err == ""


def test_without_a_total_there_is_no_time_left(capsys, clock):
    log = LogLines("archive", None, "videos")
    clock[0] += 2.0
    log.done = 4
    log.close()
    assert capsys.readouterr().err == "archive: 4 videos, 2.0 videos/s\n"
