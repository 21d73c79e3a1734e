"""What is published: versions that agree, extras that say the truth, a bare install that works."""

import ast
import importlib.metadata
import re
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import batiste
from batiste._deprecated import deprecated

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
MODULES_OF = {"orbax-checkpoint": {"orbax", "tensorstore"}, "scikit-learn": {"sklearn"}}
BROUGHT_BY_THE_BASE = {"absl"}  # Optax needs it
BROUGHT_BY_THE_USER = {
    "datasets": "is read where the user gives a data set of it",
    "grain": "is read where the user gives a data set of it",
    "cloudpickle": "is asked whether a class is its own",
    "libtpu": "comes with `jax[tpu]`, in the one version that fits the JAX at hand",
    "flax": "is installed where Flax's own programs run beside ours",
    "tensorboardX": "is one of several packages that write TensorBoard's files",
    "tensorflow": "is one of several packages that write TensorBoard's files",
    "torch": "an extra cannot say which of its builds fits the machine",
}
"""Packages that no extra brings, with the reason."""


def modules(requirements):
    """Return the modules that requirements bring: those of batiste's other extras are theirs."""
    names = [re.split(r"[\[<>=]", each)[0] for each in requirements]
    return set().union(*(MODULES_OF.get(name, {name}) for name in names if name != "batiste"))


BASE = modules(PROJECT["project"]["dependencies"]) | BROUGHT_BY_THE_BASE
OPTIONAL = {name: modules(needed) for name, needed in EXTRAS.items()}


def imported(tree, *, inside):
    """Yield the packages that a file imports at once, or within its functions, by name or through a function."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = {id(below) for function in functions for below in ast.walk(function)}
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    late_or_never = late | {id(below) for guard in guards for each in guard.body for below in ast.walk(each)}
    for node in ast.walk(tree):
        if (id(node) in late) if inside else (id(node) not in late_or_never):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {
                "import_module", "load", "require", "find_spec",
            }:  # fmt: skip
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and re.fullmatch(r"[A-Za-z_][\w.]*", str(first.value)):
                    yield str(first.value).partition(".")[0]


def packages(*, inside):
    """Return, for each file of the library, what it imports beside Python's own and batiste."""
    found = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        names = set(imported(ast.parse(path.read_text(encoding="utf-8")), inside=inside))
        found[path.relative_to(ROOT / "src" / "batiste")] = (
            names - sys.stdlib_module_names - {"batiste", "annotationlib"}
        )
    return found


def test_what_loads_at_once_is_in_the_base_install():
    for path, names in packages(inside=False).items():
        allowed = BASE | OPTIONAL["cli"] if path.parts[0] == "cli" else BASE
        assert names <= allowed, f"{path} imports {names - allowed}, which an install without extras does not have"


def test_what_loads_late_is_in_an_extra():
    known = BASE.union(*OPTIONAL.values(), BROUGHT_BY_THE_USER)
    for path, names in packages(inside=True).items():
        assert names <= known, f"{path} imports {names - known}, which no extra of pyproject.toml brings"


def test_each_extra_is_used():
    used = set().union(*packages(inside=True).values(), *packages(inside=False).values())
    programs = {
        name
        for path in (ROOT / "examples").rglob("*.py")
        for name in imported(ast.parse(path.read_text(encoding="utf-8")), inside=False)
    }
    for name in BASE:
        assert name in used, f"no file imports {name}, which is a dependency"
    for extra, brought in OPTIONAL.items():
        unused = brought - used - programs
        assert not unused or brought & used, f"no file imports {unused} of the extra {extra}"


BARE = """
import importlib.abc, os, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
os.chdir(sys.argv[2])
import jax, numpy as np
from batiste import checkpoint, diagnose, errors, importers, nn, shard, train, tree

tree_of = {"params": {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}}
for name in ("x.npz", "x.safetensors"):
    checkpoint.save(name, tree_of)
    assert (checkpoint.restore(name)["params"]["a"]["kernel"] == tree_of["params"]["a"]["kernel"]).all(), name
model = nn.Dense(3)
torch = {"head.weight": np.ones((3, 2), np.float32), "head.bias": np.zeros(3, np.float32)}
checkpoint.save("torch.safetensors", torch)
target = jax.eval_shape(model.init, jax.random.key(0), np.ones((1, 2)))
for source in (torch, "torch.safetensors"):
    variables = importers.from_torch(source, target, [("head", "params", importers.Linear())])
    assert model.apply(variables, np.ones((1, 2), np.float32)).tolist() == [[2.0, 2.0, 2.0]]
doors = {
    "train": lambda: nn.Dense(3).tabulate(jax.random.key(0), np.ones((1, 2))),
    "checkpoint": lambda: checkpoint.save("folder", tree_of),
}
for extra, door in doors.items():
    try:
        door()
    except errors.MissingPackageError as error:
        assert f"pip install 'batiste[{extra}]'" in str(error), str(error)
    else:
        raise SystemExit(f"{extra}: nothing was missing")
print("bare")
"""


def test_a_bare_install_works_and_says_what_is_missing(fresh_python, tmp_path):
    absent = set().union(*OPTIONAL.values()) | set(BROUGHT_BY_THE_USER)
    answer = fresh_python(BARE, ",".join(sorted(absent - BASE)), str(tmp_path))
    assert answer.stdout == "bare\n", answer.stderr


def test_the_source_archive_has_what_tests_read():
    archive = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    brought = {name.lstrip("/") for name in archive} | {"LICENSE", "pyproject.toml"}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'ROOT / "([^"/]+)', text)}
    read = {name for name in read if (ROOT / name).exists()} - {"build"}
    assert {".github", "src"} <= read
    assert read <= brought, f"add these to the source archive in pyproject.toml: {sorted(read - brought)}"


def test_the_page_on_a_package_index_is_the_readme_without_relative_links():
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert "readme" in PROJECT["project"]["dynamic"]
    assert hook["fragments"][0] == {"path": "README.md"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = readme
    for each in hook["substitutions"]:
        page = re.sub(each["pattern"], each["replacement"], page)
    relative = re.compile(r"\]\((?!https?:|#)([^)\s]*)\)|(?:href|src)=\"(?!https?:|#)")
    assert relative.search(readme)
    assert not relative.search(page)
    blocks = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    assert blocks.findall(page) == blocks.findall(readme)
    pictures = set(re.findall(r"!\[[^\]]*\]\(([^)]*)\)", readme))
    for path in relative.findall(readme):
        assert (ROOT / path.partition("#")[0]).exists(), f"README.md leads to {path}, which is not there"
        assert path in pictures or f"`{path}`" in page, f"{path} is lost on the package index"


def test_the_version_is_said_once():
    assert "version" in PROJECT["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", batiste.__version__)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {batiste.__version__}\n" in citation
    assert importlib.metadata.version("batiste") == batiste.__version__


def test_the_command_says_the_version(fresh_python):
    answer = fresh_python("import sys; sys.argv = ['batiste', '--version']; from batiste.cli import main; main()")
    assert (answer.returncode, answer.stdout) == (0, f"batiste {batiste.__version__}\n"), answer.stderr


def test_every_python_that_is_allowed_is_named():
    listed = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    support = (ROOT / "SUPPORT.md").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = (ROOT / "scripts" / "matrix.py").read_text(encoding="utf-8")
    assert f">={listed[0]}" == PROJECT["project"]["requires-python"]
    for version in listed:
        assert version in support, version
        assert f'"{version}"' in workflow, version
        assert f'"{version}"' in matrix, version


def test_deprecated_names_warn_at_the_callers_line_and_work():
    @deprecated("nn.old", since="0.2.0", until="0.4.0", instead="nn.new")
    def old(x, *, scale=1):
        """Say what it does."""
        return x * scale

    with pytest.warns(DeprecationWarning, match=r"nn\.old .* 0\.2\.0 .* 0\.4\.0: write nn\.new") as caught:
        assert old(2, scale=3) == 6
    assert caught[0].filename == __file__
    assert old.__doc__ == "Say what it does."
    with warnings.catch_warnings(record=True) as quiet:
        warnings.simplefilter("always")
        deprecated("nn.other", since="0.2.0", until="0.4.0", instead="nn.new")(old)
    assert quiet == []
