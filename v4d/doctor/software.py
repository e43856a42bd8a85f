"""Python, packages, ffmpeg, and where metrics go."""

import importlib
import importlib.metadata
import platform
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

from v4d.doctor.finding import FAIL, OK, WARN, Finding, checked
from v4d.errors import V4DError
from v4d.utils.ffmpeg import codecs, ffmpeg_binary, ffmpeg_version, why_unsuitable

if TYPE_CHECKING:
    from v4d.config import Config


DECODERS = {
    "h264": ("h264",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("av1", "libdav1d", "libaom-av1"),
    "hevc": ("hevc",),
}
"""Codecs of videos, and the decoders of ffmpeg that read them."""


def check_python() -> Finding:
    """The version, for the record: the package does not install on a Python older than 3.11."""
    return Finding(OK, "python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def check_packages() -> Iterator[Finding]:
    """Every dependency in a version that will do; torch and torchvision of one build."""
    advice = "pip install -r envs/requirements.lock"
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding(FAIL, "packages", "missing: packaging", advice)
        return
    absent, old, known = [], [], []
    for line in importlib.metadata.requires("v4d") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(requirement.name)
            continue
        known.append(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            old.append(f"{requirement.name} {version}, {requirement.specifier} is needed")
    if absent:
        yield Finding(FAIL, "packages", f"missing: {', '.join(absent)}", advice)
    if old:
        yield Finding(FAIL, "packages", "; ".join(old), advice)
    if not absent and not old:
        yield Finding(OK, "packages", f"{len(known)} of {len(known)} dependencies are there")
    yield check_torch()
    yield check_decoders()


def check_torch() -> Finding:
    """Whether torch and torchvision import together."""
    try:
        torch = importlib.import_module("torch")
        torchvision = importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError, OSError or ImportError, by what does not fit
        found = f"does not import: {str(error).splitlines()[0][:120]}"
        return Finding(FAIL, "torch", found, "install torch and torchvision of one build")
    return Finding(OK, "torch", f"{torch.__version__}, torchvision {torchvision.__version__}")


def check_decoders() -> Finding:
    """Whether PyAV imports, and decord where there is one."""
    names = []
    for name in ("av", "decord"):
        try:
            names.append(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:
            if name == "av":
                advice = "pip install av; frames.decoder auto needs it"
                return Finding(FAIL, "decoders", f"PyAV does not import: {error}", advice)
    return Finding(OK, "decoders", ", ".join(names))


def check_ffmpeg() -> Iterator[Finding]:
    """A binary that runs, is new enough and has what clips need."""
    advice = "put ffmpeg 5.1 or later on PATH, or pip install imageio-ffmpeg, or set V4D_FFMPEG"
    try:
        binary = ffmpeg_binary()
        found = f"{ffmpeg_version(binary)} ({binary})"
        decoders = codecs(binary, "decoders")
    except V4DError as error:
        yield Finding(FAIL, "ffmpeg", str(error), advice)
        return
    if why_unsuitable(binary):
        yield Finding(FAIL, "ffmpeg", f"{found} {why_unsuitable(binary)}", advice)
        return
    absent = [codec for codec, names in DECODERS.items() if not decoders.intersection(names)]
    found += f"; no decoder for {', '.join(absent)}" if absent else ""
    yield checked(not absent, "ffmpeg", found, "such videos will be corrupt")


def check_source(config: "Config") -> Iterator[Finding]:
    """What the source of the videos needs."""
    from v4d.datasets import open_source

    for needed in open_source(config.dataset).requirements():
        yield Finding(FAIL if needed.advice else OK, needed.what, needed.found, needed.advice)


def check_server(uri: str) -> Finding:
    """A tracking server that answers."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return Finding(OK, "mlflow", f"{uri} answers {answer.status}")
    except urllib.error.HTTPError as error:
        advice = "start the server with --allowed-hosts" if error.code == 403 else "is it an MLflow server?"
        return Finding(WARN, "mlflow", f"{uri} answers {error.code}", advice)
    except (OSError, ValueError) as error:
        advice = "training goes on without it and keeps its metrics for `v4d tracking-sync`"
        return Finding(WARN, "mlflow", f"{uri}: {getattr(error, 'reason', error)}", advice)


def check_port(port: int) -> Finding:
    """Whether `mlflow ui` can have its port."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return Finding(WARN, "mlflow", f"port {port} is taken", f"mlflow ui --port {port + 1}")
    return Finding(OK, "mlflow", f"port {port} is free for `mlflow ui`")
