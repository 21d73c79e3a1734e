"""Look at the pages of ``batiste.view`` in headless Chromium, as someone with a keyboard and with a screen reader does.

    python scripts/check_view.py [--chromium PATH] [--docs] [--big GB]

Makes a checkpoint of 5,000 leaves, a later one that differs, runs and a model, opens their pages without a network, and
checks: what is shown is what is in the checkpoint, searching, opening and closing by keys, both themes, what a screen
reader is told, no word on the console and no request. It prints how long the first paint and a search take. Pictures
are written to ``build/view``; with ``--docs`` also those of the documentation. ``--big 10`` measures the page of a
sparse file of 10 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from batiste import checkpoint, nn, tree, view

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chromium import Chromium, Tab

HERE = Path(__file__).resolve().parent.parent
FOUND: list[str] = []


def expect(found: Any, wanted: Any, what: str) -> None:
    """Note what is not as it should be."""
    if found != wanted:
        FOUND.append(f"{what}: {found!r}, and not {wanted!r}")


def blocks(count: int, width: int, random: np.random.Generator) -> dict[str, Any]:
    """Return variables with 12 leaves in each of some blocks."""

    def matrix(rows: int, columns: int) -> Any:
        return random.normal(scale=rows**-0.5, size=(rows, columns)).astype(np.float32)

    def block() -> dict[str, Any]:
        attention = {name: {"kernel": matrix(width, width)} for name in ("query", "key", "value", "out")}
        up, down = matrix(width, 4 * width), matrix(4 * width, width)
        mlp = {"up": {"kernel": up, "bias": np.zeros(4 * width, np.float32)},
               "down": {"kernel": down, "bias": np.zeros(width, np.float32)}}  # fmt: skip
        norms = {
            f"norm_{n}": {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)} for n in (1, 2)
        }
        return {"attention": attention, "mlp": mlp, **norms}

    return {f"block_{number}": block() for number in range(count)}


def ready(browser: Chromium, page: Path, **options: Any) -> Tab:
    """Open a page, and return it when it has drawn itself."""
    tab = browser.open(page.as_uri(), **options)
    tab.wait("document.documentElement.dataset.ready === 'true' && performance.getEntriesByType('paint').length > 0")
    return tab


def large(browser: Chromium, folder: Path) -> None:
    """Look at 5,000 leaves: the times, and the keys."""
    random = np.random.default_rng(0)
    state = {"params": blocks(416, 16, random), "extra": {f"leaf_{n}": np.full(3, n, np.float32) for n in range(8)}}
    checkpoint.save(folder / "large", state, step=7)
    begun = time.perf_counter()
    page = view.checkpoint("large").write(folder / "large.html")
    made = time.perf_counter() - begun
    paints, searches, keys = [], [], []
    for _ in range(5):
        tab = ready(browser, page)
        paints.append(tab.value("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        tab.press("/")
        expect(tab.value("document.activeElement.id"), "search", "the key / leads to the search")
        for text in ("params/block_41?/**/ker", "nel"):
            tab.value("performance.clearMeasures()")
            tab.type(text)
            tab.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            searches.append(tab.value("performance.getEntriesByName('search').at(-1).duration"))
        expect(tab.value("count.textContent"), "36 of 5,000 leaves, 73.7 kB", "what a glob finds")
        tab.press("Escape")
        expect(tab.value("document.activeElement.id"), "tree", "Esc leads back to the tree")
        tab.value("reveal(nodeAt('params'))")
        tab.press("*")
        expect(tab.value("tree.rows.length") > 5000, True, "* opens everything beneath")
        jump = "const t = performance.now(); box.scrollTop = 60000; drawRows(); return performance.now() - t;"
        keys.append(tab.value(f"(() => {{ {jump} }})()"))
        drawn = tab.value("document.querySelectorAll('.row').length")
        expect(drawn < 80, True, "only rows in view are in the document")
        expect(tab.said, [], "the console of 5,000 leaves")
    expect(tab.value("LEAVES.path.length"), 5000, "leaves")
    size = page.stat().st_size / 1e6
    print(f"5,000 leaves: made in {made:.2f} s, {size:.2f} MB of HTML")
    print(f"first paint {statistics.median(paints):.0f} ms, search {statistics.median(searches):.1f} ms "
          f"(longest {max(searches):.1f}), rows after a jump {statistics.median(keys):.1f} ms")  # fmt: skip


def shown(tab: Tab, title: str) -> str:
    """Return the number below a title in the card of the leaf that is chosen."""
    return tab.value(
        f"[...document.querySelectorAll('.numbers div')].find(at => at.firstChild.textContent === '{title}')"
        ".lastChild.textContent"
    )


def small(browser: Chromium, folder: Path) -> list[tuple[str, Tab]]:
    """Look at a checkpoint and at a difference: numbers, keys, the tree as it is read aloud, themes."""
    random = np.random.default_rng(1)
    state: dict[str, Any] = {"params": blocks(6, 96, random), "step": 1000}
    state["params"]["embed"] = {"embedding": random.normal(scale=0.02, size=(2000, 96)).astype(np.float32)}
    checkpoint.save(folder / "run" / "1000", state, step=1000, metadata={"note": "<script>alert(1)</script>"})
    later = {"params": {name: dict(part) for name, part in state["params"].items()}, "step": 2000}
    kernel = later["params"]["block_2"]["mlp"]["up"]["kernel"]
    later["params"]["block_2"]["mlp"] = {**later["params"]["block_2"]["mlp"], "up": {"kernel": kernel * 1.5}}
    for number, name in enumerate(("query", "key", "value")):
        old = later["params"][f"block_{number}"]["attention"]
        changed = old[name]["kernel"] + np.float32(10.0 ** -(number + 2)) * random.normal(size=(96, 96)).astype(
            np.float32
        )
        later["params"][f"block_{number}"]["attention"] = {**old, name: {"kernel": changed}}
    del later["params"]["block_5"]
    later["params"]["block_3"]["norm_1"] = {"scale": np.full(96, np.nan, np.float32), "bias": np.zeros(96, np.float32)}
    checkpoint.save(folder / "run" / "2000", later, step=2000)
    one = view.checkpoint("run/1000", spectra="params/block_0/mlp/**").write(folder / "one.html")
    tab = ready(browser, one)
    array = state["params"]["block_0"]["mlp"]["up"]["kernel"]
    tab.press("/")
    tab.type("block_0/mlp/up/kernel")
    tab.press("Enter")
    tab.press("End")
    for title, number in (("mean", array.mean(dtype=float)), ("min", array.min()), ("max", array.max()), ("NaN", 0)):
        expect(math.isclose(float(shown(tab, title)), float(number), rel_tol=5e-3), True, f"the {title} of a kernel")
    expect(tab.value("count.textContent"), "1 of 74 leaves, 147 kB", "what a text finds")
    expect("96 singular values" in tab.value("card.textContent"), True, "the spectrum of a kernel")
    globs(tab, checkpoint.open("run/1000").paths())
    keys(tab)
    themes(tab)
    expect(tab.value("document.querySelectorAll('script').length"), 2, "a script of the checkpoint's is text")
    tab.value("reveal(nodeAt('params/block_0/mlp/up/kernel'))")
    expect(tab.said, [], "the console of a checkpoint")
    two = view.checkpoint("run/2000", diff="run/1000").write(folder / "two.html")
    other = ready(browser, two, dark=True)
    other.value("reveal(nodeAt('params/block_2/mlp/up/kernel'))")
    expect("0.3333" in other.value("card.textContent"), True, "how far a kernel has changed")
    expect(other.value("LEAVES.diff[LEAVES.path.indexOf('params/block_5/norm_1/scale')].kind"), "extra", "a lost leaf")
    expect(other.value("ROOT.spoilt"), 1, "leaves with NaN")
    other.value("order.value = 'change'; order.dispatchEvent(new Event('change'))")
    other.value("toggle(nodeAt('params/block_2/mlp/down'), true); reveal(nodeAt('params/block_2/mlp/up/kernel'))")
    expect(other.said, [], "the console of a difference")
    return [("checkpoint", tab), ("difference", other)]


def globs(tab: Tab, paths: list[str]) -> None:
    """Compare what globs find with what they find in Python; a level that matches stands for all beneath."""
    for glob in (
        "params/**/kernel", "**/bias", "params/block_?/mlp", "*", "**", "params/{block_1,embed}/**", "*/block_1",
        "params/block_[0-2]/norm_*/scale", "params/block_[!0-2]/**", "**/{up,down}/bias", "params/**/attention/**",
    ):  # fmt: skip
        patterns = [tree.compile_pattern(glob), tree.compile_pattern(f"{glob}/**")]
        wanted = [path for path in paths if any(pattern.matches(path) for pattern in patterns)]
        expect(tab.value(f"LEAVES.path.filter(matcherOf({json.dumps(glob)}))"), wanted, f"what {glob} finds")


def keys(tab: Tab) -> None:
    """Walk through the tree by keys, and hear what is read aloud."""
    tab.press("/")
    tab.press("Escape")
    tab.press("Home")
    spoken = "document.getElementById(box.getAttribute('aria-activedescendant'))"
    first = tab.value(f"{spoken}.getAttribute('aria-label')")
    expect(first.startswith("params, 73 leaves, "), True, f"the first row is read as {first!r}")
    expect(tab.value(f"{spoken}.getAttribute('aria-expanded')"), "false", "a closed level")
    tab.press("ArrowRight")
    expect(tab.value(f"{spoken}.getAttribute('aria-expanded')"), "true", "an opened level")
    tab.press("ArrowRight")
    tab.press("ArrowDown")
    expect(tab.value(f"{spoken}.getAttribute('aria-level')"), "2", "the level of a row")
    expect(tab.value(f"{spoken}.getAttribute('aria-posinset')"), "2", "the place of a row")
    tab.press("ArrowLeft")
    expect(tab.value(f"{spoken}.getAttribute('aria-level')"), "1", "ArrowLeft leads up")
    tab.press("ArrowLeft")
    expect(tab.value(f"{spoken}.getAttribute('aria-expanded')"), "false", "ArrowLeft closes")
    told = tab.roles()
    for role in ("tree", "treeitem", "searchbox", "button", "combobox"):
        expect(any(each == role for each, _ in told), True, f"a screen reader hears of a {role}")
    tab.press("ArrowRight")


def themes(tab: Tab) -> None:
    """Look at both themes: that of the system, and by the switch."""
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.value(ground)
    tab.dark(True)
    dark = tab.value(ground)
    expect(dark != light, True, "the page follows the system")
    tab.click("#theme")
    expect(tab.value(ground), light, "the switch makes a dark page light")
    tab.dark(False)
    tab.click("#theme")
    expect(tab.value(ground), dark, "the switch makes a light page dark")
    tab.click("#theme")
    tab.value("localStorage.clear()")


def runs(browser: Chromium, folder: Path) -> list[tuple[str, Tab]]:
    """Look at the curves of two runs, and at a model."""
    for place, (name, rate) in enumerate((("slow", 0.01), ("fast", 0.03))):
        home = folder / "runs" / name
        home.mkdir(parents=True)
        random = np.random.default_rng(place)
        rows = [
            {"step": step, "time": step, "loss": float(4 * math.exp(-rate * step) + 0.1 * random.normal() + 1),
             "accuracy": float(1 - math.exp(-rate * step))}
            for step in range(0, 400, 4)
        ]  # fmt: skip
        (home / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (home / "config.json").write_text(json.dumps({"rate": rate, "width": 96}))
    page = view.runs("runs/slow", "runs/fast").write(folder / "runs.html")
    tab = ready(browser, page, height=620)
    expect(tab.value("document.querySelectorAll('#curves polyline').length"), 4, "curves of two runs")
    expect(tab.value("document.querySelector('#tables td').textContent"), "rate", "the field that differs is first")
    expect(tab.said, [], "the console of runs")
    made = view.model(nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)]), np.zeros((8, 32), np.float32))
    model = ready(browser, made.write(folder / "model.html"))
    model.value("reveal(nodeAt('params/layers_0'))")
    expect("32,768" in model.value("card.textContent"), True, "the FLOPs of a layer")
    expect(model.said, [], "the console of a model")
    narrow = ready(browser, folder / "one.html", width=420)
    expect(narrow.value("document.documentElement.scrollWidth <= innerWidth"), True, "a telephone scrolls down only")
    return [("runs", tab), ("model", model), ("narrow", narrow)]


def big(folder: Path, gigabytes: float) -> None:
    """Measure the page of a large file, of which nearly nothing is on the disk."""
    count, size = 200, int(gigabytes * 1e9 / 200) // 4096 * 4096
    ends = [(n * size, (n + 1) * size) for n in range(count)]
    head: dict[str, Any] = {
        f"params/block_{n}/kernel": {"dtype": "F32", "shape": [size // 4096, 1024], "data_offsets": list(ends[n])}
        for n in range(count)
    }
    head |= {
        f"params/block_{n}/bias": {"dtype": "F32", "shape": [0], "data_offsets": [ends[-1][1]] * 2} for n in (0, 1)
    }
    text = json.dumps(head).encode()
    file = folder / "big.safetensors"
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + ends[-1][1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    for stats in ("none", "256MB"):
        begun, used = time.perf_counter(), time.process_time()
        page = view.checkpoint(file, stats=stats)
        made, spent = time.perf_counter() - begun, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        unread = page.data["leaves"]["unread"]
        print(f"{gigabytes:g} GB, --stats {stats}: {made:.2f} s ({spent:.2f} s of CPU), peak of memory {peak:.0f} MB "
              f"({before:.0f} MB before), {unread} of {len(page.data['leaves']['path'])} leaves not read")  # fmt: skip


def small_picture(source: Path, target: Path) -> None:
    """Write a picture with as many colours as it needs."""
    Image.open(source).convert("RGB").quantize(128).save(target, optimize=True)


def main() -> int:
    """Make the pages, and look at them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chromium", help="the browser; by default the one that is installed")
    parser.add_argument("--docs", action="store_true", help="write the pictures of the documentation")
    parser.add_argument("--big", type=float, metavar="GB", help="measure a sparse file of this size, and no more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        if given.big:
            big(folder, given.big)
            return 0
        with Chromium(given.chromium) as browser:
            pictures = [*small(browser, folder), *runs(browser, folder)]
            for title, tab in pictures:
                tab.shoot(HERE / "build" / "view" / f"{title}.png")
                if given.docs and title in ("checkpoint", "difference", "runs"):
                    small_picture(HERE / "build/view" / f"{title}.png", HERE / "docs/concepts" / f"view_{title}.png")
            large(browser, folder)
    print("\n".join(FOUND) or "all is as it should be")
    return 1 if FOUND else 0


if __name__ == "__main__":
    sys.exit(main())
