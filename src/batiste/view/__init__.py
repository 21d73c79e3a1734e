"""Pages to look at state: one HTML file that needs no other, no network and no server.

``checkpoint`` makes the page of a checkpoint, or of the differences of two; ``tree`` that of arrays in memory; ``runs``
that of the curves of training runs with what was saved last; ``model`` that of a blueprint. Each returns a ``Page``,
which is written with ``write`` and which a notebook shows.

A name's file is loaded when the name is first asked for: the page of a checkpoint takes no JAX.
"""

import typing as _typing

from batiste._later import later as _later

if _typing.TYPE_CHECKING:
    from batiste.view._checkpoint import checkpoint
    from batiste.view._model import model
    from batiste.view._page import Page
    from batiste.view._runs import runs
    from batiste.view._statistics import Statistics, statistics
    from batiste.view._tree import tree
else:
    __getattr__, __dir__ = _later(
        __name__,
        (),
        {
            "_checkpoint": ("checkpoint",),
            "_model": ("model",),
            "_page": ("Page",),
            "_runs": ("runs",),
            "_statistics": ("Statistics", "statistics"),
            "_tree": ("tree",),
        },
    )


__all__ = ["Page", "Statistics", "checkpoint", "model", "runs", "statistics", "tree"]
