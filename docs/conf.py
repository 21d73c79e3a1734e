"""How the documentation is built: MyST pages, and a reference made from each public package's ``__all__``.

``make docs`` treats every warning as an error, so a docstring that does not parse, or a page that no other page leads
to, stops the build.
"""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402 - it lies beside this file, which is on the path only now

project = "batiste"
author = "the batiste authors"
copyright = "the batiste authors"  # noqa: A001 - Sphinx's own name
release = version = installed_version("batiste")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",  # [source], within the documentation itself
    "sphinx_copybutton",
]
exclude_patterns: list[str] = []
html_theme = "furo"
html_title = f"batiste {release}"
html_search_scorer = str(Path(__file__).with_name("scorer.js"))  # Sphinx looks for it from where it is started

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # `lecun_normal()`, as it is written, not the function's address
autodoc_typehints_format = "short"
maximum_signature_line_length = 84
python_use_unqualified_type_names = True
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = ">>> "
viewcode_line_numbers = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields are described in the docstring, and some of them a second time by autodoc
suppress_warnings = ["ref.python"]  # `Array` and `bytes` are names of several things, and links to any will do
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3


def without_dead_links(app: Sphinx, error: Exception | None) -> None:
    """Take links out of the pages of sources that lead nowhere.

    Sphinx names a link back after whichever page has documented a file last, and lists ``builtins``, which has no page.
    """
    for path in () if error else (app.outdir / "_modules").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        kept = re.sub(r'<a class="viewcode-back"[^>]*>.*?</a>', "", text)
        kept = re.sub(r'<li><a href="builtins.html">.*?</li>', "", kept)
        if kept != text:
            path.write_text(kept, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Write the pages of the reference before Sphinx reads the sources."""
    app.connect("build-finished", without_dead_links)
    app.connect("config-inited", lambda *_: reference_pages.write(HERE.parent / "src", HERE / "reference" / "api"))
