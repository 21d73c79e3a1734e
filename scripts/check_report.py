"""Look at the pages of a run and of a plan in headless Chromium: they draw all, ask for nothing, and say no error.

    python scripts/check_report.py [CHROMIUM]

Makes a short run with curves, a picture and a text, and plans a model; opens ``report.html`` and the plan's page
without a network, and asks the browser for the document that it made of each and for a picture, ``build/report.png``
and ``build/plan.png``.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from batiste import nn, train
from batiste.plan import as_html, plan


def step(state: Any, x: Any) -> tuple[Any, Any]:
    """Do something that has a curve."""
    return {"w": state["w"] * 0.9 + x}, {"loss": jnp.abs(state["w"]).sum(), "norm": jnp.sum(state["w"] ** 2)}


def log(loop: Any) -> None:
    """Log a picture and a text."""
    if loop.step % 20 == 0:
        loop.picture("a slope", np.linspace(0, 1, 256).reshape(16, 16))
        loop.text("a sample", "to be & <not> to be")


def look(chromium: str, page: Path, folder: str, picture: Path) -> tuple[str, int]:
    """Return the document that the browser makes of a page, and how often it complains; draw the page."""
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile",
    ]  # fmt: skip
    done = subprocess.run([chromium, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    picture.parent.mkdir(exist_ok=True)
    shot = [chromium, *options, f"--screenshot={picture.absolute()}", "--window-size=1100,1600", page.as_uri()]
    subprocess.run(shot, capture_output=True, check=True)
    return done.stdout, sum("CONSOLE" in line for line in done.stderr.splitlines())


def main() -> int:
    """Make the pages and look at them."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("there is no chromium: apt-get install chromium")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train.fit(
            step, {"w": jnp.ones(3)}, lambda n: np.float32(0.01 * n), steps=60, run=run, log_every=5, log=None,
            hooks=[log], report=True, config={"rate": 0.1},
        )  # fmt: skip
        pictures = [Path("build") / "report.png", Path("build") / "plan.png"]
        document, complaints = look(chromium, run / "report.html", folder, pictures[0])
        planned = Path(folder) / "plan.html"
        model = nn.Sequential([nn.Dense(256), nn.Dense(64)])
        planned.write_text(as_html(plan(model, "float32[32,64]", mesh="fsdp=4", rules="fsdp")), encoding="utf-8")
        drawn, more = look(chromium, planned, folder, pictures[1])
    found = {
        "curves": len(re.findall(r"<polyline", document)),
        "pictures": len(re.findall(r"<img", document)),
        "texts": document.count("to be &amp; &lt;not&gt; to be"),
        "leaves and the rest": len(re.findall(r"<rect", drawn)),
        "console": complaints + more,
        "bytes of the smaller picture": min(picture.stat().st_size for picture in pictures),
    }
    print("  ".join(f"{name} {count}" for name, count in found.items()))
    good = found["curves"] == 2 and found["pictures"] == 3 and found["texts"] == 3 and not found["console"]
    good = good and found["leaves and the rest"] == 2 * 3 + 1 + 3  # parameters and two moments, a counter, the rest
    return 0 if good and found["bytes of the smaller picture"] > 10_000 else 1


if __name__ == "__main__":
    sys.exit(main())
