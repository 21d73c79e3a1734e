"""Build what would be published, check it, install it in a fresh environment and run the README: ``make release``.

Nothing is published: that is ``twine upload dist/*`` by somebody who may. ``--no-run`` leaves out the README's program.

Exit codes: 0 if all went well; else that of the step that did not, whose command is the last one printed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def step(*command: str | Path, cwd: Path = ROOT) -> None:
    """Print a command and run it; the process ends with its exit code if it fails."""
    print("$", *command, flush=True)
    code = subprocess.call([str(each) for each in command], cwd=cwd)
    if code:
        sys.exit(code)


def readme_program() -> str:
    """Return the Python blocks of the README as one program."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def check_links(wheel: Path) -> None:
    """End with 1 if the description in a wheel has a relative link, which leads nowhere on a package index."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        _, _, description = archive.read(name).decode().partition("\n\n")
    found = re.findall(r"\]\((?!https?:|#)[^)]*\)", description)
    if found or not description:
        print(f"the description in {wheel.name} has relative links: {found}" if found else f"no description in {name}")
        sys.exit(1)


def main(options: list[str]) -> None:
    """Do the steps in order."""
    top = (ROOT / "src" / "batiste" / "_version.py").read_text(encoding="utf-8")
    version = re.findall(r'^__version__ = "(.*)"$', top, re.MULTILINE)[0]
    heading = f"## {version}"
    if heading not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        print(f"note: CHANGELOG.md has no section {heading!r} yet")
    shutil.rmtree(DIST, ignore_errors=True)
    step(sys.executable, "-m", "build", "--outdir", DIST)
    step(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    check_links(wheel)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step(sys.executable, ROOT / "scripts" / "make_venv.py", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        step(python, "-m", "pip", "install", "--quiet", f"{wheel}[cli,demo]")
        step(python, "-c", f"import batiste; assert batiste.__version__ == {version!r}", cwd=folder)
        step(folder / "venv" / "bin" / "batiste", "--version", cwd=folder)
        if "--no-run" not in options:
            (folder / "readme.py").write_text(readme_program(), encoding="utf-8")
            step(python, "readme.py", cwd=folder)
    print(f"release: {', '.join(path.name for path in sorted(DIST.iterdir()))} are in {DIST}")


if __name__ == "__main__":
    main(sys.argv[1:])
