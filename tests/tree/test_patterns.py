"""Patterns: what a glob matches, what it captures, and what it says when it is not well formed."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors, tree

MATCHES = {
    "**": ["", "a", "a/b/c"],
    "*": ["a", "~"],
    "a/**": ["a", "a/b", "a/b/c"],
    "**/b": ["b", "a/b", "x/y/b"],
    "a/**/b": ["a/b", "a/x/b", "a/x/y/b"],
    "**/a/**": ["a", "x/a", "a/y", "x/a/y/z"],
    "**/**": ["", "a", "a/b"],
    "h_?/*": ["h_1/k"],
    "h_[0-3]/k": ["h_0/k", "h_3/k"],
    "h_[!0-3]/k": ["h_4/k", "h_x/k"],
    "[]a]": ["]", "a"],
    "[!]]": ["a"],
    "[a-]": ["a", "-"],
    "{a,b/c,**/d}": ["a", "b/c", "d", "x/y/d"],
    "a/{b,**}/c": ["a/c", "a/b/c", "a/x/y/c"],
    "a/{b,**}": ["a", "a/b", "a/x/y"],
    "{a{1,2},b}/k": ["a1/k", "a2/k", "b/k"],
    "{a,}b": ["ab", "b"],
    r"\*\{\[\?": ["*{[?"],
    "a.b+(c)": ["a.b+(c)"],
    "a~1b/*": ["a~1b/x"],
    "a,b": ["a,b"],
}
MISSES = {
    "*": ["", "a/b"],
    "a/**": ["ab", "b/a"],
    "**/b": ["ab", "b/a"],
    "a/**/b": ["ab", "a/xb", "a"],
    "h_?/*": ["h_/k", "h_10/k", "h_/", "h_1/k/x"],
    "h_[!0-3]/k": ["h_0/k", "h_//k"],
    "[!a]": ["/", "a"],
    "a.b+(c)": ["aXb+(c)", "a.bb(c)"],
    "a": ["A", "a/b", "aa", "a\n"],
}


@pytest.mark.parametrize("pattern", MATCHES)
def test_matches(pattern):
    assert [path for path in MATCHES[pattern] if not tree.compile_pattern(pattern).matches(path)] == []


@pytest.mark.parametrize("pattern", MISSES)
def test_misses(pattern):
    assert [path for path in MISSES[pattern] if tree.compile_pattern(pattern).matches(path)] == []


@given(st.text("ab*?[]!-", max_size=6), st.text("ab", min_size=1, max_size=4))
def test_within_a_level_globs_are_those_of_the_shell(pattern, name):
    try:
        compiled = tree.compile_pattern(pattern)
    except errors.PatternSyntaxError:
        return
    if "**" not in pattern:  # alone between slashes it stands for levels, and a name is one level
        assert compiled.matches(name) == fnmatch.fnmatchcase(name, pattern)


def reference(pattern, path):
    """Match levels of `*`, `**` and plain names, straight from the definition."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(reference(pattern[1:], path[count:]) for count in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and reference(pattern[1:], path[1:])


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b", "a*"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=5),
)
def test_any_number_of_levels(pattern, path):
    compiled = tree.compile_pattern("/".join(pattern))
    assert compiled.matches("/".join(path)) == reference(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        ("encoder/layer_*/**", "encoder/layer_3/attn/kernel", ["3", "attn/kernel"]),
        ("**/h_?/[kb]*", "a/b/h_1/kernel", ["a/b", "1", "k", "ernel"]),
        ("**/x", "x", [""]),
        ("{a/{x,y},**}/k", "a/y/k", ["a/y", "y", ""]),
        ("{a/{x,y},**}/k", "q/r/k", ["q/r", "", "q/r"]),
        ("plain", "plain", []),
    ],
)
def test_captures(pattern, path, captures):
    expected = {"0": path} | {str(number): text for number, text in enumerate(captures, start=1)}
    assert tree.compile_pattern(pattern).captures(path) == expected


def test_regular_expressions_match_whole_paths_and_capture():
    pattern = tree.compile_pattern(re.compile(r"h_(?P<number>\d+)/(\w+)"))
    assert pattern.captures("h_12/kernel") == {"0": "h_12/kernel", "1": "12", "2": "kernel", "number": "12"}
    assert not pattern.matches("x/h_12/kernel")
    assert not pattern.matches("h_12/kernel/x")
    assert pattern.captures("x") is None


def test_a_compiled_pattern_is_a_value():
    pattern = tree.compile_pattern("a/*")
    assert tree.compile_pattern(pattern) is pattern
    assert (pattern, hash(pattern), str(pattern)) == (
        tree.compile_pattern("a/*"),
        hash(tree.compile_pattern("a/*")),
        "a/*",
    )


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a**", "stand alone"),
        ("**a/b", "stand alone"),
        ("{**x,b}", "stand alone"),
        ("***", "stand alone"),
        ("{a,b", "never closed"),
        ("{a,{b}", "never closed"),
        ("a}", "closes nothing"),
        ("[ab", "never closed"),
        ("[]", "never closed"),
        ("[z-a]", "bad character range"),
        ("a\\", "ends in a backslash"),
        ("{a,b}" * 13, "stand for over"),
    ],
)
def test_malformed_globs_are_errors(pattern, reason):
    with pytest.raises(errors.PatternSyntaxError, match=reason):
        tree.compile_pattern(pattern)


@given(st.text("ab/*?[]{},!\\-&|~", max_size=12))
def test_any_string_compiles_or_is_a_syntax_error(pattern):
    try:
        compiled = tree.compile_pattern(pattern)
    except errors.PatternSyntaxError:
        return
    assert compiled.matches("a/b") == (compiled.captures("a/b") is not None)
