"""Make a virtual environment with pip: ``python3 scripts/make_venv.py FOLDER``.

Some systems ship Python without ``ensurepip``; there the interpreter's own pip installs pip into the new environment.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

MINIMUM = (3, 11)


def main(folder: str) -> int:
    """Make the environment in ``folder`` and return the exit code."""
    found = sys.version_info[:2]
    if found < MINIMUM:
        print(f"batiste needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; {sys.executable} is {found[0]}.{found[1]}.")
        return 1
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, ImportError):
        venv.create(folder, with_pip=False, clear=True)
        command = [sys.executable, "-m", "pip", "--python", str(Path(folder) / "bin" / "python"), "install", "pip"]
        if subprocess.call(command) != 0:
            shutil.rmtree(folder)
            print(f"{sys.executable} has neither ensurepip nor pip: install one (Debian: apt install python3-venv).")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
