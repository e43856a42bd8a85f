import http.server
import os
import socket
import threading
from pathlib import Path

import pytest
import torch

from v4d import cli, config
from v4d.doctor import FAIL, OK, WARN, examine
from v4d.doctor.hardware import check_cudnn, check_disk, check_gpus, check_locks, cpu_quota, needed_bytes
from v4d.doctor.software import check_ffmpeg, check_packages, check_port, check_server, check_source
from v4d.utils.ffmpeg import ffmpeg_binary


def stub(path: Path, version: str, encoders: str = "libx264", decoders: str = "h264 vp9 av1 hevc") -> str:
    """An ffmpeg that only lists what it has."""
    lists = {"encoders": encoders, "decoders": decoders}
    cases = "".join(
        f"*-{kind}*) printf ' V....D %s x\\n' {names};;\n" for kind, names in lists.items() if names
    )
    cases += f"*-version*) echo 'ffmpeg version {version} Copyright';;\n"
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\n')
    path.chmod(0o755)
    return str(path)


def test_every_line_has_a_state_and_where_it_is_not_ok_says_what_to_do():
    findings = list(examine())
    for finding in findings:
        assert finding.state in (OK, WARN, FAIL)
        assert bool(finding.advice) == (finding.state != OK)
        assert "\n" not in str(finding)
    kinds = {finding.what for finding in findings}
    assert kinds >= {"python", "packages", "torch", "decoders", "ffmpeg"}
    assert kinds >= {"cores", "memory", "disk", "folder", "mlflow"}
    assert torch.cuda.is_available() or "gpu" in kinds


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [
        ({"version": "7.1-static"}, OK, "7.1-static"),
        ({"version": "n9.0.2-17-g2a571b6068"}, OK, "n9.0.2"),
        ({"version": "N-118000-gdeadbeef"}, OK, "N-118000"),  # a nightly build has no number
        ({"version": "4.4.2-0ubuntu0.22.04.1"}, FAIL, "too old"),
        ({"version": "5.0"}, FAIL, "too old"),
        ({"version": "7.1", "encoders": "libopenh264"}, FAIL, "no encoder libx264"),
        ({"version": "7.1", "decoders": "h264 hevc libdav1d"}, WARN, "no decoder for vp9"),
    ],
)
def test_an_ffmpeg_that_will_not_do_is_told_apart(tmp_path, monkeypatch, options, state, words):
    monkeypatch.setenv("V4D_FFMPEG", stub(tmp_path / "ffmpeg", **options))
    [finding] = check_ffmpeg()
    assert finding.state == state and words in finding.found


def test_a_key_without_effect_is_a_warning_with_what_to_set():
    demo = config.read("config/config.yaml")
    overlay = {"testing": {"units": 3}, "training": {"schedule": {"warmup_epochs": 1}}}
    found = list(examine(config.build(config.resolve(config.merge(demo, overlay)))))
    notes = [finding for finding in found if finding.what == "config"]
    assert [finding.state for finding in notes] == [WARN] * 5  # two models by units, three by the warm-up
    assert {finding.advice for finding in notes if "testing.units 3" in finding.found} == {"set 4 or more"}
    assert not [finding for finding in examine(config.load("config/config.yaml")) if finding.what == "config"]


def test_an_ffmpeg_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("V4D_FFMPEG", str(tmp_path / "nothing"))
    [finding] = check_ffmpeg()
    assert finding.state == FAIL and "V4D_FFMPEG" in finding.found


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"version": "4.4.2-0ubuntu0.22.04.1"}, False),
        ({"version": "7.1", "encoders": "libopenh264"}, False),
        ({"version": "6.1"}, True),
    ],
)
def test_an_ffmpeg_on_path_that_will_not_do_is_passed_over(tmp_path, monkeypatch, options, taken):
    monkeypatch.delenv("V4D_FFMPEG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = stub(tmp_path / "ffmpeg", **options)
    assert (ffmpeg_binary() == path) == taken


def test_the_packages_here_are_those_that_are_needed():
    assert all(finding.state == OK for finding in check_packages())


@pytest.mark.parametrize(
    ("version", "state"),
    [(90_701, OK), (90_800, WARN), (91_002, WARN), (91_400, WARN), (91_500, OK), (92_400, OK)],
)
def test_cudnn_versions_that_are_known_to_be_wrong(version, state):
    assert check_cudnn(version).state == state


def test_cudnn_versions_are_written_as_people_do():
    assert check_cudnn(91_002).found == "9.10.2"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpus_are_listed_and_their_convolutions_checked():
    kinds = [finding.what for finding in check_gpus()]
    assert kinds.count("gpu") == kinds.count("convolutions") == torch.cuda.device_count()
    assert "cudnn" in kinds


def test_disk(tmp_path):
    assert check_disk(tmp_path / "not/yet/there", 1.0).state == OK
    finding = check_disk(tmp_path, 1e18)
    assert finding.state == FAIL and "1,000,000,000.0 GB are needed" in finding.advice


def test_what_is_on_the_disk_already_is_not_needed_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = config.build(config.resolve({"name": "d", "dataset": {"name": "d", "source": "synthetic"}}))
    before = needed_bytes(settings)
    (tmp_path / "data/d").mkdir(parents=True)
    (tmp_path / "data/d/x").write_bytes(bytes(1_000_000))
    assert before - needed_bytes(settings) == pytest.approx(1_000_000)


def test_a_folder_that_can_be_locked(tmp_path):
    assert check_locks(tmp_path).state == OK


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None), ("nonsense", None)]
)
def test_the_containers_quota(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cores
    assert cpu_quota(tmp_path / "none") is None


def test_a_port_that_is_taken():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        finding = check_port(port)
        assert finding.state == WARN and f"--port {port + 1}" in finding.advice
    assert check_port(port).state == OK


def test_a_tracking_server_that_answers_refuses_or_is_not_there():
    class Answer(http.server.BaseHTTPRequestHandler):
        code = 200

        def do_GET(self):
            self.send_response(self.code)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    assert check_server(uri).state == OK
    Answer.code = 403
    assert "--allowed-hosts" in check_server(uri).advice
    server.shutdown()
    server.server_close()
    assert check_server(uri).state == WARN


def test_the_command_exits_by_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 10
    monkeypatch.setenv("V4D_FFMPEG", stub(tmp_path / "ffmpeg", "4.2"))
    assert cli.main(["doctor"]) == 1
    output = capsys.readouterr()
    assert output.err == "v4d doctor: error: 1 of these must be put right, first ffmpeg\n"
    assert "fail ffmpeg" in output.out


def test_yt_dlp_and_its_cookies_where_youtube_is_wanted(tmp_path, monkeypatch):
    def check(**kinetics) -> list:
        dataset = {"name": "k", "source": "kinetics", "kinetics": kinetics}
        return list(check_source(config.build(config.resolve({"name": "k", "dataset": dataset}))))

    installed = tmp_path / "yt_dlp-2026.1.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: yt-dlp\nVersion: 2026.1.1\n")
    assert check() == []
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [str(f) for f in check(youtube=True)] == ["ok   youtube       yt-dlp 2026.1.1"]
    (lost,) = check(youtube=True, cookies=str(tmp_path / "no.txt"))
    assert lost.state == FAIL and "no.txt" in str(lost)
    monkeypatch.setattr("sys.path", [])
    (absent,) = check(youtube=True)
    assert absent.state == FAIL and "v4d[youtube]" in str(absent)
