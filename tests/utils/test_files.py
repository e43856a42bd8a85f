"""Files are whole or not there."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from tests.support.project import environment
from v4d.errors import V4DError
from v4d.utils.files import (
    atomic_path,
    existing_folder,
    file_sha256,
    free_bytes,
    lock,
    open_lock_file,
    read_json,
    write_csv,
    write_json,
)


def test_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"old": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    with pytest.raises(V4DError, match="No space left on device") as error, atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(target) in str(error.value)
    assert read_json(target) == {"old": 1}


def test_kill_9_in_the_middle_of_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})
    code = (
        "import sys, time; from v4d.utils.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n"
        "    f = t.open('w'); f.write('half'); f.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, env=environment()
    )
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert read_json(target) == {"old": 1}


def test_two_writers_leave_one_whole_file(tmp_path):
    code = (
        "import sys; from v4d.utils.files import write_json\n"
        "for n in range(40): write_json(sys.argv[1], [int(sys.argv[2])] * 5000)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.json")]
    writers = [subprocess.Popen([*words, str(n)], env=environment()) for n in range(2)]
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "a.json").exists():
            value = read_json(tmp_path / "a.json")
            assert len(value) == 5000 and len(set(value)) == 1
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0, 0]


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(V4DError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(V4DError, match="no such file"):
        read_json(tmp_path / "b.json")


def test_a_folder_that_is_not_there_yet_lies_on_the_disk_of_the_one_above(tmp_path, monkeypatch):
    assert existing_folder(tmp_path) == existing_folder(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert existing_folder(Path("data/demo")) == tmp_path
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", {tmp_path: usage}.__getitem__)
    assert free_bytes(tmp_path / "data" / "demo") == usage.free


def test_a_lock_goes_with_its_descriptor(tmp_path):
    first, second = (open_lock_file(tmp_path / "lock") for _ in range(2))
    assert lock(first, shared=True) and lock(second, shared=True)
    assert not lock(second, wait=False)
    os.close(first)
    assert lock(second, wait=False)
    os.close(second)


def test_tables_and_digests(tmp_path):
    write_csv(tmp_path / "a" / "t.csv", pandas.DataFrame({"x": [1, 2]}, index=[7, 8]))
    path = tmp_path / "a/t.csv"
    assert path.read_text() == "x\n1\n2\n"
    assert file_sha256(path) == hashlib.sha256(b"x\n1\n2\n").hexdigest()
