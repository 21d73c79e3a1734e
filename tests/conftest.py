"""What every test runs under: stricter rules than users have, on the CPU, the same twice.

- An operation that broadcasts arrays of different rank raises. Broadcasting by rank is how a bias of the wrong shape
  goes unnoticed, so the library never relies on it. Programs written for users (the seed, the docs, the examples) may,
  and run under the `users_rules` fixture.
- Implicit promotion between dtypes can be made an error by the `strict_dtypes` fixture; it is not the rule everywhere
  because Optax's own arithmetic relies on it.
- Programs are compiled quickly, here and in the programs that tests start. Most of what a test takes is the compiler:
  `jax.random.normal` of one shape takes 0.35 s of CPU as users have it, and 0.08 s so. What is computed is the same, up
  to how the last bits are rounded: less effort goes into fusing operations and into machine code. Both libraries of a
  comparison are compiled so. `BATISTE_TEST_FAST=0` compiles as users do; `make test` begins with those tests that hold
  numbers, or look into compiled programs, in that way.
- `BATISTE_TEST_XLA` names a folder that keeps compiled programs, for runs after the first: 40 tests of dense layers and
  convolutions then take 5 s of CPU in place of 19. Programs that tests start know nothing of it.
- Eight CPU devices stand for a mesh.
- Warnings are errors (`pyproject.toml`), and Hypothesis draws the same examples in every run.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported, and for the programs that tests start
os.environ.setdefault("MPLBACKEND", "Agg")
if os.environ.get("BATISTE_TEST_FAST") != "0" and "--xla_backend_optimization" not in os.environ.get("XLA_FLAGS", ""):
    quickly = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib") < "0.11":  # JAX 0.12 does not know it, and ends the process
        quickly += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quickly}".strip()

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

if folder := os.environ.get("BATISTE_TEST_XLA"):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile("batiste", deadline=None, derandomize=True, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("batiste")

FreshPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def users_rules() -> Iterator[None]:
    """Run a test as a user's program would: rank promotion as JAX has it by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Make implicit promotion between two dtypes an error."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def no_kept_programs() -> Iterator[None]:
    """Run a test as if nobody kept compiled programs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def old_objects_aside() -> None:
    """Take what is there out of later garbage collections: with all tests imported, one takes 0.4 s of CPU and more."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def short_collections() -> None:
    """Make collections short for a test under `jax.checking_leaks`, which collects for each trace that is not gone."""
    old_objects_aside()


def pytest_collection_finish() -> None:
    """Set aside what the imports of all tests have made."""
    old_objects_aside()


@pytest.fixture
def fresh_python() -> FreshPython:
    """Return a function that runs source text in a new interpreter, whose warnings are errors too."""

    def run(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", source, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the golden files anew."""
    parser.addoption("--write-golden", action="store_true", help="write the files under tests/golden anew")
