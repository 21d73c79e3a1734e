"""`python -m batiste.compat.flax` runs a Flax program as Python would, and says what it asked for in vain."""

import re
import subprocess
import sys

import flax
import pytest

from batiste.compat.flax import traverse_util
from batiste.compat.flax.__main__ import main
from batiste.compat.flax._serve import Server

HELPER = """
from flax.core import FrozenDict
"""

PROGRAM = """
import pickle
import sys

import flax
import flax.serialization as codec
from flax import struct, traverse_util
from flax.core import freeze
from flax.training import train_state

import helper


@struct.dataclass
class Node:
    a: int


if __name__ == "__main__":
    print(sys.argv[1:], __file__.endswith(sys.argv[0]), sys.modules["__main__"].Node is Node, __spec__)
    print(flax.__version__, codec.to_bytes({"a": 1}), pickle.loads(pickle.dumps(Node(3))))
    print(type(freeze({})) is helper.FrozenDict is flax.core.FrozenDict, flax.serialization is codec)
    print(train_state.TrainState.__mro__[1] is struct.PyTreeNode, codec.__spec__.name)
    sys.exit(3)
"""

ASKING = """
import importlib.util

import flax
from flax import traverse_util

print(hasattr(traverse_util, "no_such_function"))
print(importlib.util.find_spec("flax.no_such_module"))
statements = "from flax import no_such_part", "import flax.nothing.at.all", "from flax.serialization import no_name"
for statement in statements:
    try:
        exec(statement)
    except ImportError as error:
        print(type(error).__name__)
flax.config.update("flax_fix_rng_separator", True)


def deep():
    flax.struct.bar


deep()
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that writes files into a folder and runs a command line in it."""

    def start(files, *arguments):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        command = [sys.executable, "-m", "batiste.compat.flax", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return start


@pytest.mark.parametrize("how", [["folder/program.py"], ["-m", "folder.program"]], ids=["file", "module"])
def test_a_program(run, how):
    helper = "folder/helper.py" if len(how) == 1 else "helper.py"
    done = run({"folder/program.py": PROGRAM, helper: HELPER}, *how, "a", "--help", "-m")
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("['a', '--help', '-m'] True True")
    assert lines[0].endswith("None") == (len(how) == 1)
    assert lines[1] == "0.12.8 b'\\x81\\xa1a\\x01' Node(a=3)"
    assert lines[2:] == ["True True", "True batiste.compat.flax.serialization"]
    assert done.stderr == ""


def test_a_folder_with_a_main(run):
    hooked = "sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__)\n1 / 0"
    done = run({"app/__main__.py": f"import flax, sys\nprint(flax.__name__, sys.argv[1:])\n{hooked}"}, "app", "x")
    assert done.stdout == "batiste.compat.flax ['x']\nhook ZeroDivisionError\n", done.stderr
    assert done.returncode == 1


def test_what_is_missing_is_said(run):
    done = run({"program.py": ASKING}, "program.py")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["False", "None", "ImportError", "ModuleNotFoundError", "ImportError"]
    before, _, report = done.stderr.partition("batiste.compat.flax: ")
    assert report.splitlines() == [
        "the program asked for what batiste does not have:",
        "  flax.traverse_util.no_such_function",
        "  flax.no_such_module",
        "  flax.no_such_part",
        "  flax.nothing",
        "  flax.serialization.no_name",
        "  flax.struct.bar",
        "batiste.compat.flax: these switches have no effect in batiste:",
        "  flax_fix_rng_separator = True",
    ]
    _, _, trace = before.partition("Traceback (most recent call last):\n")
    assert re.match(r'  File ".*program\.py", line \d+, in <module>\n    deep\(\)\n', trace)
    assert "module 'flax.struct' has no attribute 'bar'" in trace


def test_a_program_that_cannot_begin(run):
    bad = run({"bad.py": "x = ("}, "bad.py")
    assert bad.returncode == 1
    assert "SyntaxError" in bad.stderr
    assert "__main__.py" not in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["nothing.py"], 2, "no file 'nothing.py'"), ([], 2, "SCRIPT"), (["-h"], 0, "Run a Flax program on batiste")],
    ids=["file", "none", "help"],
)
def test_wrong_command_lines(capsys, arguments, code, said):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())


def test_a_program_under_the_installed_flax_is_the_same(run, tmp_path):
    """The program of this test is a Flax program: Flax itself runs it too."""
    files = {"program.py": PROGRAM, "helper.py": HELPER}
    ours = run(files, "program.py", "a")
    theirs = subprocess.run(
        [sys.executable, "program.py", "a"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert theirs.returncode == ours.returncode == 3, theirs.stderr
    assert theirs.stdout.replace(flax.__version__, "0.12.8") == ours.stdout.replace("batiste.compat.flax", "flax")


def test_a_server_in_this_process():
    import flax.traverse_util as installed

    server = Server()
    with server:
        import flax as served_flax
        import flax.traverse_util as served

        assert served is traverse_util
        assert served_flax.traverse_util is served
        with pytest.raises(AttributeError, match=r"flax\.traverse_util"):
            served.nothing  # noqa: B018 - to be refused
    assert list(server.missing) == ["flax.traverse_util.nothing"]
    assert sys.modules["flax.traverse_util"] is installed
    assert not hasattr(traverse_util, "nothing")
    assert "__batiste_server__" not in vars(traverse_util)
    assert list(server.missing) == ["flax.traverse_util.nothing"]
