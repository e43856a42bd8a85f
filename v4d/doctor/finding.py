"""A line of the doctor's report."""

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """What was checked and found; `advice` says what to do, and is empty where all is well."""

    state: str
    what: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.state:<5}{self.what:<14}{self.found}"
        return f"{text}: {self.advice}" if self.advice else text


def checked(good: bool, what: str, found: str, advice: str) -> Finding:
    """`ok` where it is good, else `warn` with the advice."""
    return Finding(OK, what, found) if good else Finding(WARN, what, found, advice)
