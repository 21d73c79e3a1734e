"""Attack one target with atheris, in a process that ends with it; started by ``tests.fuzz``."""

import hashlib
import random
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["batiste"]):
    from tests.fuzz.targets import TARGETS, bounded_memory

SLOWEST = 20  # seconds for one input
MEMORY = 4096  # MB of the whole process


def attack(name, out, seconds):
    """Fuzz one target until its time is over; this process ends with it."""
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix=f"batiste-fuzz-{name}-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    (folder / "work").mkdir()
    with atheris.instrument_imports(include=["batiste"]):  # what loads when it is first needed
        for number, seed in enumerate(target.seeds(folder / "work")):
            (corpus / str(number)).write_bytes(seed)
            target.use(target.write(seed, folder / "work"))

    def once(data):
        try:
            path = target.write(data, folder / "work")
            with bounded_memory():
                target.use(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            note(error, data, out, name)

    def mutate(data, size, seed):
        choice = random.Random(seed)  # noqa: S311 - no secret
        changed = target.mutate(data, choice) if choice.random() < 0.7 else atheris.Mutate(data, size)
        return changed[:size]

    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", "-max_len=65536"]
    options += ["-print_final_stats=1", f"-artifact_prefix={out}/{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], once, custom_mutator=mutate)
    atheris.Fuzz()


def note(error, data, out, name):
    """Write an input down with its traceback, the first time that its place is met, or where it is a smaller one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "batiste" in frame.filename]
    place = f"{type(error).__name__} " + " ".join(f"{Path(frame.filename).name}:{frame.name}" for frame in frames[-2:])
    file = out / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    if not file.exists() or file.stat().st_size > len(data):
        file.write_bytes(data)
        file.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")


if __name__ == "__main__":
    attack(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
