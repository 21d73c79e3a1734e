"""The commands of ``batiste`` and what each takes; what they do is in the files that load when they run.

Words are the same everywhere: ``SRC`` and ``DST`` are checkpoints, ``PATTERN`` a glob over paths. Every command that
writes has ``--force``, ``--dry-run`` and ``--quiet``; every command that answers has ``--json``. Exit codes are those
of ``_report.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from batiste._version import __version__
from batiste.cli._late import Late
from batiste.cli._report import Exit, reported

if TYPE_CHECKING:
    from batiste.cli import (
        _change,
        _compare,
        _complete,
        _compute,
        _diagnose,
        _import,
        _plan,
        _runs,
        _show,
        _store,
        _view,
    )
else:
    _change = Late("batiste.cli._change")
    _compare = Late("batiste.cli._compare")
    _complete = Late("batiste.cli._complete")
    _compute = Late("batiste.cli._compute")
    _diagnose = Late("batiste.cli._diagnose")
    _import = Late("batiste.cli._import")
    _plan = Late("batiste.cli._plan")
    _runs = Late("batiste.cli._runs")
    _show = Late("batiste.cli._show")
    _store = Late("batiste.cli._store")
    _view = Late("batiste.cli._view")

__all__ = ["app"]

_ABOUT = """Look at checkpoints, compare, check and change them, without the model.

Reads folders of batiste, Orbax, T5X and JAX, safetensors, Flax MessagePack, .npz, PyTorch, pickles of arrays, HDF5
and GGUF. The name says what is written: a .safetensors, .npz or .msgpack file, or else a folder.

Exit codes: 0 done; 1 the checkpoints differ, or do not verify; 2 the command line is wrong; 3 an error, in one line;
4 a mistake in batiste; 130 interrupted; 141 the output's reader has gone.
"""

app = typer.Typer(name="batiste", help=_ABOUT, no_args_is_help=True, pretty_exceptions_enable=False)


def _paths(context: typer.Context, incomplete: str) -> list[str]:
    """The paths of the checkpoint that is the command's first word."""
    given = (context.params.get(name) for name in ("path", "source", "left"))
    return _complete.paths_in(next(filter(None, given), None), incomplete)


def _mappings(incomplete: str) -> list[str]:
    return [name for name in ("minilm", "resemblyzer", "silero-vad", "torchcrepe") if name.startswith(incomplete)]


Source = Annotated[Path, typer.Argument(metavar="SRC", help="The checkpoint to read.", show_default=False)]
Target = Annotated[
    Path, typer.Argument(metavar="DST", help="A .safetensors, .npz or .msgpack file, or a folder.", show_default=False)
]
PatternList = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATTERN]...", help="Globs over paths; - reads them from standard input.", autocompletion=_paths
    ),
]
Regex = Annotated[bool, typer.Option("--regex", "-E", help="Patterns are regular expressions for whole paths.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the checkpoint at DST, when the new is complete.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be written, and write nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Compress = Annotated[bool, typer.Option("--compress", help="Compress a folder or .npz file: smaller and slower.")]
Lossy = Annotated[bool, typer.Option("--lossy", help="Leave out what a .msgpack file has no place for.")]
Within = Annotated[str, typer.Option("--within", help="A glob for the level above the layers.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"batiste {__version__}")
        raise typer.Exit


@app.callback()
def start(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command; the command's own text is the application's."""
    del version


@app.command()
@reported
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The checkpoint.", show_default=False)],
    patterns: PatternList = None,
    *,
    regex: Regex = False,
    stats: Annotated[bool, typer.Option("--stats", help="Mean, spread, extremes and NaN of each leaf.")] = False,
    depth: Annotated[int | None, typer.Option("--depth", "-d", min=0, help="Show so many levels.")] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Print the paths alone, one a line.")] = False,
    as_json: AsJson = False,
) -> Exit:
    """Show what a checkpoint holds: shapes, dtypes, bytes, totals of each level."""
    return _show.show(path, patterns or [], regex=regex, stats=stats, depth=depth, paths_only=paths, as_json=as_json)


@app.command()
@reported
def diff(
    left: Annotated[Path, typer.Argument(metavar="A", help="One checkpoint.", show_default=False)],
    right: Annotated[Path, typer.Argument(metavar="B", help="The other one.", show_default=False)],
    patterns: PatternList = None,
    *,
    regex: Regex = False,
    values: Annotated[bool, typer.Option(help="Compare values too, and not only shapes and dtypes.")] = True,
    rtol: Annotated[float, typer.Option(min=0, help="Tolerance, relative to the value in A.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Tolerance, absolute.")] = 0.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> Exit:
    """Say how two checkpoints differ; the exit code is 1 if they do."""
    return _compare.diff(
        left,
        right,
        patterns or [],
        regex=regex,
        values=values,
        rtol=rtol,
        atol=atol,
        as_json=as_json,
        quiet=quiet,
    )


@app.command()
@reported
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="The checkpoints.", show_default=False)],
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a format keeps no digests.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> Exit:
    """Check every bit of checkpoints; the exit code is 1 if one is not as it was saved."""
    return _compare.verify(paths, strict=strict, as_json=as_json, quiet=quiet)


@app.command()
@reported
def diagnose(
    tool: Annotated[
        Literal["check-pure", "dtypes", "find-nan", "keys", "lint", "profile", "summary"],
        typer.Argument(
            metavar="TOOL", help="check-pure, dtypes, find-nan, keys, lint, profile or summary.", show_default=False
        ),
    ],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package.module:name, a model, or it and its inputs.")],
    *,
    shapes: Annotated[list[str] | None, typer.Option("--input", "-i", help="An input: 2,16:int32; repeatable.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option of the call: train=False; repeatable.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", "-p", help="Write the picture of profile as an SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> Exit:
    """Look into a model by module path; the exit code is 1 if something is found."""
    return _diagnose.diagnose(tool, model, shapes or [], options or [], picture=picture, as_json=as_json)


@app.command()
@reported
def select(
    source: Source,
    target: Target,
    patterns: PatternList = None,
    *,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", "-x", help="Leave these out; repeatable.", autocompletion=_paths)
    ] = None,
    regex: Regex = False,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write the leaves whose paths match."""
    if not patterns and not exclude:
        message = "give a PATTERN, or --exclude"
        raise typer.BadParameter(message)
    output = _store.Output(target, force, dry_run, quiet, compress, lossy)
    return _change.select(source, patterns or [], exclude or [], output, regex=regex)


@app.command()
@reported
def rename(
    source: Source,
    target: Target,
    rules: Annotated[
        list[str],
        typer.Argument(metavar="OLD=NEW...", help="Glob and new path; {1} is what the first wildcard matched."),
    ],
    *,
    regex: Regex = False,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write the leaves at other paths."""
    output = _store.Output(target, force, dry_run, quiet, compress, lossy)
    return _change.rename(source, rules, output, regex=regex)


@app.command()
@reported
def cast(
    source: Source,
    target: Target,
    dtype: Annotated[str, typer.Argument(metavar="DTYPE", help="bfloat16, float32, ...", show_default=False)],
    *,
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", "-p", help="Only these; repeatable.", autocompletion=_paths)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Cast integers and booleans too.")] = False,
    regex: Regex = False,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write floating leaves in another dtype."""
    output = _store.Output(target, force, dry_run, quiet, compress, lossy)
    return _compute.cast(source, dtype, pattern or [], output, regex=regex, every=every)


@app.command()
@reported
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="SRC... DST", help="The sources, and where to write.")],
    *,
    overwrite: Annotated[
        Literal["error", "first", "last"], typer.Option(help="Which source wins where two have the same path.")
    ] = "error",
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write one checkpoint with the leaves of several."""
    *sources, target = _several(paths)
    return _change.merge(sources, _store.Output(target, force, dry_run, quiet, compress, lossy), overwrite=overwrite)


@app.command()
@reported
def average(
    paths: Annotated[list[Path], typer.Argument(metavar="SRC... DST", help="The sources, and where to write.")],
    *,
    weights: Annotated[str | None, typer.Option("--weights", "-w", help="One number a source: 3,1.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write the mean of several checkpoints."""
    *sources, target = _several(paths)
    shares = None if weights is None else _numbers(weights, len(sources))
    return _compute.average(sources, shares, _store.Output(target, force, dry_run, quiet, compress, lossy))


@app.command()
@reported
def stack(
    source: Source,
    target: Target,
    name: Annotated[str, typer.Argument(metavar="NAME", help="h, for the layers h_0, h_1, ...", show_default=False)],
    *,
    within: Within = "**",
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write equal layers as one level, stacked along a first axis."""
    return _compute.stack(source, name, within, _store.Output(target, force, dry_run, quiet, compress, lossy))


@app.command()
@reported
def unstack(
    source: Source,
    target: Target,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="h, for a level h of stacked layers.", show_default=False)
    ],
    *,
    within: Within = "**",
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write stacked layers apart, as NAME_0, NAME_1, ..."""
    return _compute.unstack(source, name, within, _store.Output(target, force, dry_run, quiet, compress, lossy))


@app.command()
@reported
def convert(
    source: Source,
    target: Target,
    *,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write the same checkpoint in another format."""
    return _change.convert(source, _store.Output(target, force, dry_run, quiet, compress, lossy))


@app.command()
@reported
def import_torch(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A PyTorch or safetensors file of weights.", show_default=False)
    ],
    target: Target,
    *,
    mapping: Annotated[
        str,
        typer.Option(
            "--mapping", "-m", help="A JSON file with rules, or the name of a ready mapping.", autocompletion=_mappings
        ),
    ],
    like: Annotated[
        Path | None, typer.Option("--like", help="A checkpoint with the leaves that must come out.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", "-i", help="Tensors to leave out; repeatable.")
    ] = None,
    dtype: Annotated[
        Literal["error", "cast", "keep"], typer.Option(help="What becomes of tensors of another dtype than in --like.")
    ] = "error",
    nested: Annotated[str | None, typer.Option(help="Which dict within SRC holds the weights.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    compress: Compress = False,
    lossy: Lossy = False,
) -> Exit:
    """Write the weights of a PyTorch model as variables."""
    output = _store.Output(target, force, dry_run, quiet, compress, lossy)
    return _import.import_torch(source, mapping, output, like=like, ignore=ignore or [], dtype=dtype, nested=nested)


@app.command()
@reported
def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="pkg.module:name, a blueprint or a function that makes one.")
    ],
    *,
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="tokens:int32[8,4096]; repeatable, in order.")],
    optimizer: Annotated[str, typer.Option(help="An optimiser of Optax, or none.")] = "adamw",
    mesh: Annotated[str | None, typer.Option(help="Axes with sizes: data=32,tensor=8.")] = None,
    rules: Annotated[str, typer.Option(help="A preset such as fsdp+tensor, or a .json file of rules.")] = "data",
    hbm: Annotated[str | None, typer.Option(help="Memory of a device: 80GB. By default the chip's.")] = None,
    chip: Annotated[str, typer.Option(help="a100, h100, h200, b200, v5e, v5p or v6e.")] = "h100",
    devices: Annotated[
        int | None,
        typer.Option("--search", min=1, metavar="DEVICES", help="Rank meshes and rules for these."),
    ] = None,
    smallest: Annotated[bool, typer.Option("--smallest", help="If it does not fit, find the fewest.")] = False,
    depth: Annotated[int, typer.Option("--depth", "-d", min=1, help="Show so many levels of modules.")] = 3,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with a map of the bytes.")] = None,
    compiles: Annotated[bool, typer.Option("--compile", help="Compile the step too, for simulated devices.")] = False,
    target: Annotated[
        str | None, typer.Option(metavar="TPUS", help="With --compile: tpu-v5e:4x4, which needs libtpu.")
    ] = None,
    as_json: AsJson = False,
) -> Exit:
    """Say what a training step needs and takes on a mesh: bytes, FLOPs, traffic, time. No array is made."""
    return _plan.run(
        model,
        inputs,
        optimizer=optimizer,
        mesh=mesh,
        rules=rules,
        hbm=hbm,
        chip=chip,
        devices=devices,
        smallest=smallest,
        depth=depth,
        html=html,
        compiles=compiles,
        target=target,
        as_json_too=as_json,
    )


@app.command()
@reported
def view(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="A checkpoint, one or several runs, or package.module:name.", show_default=False
        ),
    ],
    *,
    diff: Annotated[Path | None, typer.Option("--diff", help="Compare with this checkpoint or run.")] = None,
    stats: Annotated[str, typer.Option("--stats", help="How much is read: all, none, or bytes such as 2GB.")] = "256MB",
    spectra: Annotated[
        list[str] | None, typer.Option("--spectra", "-s", help="Singular values of these matrices; repeatable.")
    ] = None,
    shapes: Annotated[list[str] | None, typer.Option("--input", "-i", help="An input of a model: 2,16:int32.")] = None,
    options: Annotated[list[str] | None, typer.Option("--option", help="An option of a model: train=False.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page that is written.")] = Path("view.html"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the page.")] = False,
    quiet: Quiet = False,
) -> Exit:
    """Write a page to look at: tree, statistics, differences, map of bytes, curves."""
    return _view.run(
        targets,
        diff=diff,
        stats=stats,
        spectra=spectra or [],
        shapes=shapes or [],
        options=options or [],
        output=output,
        force=force,
        quiet=quiet,
    )


runs_app = typer.Typer(name="runs", help="List, compare and clean training runs.", no_args_is_help=True)
app.add_typer(runs_app)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Runs = Annotated[Path, typer.Argument(metavar="FOLDER", help="A run, or a folder with runs.")]


@runs_app.command("list")
@reported
def list_runs(folder: Runs = Path("runs"), *, as_json: AsJson = False) -> Exit:
    """List runs: step, checkpoints, size, latest row."""
    return _runs.listed(folder, as_json=as_json)


@runs_app.command("compare")
@reported
def compare_runs(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The runs.", show_default=False)],
    *,
    metric: Annotated[str | None, typer.Option("--metric", "-m", help="Only this metric.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", "-p", help="Write the curves as an SVG file.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the picture.")] = False,
    as_json: AsJson = False,
) -> Exit:
    """Compare the metrics and the configurations of runs."""
    return _runs.compare(folders, metric=metric, picture=picture, force=force, as_json=as_json)


@runs_app.command("report")
@reported
def report_run(run: Run, *, quiet: Quiet = False) -> Exit:
    """Write report.html, the page of a run, into its folder."""
    return _runs.report(run, quiet=quiet)


@runs_app.command("clean")
@reported
def clean_runs(
    folder: Runs = Path("runs"),
    *,
    keep: Annotated[int, typer.Option("--keep", "-k", min=1, help="How many checkpoints each run keeps.")] = 1,
    compiled: Annotated[bool, typer.Option("--compiled", help="Remove compiled programs too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would go, and remove nothing.")] = False,
    quiet: Quiet = False,
) -> Exit:
    """Remove all but the latest checkpoints, and what interrupted saves have left."""
    return _runs.clean(folder, keep=keep, compiled=compiled, dry_run=dry_run, quiet=quiet)


def _several(paths: list[Path]) -> list[Path]:
    if len(paths) < 2:
        message = "give at least one SRC, and DST last"
        raise typer.BadParameter(message)
    return paths


def _numbers(text: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        message = f"--weights takes {count} numbers with commas between, and was given {text!r}"
        raise typer.BadParameter(message)
    return numbers
