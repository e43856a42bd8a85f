"""The journal of a run: JSON lines beside the results, sent on in the background, in batches.

    results/<name>/<model>/tracking.jsonl     the journal
    results/<name>/<model>/mlflow_run.json    the run's id, and how many bytes of the journal the tracker has

A tracker that is away costs a warning. What it missed is sent as soon as it answers, by the next stage of the
model, or by `v4d tracking-sync`.

Of training's curves, a point that the journal holds already is not written again: a training that was
killed and goes on from its last checkpoint repeats some steps, and must not show them twice. What was
sent twice because a kill came between sending and noting keeps its time stamp, and MLflow stores an
identical point once.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from v4d.errors import V4DError
from v4d.tracking.base import Backend, Entry, Tracker
from v4d.utils.addresses import without_secrets
from v4d.utils.files import read_json, write_json, write_text

JOURNAL = "tracking.jsonl"
PUSH_SECONDS = 2.0
"""Seconds between two looks into the journal."""
PATIENCE_SECONDS = 600.0
"""How long `close` waits for a slow upload; for a tracker that does not answer it does not wait."""


def forget_stages(state_file: Path, keep: set[str], aside: Path) -> None:
    """Have the next tracker begin a new run that knows of the stages in `keep` only.

    For a stage that is trained anew with other settings: a run shows one training, not two on top of each
    other. The old journal and the old run's id move to the folder `aside`; the old run stays in MLflow.
    """
    journal = state_file.with_name(JOURNAL)
    entries = _read_journal(journal)
    kept = [entry for entry in entries if entry.get("stage") in keep]
    if entries and len(kept) == len(entries):
        return
    for path in (journal, state_file):
        if path.exists() and not (aside / path.name).exists():
            write_text(aside / path.name, path.read_text(encoding="utf-8"))
    # Killed before the last line, it is all done again.
    state_file.unlink(missing_ok=True)
    if entries:
        write_text(journal, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept))


class JournalTracker(Tracker):
    """Writes the journal, and pushes it from a thread of its own."""

    def __init__(self, pusher: "Pusher", stage: str):
        self.pusher, self.stage = pusher, stage
        _mend(pusher.journal_file)
        metrics = (entry for entry in _read_journal(pusher.journal_file) if entry["kind"] == "metric")
        self._known = {(entry["key"], entry["step"]) for entry in metrics}
        # Unbuffered: what a full disk did not take is known to the byte.
        self._journal = pusher.journal_file.open("ab", buffering=0)
        self._unwritten, self._writing = b"", threading.Lock()
        self._monitor: Any = None
        self._closing = threading.Event()
        self.pusher.warm_up()  # imports of several seconds do not belong beside the first training step
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The run's id; None until the tracker has answered once."""
        return self.pusher.run_id

    def log_metrics(self, metrics: dict[str, float], step: int, *, once: bool = False) -> None:
        """Numbers at a step; `once` leaves out points that the journal holds already."""
        fresh = {k: v for k, v in metrics.items() if not once or (k, step) not in self._known}
        self._known |= {(key, step) for key in fresh}
        super().log_metrics(fresh, step)

    def start_system_metrics(self) -> None:
        """Needs the run to exist: where the server does not answer yet, there are none."""
        if self.run_id is None:
            return
        with contextlib.suppress(Exception):  # a machine whose counters cannot be read is no reason to stop
            self._monitor = self.pusher.backend.monitor(self.run_id)

    def close(self, status: str = "FINISHED") -> None:
        """Send what is left, for at most `PATIENCE_SECONDS`."""
        if self._closing.is_set():
            return
        if self._monitor is not None:
            self._monitor.finish()
        if status != "RUNNING":
            self._write([{"kind": "status", "value": status}])
        self._closing.set()
        self._thread.join(PATIENCE_SECONDS)
        self._journal.close()
        if self._unwritten:
            lost = self._unwritten.count(b"\n")
            print(f"tracking: {self.pusher.journal_file} lacks the last {lost} entries", file=sys.stderr)
        if self._thread.is_alive() or self.pusher.pending():
            left = "did not take everything; `v4d tracking-sync` sends the rest"
            print(f"tracking: {self.pusher.uri} {left}", file=sys.stderr)

    def _write(self, entries: Iterable[Entry]) -> None:
        """Append whole lines in one call, so that a kill leaves at most the last line torn."""
        noted = ({"stage": self.stage, **entry} for entry in entries)
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in noted)
        self._append(lines.encode())

    def _append(self, lines: bytes = b"") -> None:
        """Write lines, and before them what was not written; a disk that takes nothing is a warning."""
        with self._writing:
            late, self._unwritten = bool(self._unwritten), self._unwritten + lines
            try:
                while self._unwritten:
                    self._unwritten = self._unwritten[self._journal.write(self._unwritten) :]
            except OSError as error:
                if not late:
                    file = self.pusher.journal_file
                    why = f"{file} cannot be written ({error.strerror}); its entries are kept in memory"
                    print(f"tracking: {why}; training goes on", file=sys.stderr)

    def _run(self) -> None:
        while not self._closing.wait(PUSH_SECONDS):
            self._append()
            self.pusher.push()
        self._append()
        self.pusher.push()


class Pusher:
    """Sends journal entries to a backend and remembers how far it is."""

    def __init__(self, backend: Backend, experiment: str, run_name: str, state_file: Path):
        self.backend, self.uri, self.experiment = backend, backend.uri, experiment
        self.run_name, self.state_file = run_name, state_file
        self.journal_file = state_file.with_name(JOURNAL)
        self.journal_file.parent.mkdir(parents=True, exist_ok=True)
        state = read_json(state_file) if state_file.exists() else {}
        if (
            without_secrets(state.get("uri", self.uri)) != self.uri
        ):  # another server knows nothing of the old run
            state = {}
        self.run_id: str | None = state.get("run_id")
        self.offset: int = state.get("journal_bytes", 0)
        self._opened = False
        self.problem = ""
        """Why the last try failed."""
        self._warned_of: set[bool] = set()
        self._next_try = 0.0
        self._wait = PUSH_SECONDS

    def warm_up(self) -> None:
        """Open the run; a tracker that is away is tried again later."""
        with self._tolerant():
            self._open_run()

    def pending(self) -> bool:
        """Whether there is a whole line more. A torn one is one that is being written, or a kill left it."""
        if not self.journal_file.exists():
            return False
        with self.journal_file.open("rb") as journal:
            journal.seek(self.offset)
            return journal.readline().endswith(b"\n")

    def push(self) -> None:
        """Send everything that the journal holds; a failure is a warning, once a kind, and a later try."""
        if not self.pending() or time.monotonic() < self._next_try:
            return
        with self._tolerant():
            run_id = self._open_run()
            while self._push_batch(run_id):
                pass

    def _push_batch(self, run_id: str) -> bool:
        with self.journal_file.open("rb") as journal:
            journal.seek(self.offset)
            lines = journal.readlines(1 << 20)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # still being written
        if not lines:
            return False
        entries = [json.loads(line) for line in lines]
        while entries:
            count = self.backend.send(run_id, entries)
            self.offset += sum(map(len, lines[:count]))
            self._remember()
            entries, lines = entries[count:], lines[count:]
        return True

    def _open_run(self) -> str:
        """Create the run, or open the one that `state_file` names; its id."""
        if not self._opened or self.run_id is None:
            known = self.run_id
            self.run_id = self.backend.open(known, self.run_name)
            if known is None:
                self.offset = 0
            self._opened = True
            self._remember()
        return self.run_id

    def _remember(self) -> None:
        state = {"run_id": self.run_id, "uri": self.uri, "experiment": self.experiment}
        write_json(self.state_file, state | {"run_name": self.run_name, "journal_bytes": self.offset})

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
            self._wait = PUSH_SECONDS
        except Exception as error:
            self.problem = explained(self.backend, error)
            away = self.backend.is_away(error)
            if away not in self._warned_of:
                print(f"tracking: {self.problem}; training goes on", file=sys.stderr)
            self._warned_of.add(away)
            self._wait = min(2 * self._wait, 60.0)
            self._next_try = time.monotonic() + self._wait


def explained(backend: Backend, error: Exception) -> str:
    """What went wrong, in a line: the tracker does not answer, its client or a file beside it has failed."""
    if isinstance(error, V4DError):
        return str(error)
    why = without_secrets((str(error).strip() or type(error).__name__).split("\n")[0])[:200]
    if backend.is_away(error):
        return f"{backend.uri} does not answer ({why})"
    return f"{backend.uri}: its client failed ({type(error).__name__}: {why}), which is tried again"


def _read_journal(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # Not splitlines(), which knows more ends of lines than JSON does.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _mend(path: Path) -> None:
    """Cut a last line that a kill left torn."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
