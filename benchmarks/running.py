"""Running rows: who agrees with raw JAX first, then every contender in turn, in a new order each round.

A row stops before anything is timed if a contender computes something else than raw JAX. A peer that is not installed,
or that fails, is named with its reason, and the row goes on without it.
"""

import dataclasses
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import models, results, worker
from benchmarks.models.contract import Spec
from benchmarks.rows import Row, partners

Say = Callable[[str], None]


class MismatchError(Exception):
    """A contender does not compute what raw JAX computes."""


def environment(extra: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return the environment of a worker: one CPU backend, no program kept from earlier processes, bytecode as ever."""
    dropped = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    kept.setdefault("JAX_PLATFORMS", "cpu")
    return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"} | dict(extra)


def absent(contender: str) -> str:
    """Return why a contender cannot take part; "" if it can."""
    found = models.CONTENDERS[contender]
    return "" if models.installed(contender) else f"{found.package} is not installed"


@dataclasses.dataclass
class Runner:
    """Runs rows, and remembers what was already checked.

    Attributes:
      rounds: how often every contender of a row runs.
      quick: small models, for a look at whether everything works.
      long: with the contenders that compile for minutes.
      peers: which peers take part.
      say: where a line about progress goes.
    """

    rounds: int
    quick: bool
    long: bool
    peers: Sequence[str]
    say: Say
    _checked: dict[tuple[Spec, bool, str], str] = dataclasses.field(default_factory=dict)

    def check(self, row: Row, contenders: Sequence[str]) -> dict[str, str]:
        """Return who fails to compute at all, with the reason.

        Raises:
          MismatchError: someone computes something else than raw JAX.
        """
        failed: dict[str, str] = {}
        cases = [(row.quick, True)] if self.quick else [(row.quick, True), (row.spec, False)]
        for spec, train in cases:
            if spec is None:
                continue
            new = [each for each in contenders if each != "raw" and (spec, train, each) not in self._checked]
            if new:
                job = {"measure": "compare", "spec": worker.describe(spec), "contenders": new, "train": train}
                for contender, wrong in worker.start(job, environment()).items():
                    self._checked[spec, train, contender] = wrong
            for contender in contenders:
                wrong = self._checked.get((spec, train, contender), "")
                if wrong.startswith(models.FAILED) and contender != "batiste":
                    failed[contender] = wrong.removeprefix(models.FAILED)
                elif wrong:
                    message = f"{row.name}: {contender}: {wrong}"
                    raise MismatchError(message)
        return failed

    def run(self, row: Row) -> dict[str, Any]:
        """Measure a row and return its figures, as its file has them."""
        wanted = partners(row, self.peers, long=self.long)
        missing = {contender: why for contender in wanted if (why := absent(contender))}
        present = [contender for contender in wanted if contender not in missing]
        missing |= self.check(row, present)
        present = [contender for contender in present if contender not in missing]
        spec = row.quick if self.quick else row.spec
        samples: list[dict[str, dict[str, float]]] = []
        for round_ in range(self.rounds):
            order = list(present)
            random.Random(f"{row.name} {round_}").shuffle(order)  # noqa: S311 - an order, not a secret
            sample: dict[str, dict[str, float]] = {}
            for contender in order:
                if contender not in missing:
                    self.say(f"{row.name}: round {round_ + 1} of {self.rounds}, {contender}")
                    job = {"measure": row.measure, "contender": contender, "spec": worker.describe(spec)}
                    job["repeats"] = 1 if self.quick else row.repeats
                    try:
                        sample[contender] = worker.start(job, environment(row.environment))
                    except worker.WorkerError as error:
                        missing[contender] = str(error).splitlines()[-1]
            samples.append(sample)
        return {
            "title": row.title,
            "measure": row.measure,
            "rounds": self.rounds,
            "quick": self.quick,
            "spec": worker.describe(spec),
            "machine": results.machine(),
            "absent": missing,
            "samples": samples,
        }
