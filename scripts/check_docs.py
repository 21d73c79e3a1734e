"""Crawl the built documentation: its links by reading it, its pages in headless Chromium: ``make test-docs``.

    python scripts/check_docs.py [FOLDER] [CHROMIUM]

Every link within the documentation leads to a file, and to a place in it that is there. Then every page is opened, by a
server on this machine, in a frame as wide as a telephone: none is wider than its frame, none makes an entry in the
console, none asks for a file that is not there. At last ten words are searched for: `batiste.nn` comes before
`batiste.compat`. What is on other machines is not asked for.

Exit codes: 0 if all is well, 1 if something is not, 2 if there is no Chromium.
"""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("Dense", "Conv", "Dropout", "BatchNorm", "LayerNorm", "Embed", "vmap", "scan", "remat", "make_causal_mask")
WIDTH = 390
LONGEST = 600
"""Seconds that Chromium may take."""

CRAWLER = """
<!doctype html><title>crawler</title>
<iframe id="frame" style="width: %(width)dpx; height: 800px; border: 0"></iframe>
<script>
const frame = document.getElementById("frame"), pages = %(pages)s, words = %(words)s;
const found = {wide: [], errors: [], searches: {}};
const open = url => new Promise(done => { frame.onload = done; frame.src = url; });
const pause = time => new Promise(done => setTimeout(done, time));
(async () => {
  for (const page of pages) {
    await open("/" + page);
    const inner = frame.contentWindow, root = frame.contentDocument.documentElement;
    if (root.scrollWidth > %(width)d) found.wide.push([page, root.scrollWidth]);
  }
  for (const word of words) {
    await open("/search.html?q=" + encodeURIComponent(word));
    let links = [], last = -1;
    for (let turn = 0; turn < 100 && (links.length === 0 || links.length !== last); turn++) {
      last = links.length;
      await pause(200);
      links = [...frame.contentDocument.querySelectorAll("#search-results li > a")].map(a => a.getAttribute("href"));
    }
    found.searches[word] = links;
  }
  await fetch("/-/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>
"""


class Page(HTMLParser):
    """The links and the named places of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element links to, and what it is called."""
        del tag
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.append(value)
            elif name in {"id", "name"} and value:
                self.places.add(value)


def broken_links(folder: Path) -> tuple[int, list[str]]:
    """Return how many links within the documentation there are, and those that lead nowhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    count, broken = 0, []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(aim)
            if not aim.exists() or (known is not None and unquote(parts.fragment) not in known.places):
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return count, broken


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the documentation, the page that crawls it, and takes what that page has found."""

    def do_GET(self) -> None:
        """Serve a file, or the crawler."""
        if self.path != "/-/crawler":
            super().do_GET()
            return
        body = self.server.crawler
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take what the crawler has found."""
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.done.set()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Note what is not there; the icon is asked for by browsers, not by pages."""
        del size
        if int(getattr(code, "value", code)) >= 400 and self.path != "/favicon.ico":
            self.server.missing.append(self.path)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base has
        """Print nothing: what is not there is noted already."""
        del format, args


class Server(http.server.ThreadingHTTPServer):
    """A server on this machine alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
        self.pages = [page for page in pages if page != "search.html"]
        self.crawler = (
            CRAWLER % {"width": WIDTH, "pages": json.dumps(self.pages), "words": json.dumps(WORDS)}
        ).encode()
        self.done = threading.Event()
        self.missing: list[str] = []
        self.found: dict[str, object] = {}


def crawl(folder: Path, chromium: str) -> tuple[Server, list[str]]:
    """Open every page in Chromium; return the server with what was found, and the lines of the console."""
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile, (Path(profile) / "console").open("w+", encoding="utf-8") as said:
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}/profile",
            "--remote-debugging-port=0",  # keeps it open until it is ended
        ]  # fmt: skip
        address = f"http://127.0.0.1:{server.server_address[1]}/-/crawler"
        browser = subprocess.Popen([chromium, *options, address], stdout=subprocess.DEVNULL, stderr=said)
        try:
            finished = server.done.wait(LONGEST)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
        said.seek(0)
        console = [line.strip() for line in said if "CONSOLE" in line]
    return server, console if finished else [*console, f"Chromium was not done after {LONGEST} seconds"]


def place_of(links: list[str], words: str) -> int:
    """Return the place of the first link with some words; that behind the last one if there is none."""
    return next((place for place, link in enumerate(links) if words in link), len(links))


def main(words: list[str]) -> int:
    """Crawl and print what was found."""
    folder = Path(words[0]) if words else ROOT / "build" / "docs"
    chromium = words[1] if len(words) > 1 else shutil.which("chromium") or shutil.which("chromium-browser")
    count, broken = broken_links(folder)
    print(f"{count} links within the documentation, {len(broken)} of them broken", *broken, sep="\n  ")
    if chromium is None:
        print("there is no chromium: apt-get install chromium")
        return 2
    server, console = crawl(folder, chromium)
    wide = server.found.get("wide", [])
    searches: dict[str, list[str]] = server.found.get("searches", {})
    late = [
        word for word in WORDS
        if not place_of(links := searches.get(word, []), "batiste.nn") < min(len(links), place_of(links, "compat"))
    ]  # fmt: skip
    print(f"{len(server.pages)} pages, {len(wide)} of them wider than {WIDTH} pixels", *wide, sep="\n  ")
    print(f"{len(console)} entries in the console", *console, sep="\n  ")
    print(f"{len(server.missing)} files that are not there", *server.missing, sep="\n  ")
    print(f"{len(WORDS)} words searched for, {len(late)} of them found elsewhere before batiste.nn", *late, sep="\n  ")
    return 1 if broken or wide or console or server.missing or late else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
