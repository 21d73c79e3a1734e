"""Look at the page of a run in headless Chromium: it draws its curves and pictures, asks for nothing, says no error.

    python scripts/check_report.py [CHROMIUM]

Makes a short run with curves, a picture and a text, opens its ``report.html`` without a network, and asks the browser
for the document that it made of it and for a picture of it, ``build/report.png``.
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

from batiste import train


def step(state: Any, x: Any) -> tuple[Any, Any]:
    """Do something that has a curve."""
    return {"w": state["w"] * 0.9 + x}, {"loss": jnp.abs(state["w"]).sum(), "norm": jnp.sum(state["w"] ** 2)}


def log(loop: Any) -> None:
    """Log a picture and a text."""
    if loop.step % 20 == 0:
        loop.picture("a slope", np.linspace(0, 1, 256).reshape(16, 16))
        loop.text("a sample", "to be & <not> to be")


def main() -> int:
    """Make the page and look at it."""
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
        page = (run / "report.html").as_uri()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile",
        ]  # fmt: skip
        done = subprocess.run([chromium, *options, "--dump-dom", page], capture_output=True, text=True, check=True)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        picture = Path("build") / "report.png"
        picture.parent.mkdir(exist_ok=True)
        shot = [chromium, *options, f"--screenshot={picture.absolute()}", "--window-size=1100,1600", page]
        subprocess.run(shot, capture_output=True, check=True)
    found = {
        "curves": len(re.findall(r"<polyline", done.stdout)),
        "pictures": len(re.findall(r"<img", done.stdout)),
        "texts": done.stdout.count("to be &amp; &lt;not&gt; to be"),
        "console": len(said),
        "bytes of the picture": picture.stat().st_size,
    }
    print("  ".join(f"{name} {count}" for name, count in found.items()))
    good = found["curves"] == 2 and found["pictures"] == 3 and found["texts"] == 3 and not said
    return 0 if good and found["bytes of the picture"] > 10_000 else 1


if __name__ == "__main__":
    sys.exit(main())
