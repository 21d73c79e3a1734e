r"""Which paths a pattern names: globs and regular expressions.

A pattern always matches a whole path. A regular expression (``re.compile(...)``) is matched with ``fullmatch``. A
string is a glob:

- ``*`` any characters within one level (at least one where it is the whole level), ``?`` one character;
- ``**`` any number of whole levels, also none: ``encoder/**`` is everything at or beneath ``encoder``, ``**/bias`` is
  every bias at any depth. It stands alone between slashes;
- ``[abc]``, ``[a-z]``, ``[!a-z]`` one character of a class, never a slash;
- ``{query,key}`` one of several globs, which may hold slashes, wildcards and further braces;
- ``\`` takes the next character as it is.

Names in a pattern are escaped as in a path: a slash within a name is ``~1`` (``_paths.py``).

Each wildcard captures what it matched, counted from 1 in the order in which they are written; braces count, before
what is inside them. ``_rename.py`` fills new names with captures. Braces are multiplied out, and each alternative
becomes one regular expression, in which a group ``w3`` stands for the third wildcard.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

from batiste._arguments import choice, refused
from batiste.errors import PatternSyntaxError, UnmatchedPatternError

__all__ = [
    "Pattern",
    "PatternLike",
    "Patterns",
    "Unmatched",
    "as_patterns",
    "check_matched",
    "compile_pattern",
    "first_match",
    "nearest_paths",
]

_A_PATTERN = "a glob, such as 'encoder/**', or a regular expression, re.compile(...)"
_MAX_ALTERNATIVES = 4096
_LEVELS = "[^/]+(?:/[^/]+)*"
_Value = TypeVar("_Value")


class Pattern(NamedTuple):
    """A compiled pattern.

    Attributes:
      source: the pattern as it was written.
      alternatives: the regular expressions, of which one must match the whole path; the first that does counts.
      wildcards: how many captures there are.
      names: the names of captures, where a regular expression gives them.

    Example:
      >>> from batiste import tree
      >>> pattern = tree.compile_pattern("**/Dense_*/kernel")
      >>> pattern.matches("params/Dense_0/kernel"), pattern.wildcards
      (True, 2)
    """

    source: str
    alternatives: tuple[re.Pattern[str], ...]
    wildcards: int
    names: tuple[str, ...] = ()

    def matches(self, path: str) -> bool:
        """Return whether the pattern matches the whole path."""
        return any(expression.fullmatch(path) for expression in self.alternatives)

    def captures(self, path: str) -> dict[str, str] | None:
        """Return what each wildcard matched, or ``None`` where the path does not match.

        Keys are ``"0"`` for the whole path, ``"1"``, ``"2"``, ... for the wildcards, and the names of the groups of a
        regular expression. What took no part in the match is empty.
        """
        for expression in self.alternatives:
            found = expression.fullmatch(path)
            if found is None:
                continue
            groups = found.groupdict("")
            if self.names or not groups:
                numbered = dict(zip(map(str, range(1, self.wildcards + 1)), found.groups(""), strict=True))
                return {"0": path, **numbered, **groups}
            return {"0": path} | {str(number): groups.get(f"w{number}", "") for number in range(1, self.wildcards + 1)}
        return None

    def __str__(self) -> str:
        return self.source


PatternLike: TypeAlias = str | re.Pattern[str] | Pattern
"""A glob, a compiled regular expression, or a compiled pattern."""

Patterns: TypeAlias = PatternLike | Sequence[PatternLike]
"""One pattern, or several of which one must match."""

Unmatched: TypeAlias = Literal["error", "ignore"]
"""What a pattern that matches nothing is."""


def compile_pattern(pattern: PatternLike) -> Pattern:
    """Return the pattern in compiled form.

    Raises:
      ArgumentError: if it is no text and no regular expression of texts.
      PatternSyntaxError: if a glob is not well formed.

    Example:
      >>> from batiste import tree
      >>> tree.compile_pattern("h_*/kernel").captures("h_3/kernel")
      {'0': 'h_3/kernel', '1': '3'}
    """
    if isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, re.Pattern):
        if not isinstance(cast("Any", pattern).pattern, str):
            raise refused(pattern.pattern, "pattern", "A search by path", _A_PATTERN)
        names = tuple(sorted(pattern.groupindex, key=pattern.groupindex.__getitem__))
        return Pattern(pattern.pattern, (pattern,), pattern.groups, names)
    if not isinstance(cast("Any", pattern), str):
        raise refused(pattern, "pattern", "A search by path", _A_PATTERN)
    parser = _Parser(pattern)
    tokens = parser.parse()
    alternatives = tuple(re.compile(_expression(flat, pattern)) for flat in _expand(tokens, pattern))
    return Pattern(pattern, alternatives, parser.wildcards)


def as_patterns(patterns: Patterns) -> tuple[Pattern, ...]:
    """Return one pattern or several, compiled.

    Raises:
      ArgumentError: if they are neither.
      PatternSyntaxError: if a glob is not well formed.
    """
    if isinstance(patterns, str | re.Pattern | Pattern):
        return (compile_pattern(patterns),)
    if isinstance(patterns, Mapping | bytes) or not isinstance(cast("Any", patterns), Iterable):
        raise refused(patterns, "patterns", "A search by path", f"{_A_PATTERN}, or several")
    return tuple(compile_pattern(pattern) for pattern in patterns)


def first_match(rules: Mapping[Any, _Value], paths: Iterable[str], *, unmatched: Unmatched) -> dict[str, _Value]:
    """Return for each path the value of the first rule that matches it; paths without a rule are left out.

    Raises:
      UnmatchedPatternError: if a rule matches no path at all and ``unmatched`` is ``"error"``.
    """
    known = list(paths)
    compiled = [(compile_pattern(pattern), value) for pattern, value in rules.items()]
    check_matched([pattern for pattern, _ in compiled], known, unmatched=unmatched)
    found: dict[str, _Value] = {}
    for path in known:
        for pattern, value in compiled:
            if pattern.matches(path):
                found[path] = value
                break
    return found


def check_matched(patterns: Iterable[Pattern], paths: Sequence[str], *, unmatched: Unmatched) -> None:
    """Raise if a pattern matches none of the paths, unless ``unmatched`` is ``"ignore"``."""
    if choice(unmatched, "unmatched", "A search by path", ("error", "ignore")) == "ignore":
        return
    idle = [pattern for pattern in patterns if not any(map(pattern.matches, paths))]
    if idle:
        lines = "\n".join(f"  {pattern.source!r}{_near_text(pattern.source, paths)}" for pattern in idle)
        raise UnmatchedPatternError(lines=lines)


def nearest_paths(pattern: str, paths: Sequence[str], count: int = 3) -> list[str]:
    """Return the paths that a pattern which matches nothing was perhaps meant for."""
    levels = {part for path in paths for part in path.split("/")}
    wanted = [part for part in pattern.split("/") if part and not set(part) & set("*?[{\\") and part not in levels]
    for part in wanted:
        close = difflib.get_close_matches(part, levels, n=1)
        if close:
            return [path for path in paths if close[0] in path.split("/")][:count]
    return difflib.get_close_matches(re.sub(r"[*?\\]+/?", "", pattern), paths, n=count, cutoff=0.3)


def _near_text(pattern: str, paths: Sequence[str]) -> str:
    if not paths:
        return " (the tree has no leaves)"
    meant = _meant(pattern, paths)
    if meant:
        return f" ({meant})"
    near = nearest_paths(pattern, paths)
    return f" (nearest: {', '.join(near)})" if near else f" (the first path is {paths[0]})"


def _meant(pattern: str, paths: Sequence[str]) -> str:
    """Say how a pattern is written that was meant as one level for many, without its beginning, or as a regex."""
    deeper = re.sub(r"(?<![^/])\*(?![^/])", "**", pattern)
    wholes = f"**/{pattern}"
    for wider, why in ((deeper, "`*` is one level, `**` any number"), (wholes, "a pattern matches whole paths")):
        try:
            found = wider != pattern and any(map(compile_pattern(wider).matches, paths))
        except PatternSyntaxError:
            found = False
        if found:
            return f"{why}: write {wider!r}"
    try:
        found = any(map(re.compile(pattern).search, paths))
    except re.error:
        return ""
    return f"a text is a glob: for a regular expression write re.compile({pattern!r})" if found else ""


class _Token(NamedTuple):
    """A piece of a glob: kind ``text``, ``slash``, ``star``, ``levels``, ``one``, ``class``, ``open`` or ``close``."""

    kind: str
    text: str = ""
    number: int = 0


class _Choice(NamedTuple):
    """Braces: one of several sequences."""

    number: int
    options: tuple[tuple[_Token | _Choice, ...], ...]


class _Parser:
    """Reads a glob from left to right and numbers its wildcards."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.wildcards = 0

    def parse(self) -> tuple[_Token | _Choice, ...]:
        tokens = self._sequence(nested=False)
        if self.at < len(self.source):
            raise PatternSyntaxError(pattern=self.source, reason=f"`}}` at {self.at} closes nothing")
        return tokens

    def _sequence(self, *, nested: bool) -> tuple[_Token | _Choice, ...]:
        tokens: list[_Token | _Choice] = []
        while self.at < len(self.source):
            character = self.source[self.at]
            if character == "}" or (nested and character == ","):
                break
            self.at += 1
            tokens.append(self._token(character))
        return tuple(tokens)

    def _token(self, character: str) -> _Token | _Choice:
        if character == "/":
            return _Token("slash")
        if character == "\\":
            if self.at == len(self.source):
                raise PatternSyntaxError(pattern=self.source, reason="it ends in a backslash")
            self.at += 1
            return _Token("text", self.source[self.at - 1])
        if character not in "*?[{":
            return _Token("text", character)
        self.wildcards += 1
        number = self.wildcards
        if character == "*":
            if self.source.startswith("*", self.at):
                self.at += 1
                return _Token("levels", number=number)
            return _Token("star", number=number)
        if character == "?":
            return _Token("one", number=number)
        return self._class(number) if character == "[" else self._choice(number)

    def _class(self, number: int) -> _Token:
        start = self.at
        negated = self.source[start : start + 1] in ("!", "^")
        start += negated
        end = self.source.find("]", start + 1)
        if end < 0:
            raise PatternSyntaxError(pattern=self.source, reason=f"`[` at {self.at - 1} is never closed")
        body = re.sub(r"([\\\[\]^&~|])", r"\\\1", self.source[start:end]).replace("--", r"-\-")
        expression = f"[{'^' if negated else ''}{body}]"
        try:
            re.compile(expression)
        except re.error as error:
            raise PatternSyntaxError(pattern=self.source, reason=f"in `[...]`: {error}") from None
        self.at = end + 1
        return _Token("class", expression, number)

    def _choice(self, number: int) -> _Choice:
        start = self.at - 1
        options: list[tuple[_Token | _Choice, ...]] = []
        while True:
            options.append(self._sequence(nested=True))
            if self.at == len(self.source):
                raise PatternSyntaxError(pattern=self.source, reason=f"`{{` at {start} is never closed")
            self.at += 1
            if self.source[self.at - 1] == "}":
                return _Choice(number, tuple(options))


def _expand(tokens: Sequence[_Token | _Choice], source: str) -> list[list[_Token]]:
    """Every sequence without braces that the braces stand for."""
    sequences: list[list[_Token]] = [[]]
    for token in tokens:
        tails = [[token]] if isinstance(token, _Token) else list(_options(token, source))
        if len(sequences) * len(tails) > _MAX_ALTERNATIVES:
            raise PatternSyntaxError(pattern=source, reason=f"its braces stand for over {_MAX_ALTERNATIVES} patterns")
        sequences = [head + tail for head in sequences for tail in tails]
    return sequences


def _options(choice: _Choice, source: str) -> Iterator[list[_Token]]:
    for option in choice.options:
        for tokens in _expand(option, source):
            yield [_Token("open", number=choice.number), *tokens, _Token("close")]


def _expression(tokens: Sequence[_Token], source: str) -> str:
    """The regular expression of a glob without braces.

    ``**`` may stand for no level at all, and then one of the slashes beside it goes too: the one after it where there
    is one (``(?(w1)/)``, a slash only if the group took part), else the one before it (a slash or the path's end).
    """
    solid = [index for index, token in enumerate(tokens) if token.kind not in ("open", "close")]
    before = {later: earlier for earlier, later in itertools.pairwise(solid)}
    after = dict(itertools.pairwise(solid))
    pieces: list[str] = []
    for index, token in enumerate(tokens):
        previous = tokens[before[index]] if index in before else None
        following = tokens[after[index]] if index in after else None
        if token.kind == "text":
            pieces.append(re.escape(token.text))
        elif token.kind in ("open", "close"):
            pieces.append(f"(?P<w{token.number}>" if token.kind == "open" else ")")
        elif token.kind == "slash":
            ends = following is not None and following.kind == "levels" and after[index] == solid[-1]
            slash = "(?:/|\\Z)" if ends else "/"
            pieces.append(
                f"(?(w{previous.number}){slash})" if previous is not None and previous.kind == "levels" else slash
            )
        elif token.kind == "levels":
            if any(beside is not None and beside.kind != "slash" for beside in (previous, following)):
                raise PatternSyntaxError(pattern=source, reason="`**` does not stand alone between slashes")
            pieces.append(f"(?P<w{token.number}>{_LEVELS})?")
        else:
            whole = all(beside is None or beside.kind == "slash" for beside in (previous, following))
            inner = {"star": "[^/]+" if whole else "[^/]*", "one": "[^/]", "class": f"(?!/){token.text}"}[token.kind]
            pieces.append(f"(?P<w{token.number}>{inner})")
    return "".join(pieces)
