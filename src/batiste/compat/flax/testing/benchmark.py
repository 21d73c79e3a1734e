"""``flax.testing.benchmark``: tests that report wall time and metrics, and fail only after they have.

The assertions of a test are collected, so that all of them are tried and the report is made. It is one line of JSON, in
the log and, where the flag ``--benchmark_output_dir`` is given, in a file there. The flags and the assertions are those
of absl, which is loaded with this module.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batiste.compat.flax._events import read_scalars
from batiste.compat.flax._packages import load

if TYPE_CHECKING:
    from unittest import TestCase as _TestCase
else:
    _TestCase = load("absl.testing.absltest", "flax.testing", "absl-py").TestCase

__all__ = ["Benchmark"]

_FLAGS: Any = load("absl.flags", "flax.testing", "absl-py")
_LOG: Any = load("absl.logging", "flax.testing", "absl-py")

if "benchmark_output_dir" not in _FLAGS.FLAGS:
    _FLAGS.DEFINE_string("benchmark_output_dir", None, "Where benchmarks write their reports.")


class Benchmark(_TestCase):
    """A test case whose failed assertions are raised after the report is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in dir(self):
            if name.startswith("assert") and callable(getattr(self, name)):
                setattr(self, name, self._collecting(getattr(self, name)))

    def setUp(self) -> None:
        """Begin a report."""
        super().setUp()
        self._failures: list[str] = []
        self._report: dict[str, Any] = {"metrics": {}, "extras": {}}

    def tearDown(self) -> None:
        """Make the report, and raise the collected failures as one."""
        super().tearDown()
        extras = self._report["extras"]
        if self._failures:
            extras = {**extras, "failed_assertions": "\n".join(self._failures)}
        report = {"name": self._name, "succeeded": not self._failures, **self._report, "extras": extras}
        line = json.dumps(report)
        _LOG.info(line)
        folder = _output_folder()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self._name}.json").write_text(line, encoding="utf-8")
        if self._failures:
            raise self.failureException("\n".join(self._failures))

    def get_tmp_model_dir(self) -> str:
        """Return a folder for this test: a new one, or one of its name under ``--benchmark_output_dir``."""
        folder = _output_folder()
        if folder is None:
            return tempfile.mkdtemp()
        own = folder / self._name
        own.mkdir(parents=True, exist_ok=True)
        return str(own)

    def has_outstanding_fails(self) -> bool:
        """Return whether an assertion has failed so far."""
        return bool(self._failures)

    def read_summaries(self, path: str) -> dict[str, list[tuple[float, int, float]]]:
        """Return, by tag, the time, the step and the value of each scalar in a folder's event files."""
        return read_scalars(path)

    def report_wall_time(self, wall_time: float) -> None:
        """Report how many seconds the test took."""
        self._report["wall_time"] = wall_time

    def report_metrics(self, metrics: dict[str, float]) -> None:
        """Report numbers by name."""
        self._report["metrics"].update(metrics)

    def report_metric(self, name: str, value: float) -> None:
        """Report a number."""
        self.report_metrics({name: value})

    def report_extras(self, extras: dict[str, str]) -> None:
        """Report texts by name."""
        self._report["extras"].update(extras)

    def report_extra(self, name: str, value: str) -> None:
        """Report a text."""
        self.report_extras({name: value})

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}.{self._testMethodName}"

    def _collecting(self, check: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(check)
        def collect(*args: Any, **kwargs: Any) -> Any:
            try:
                return check(*args, **kwargs)
            except self.failureException as failure:
                self._failures.append(str(failure))

        return collect


def _output_folder() -> Path | None:
    given = _FLAGS.FLAGS.benchmark_output_dir if _FLAGS.FLAGS.is_parsed() else None
    return None if given is None else Path(given)
