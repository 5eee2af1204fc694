"""Hostile JSON texts."""

from __future__ import annotations

from tests.hostile.case import Cases

JSON_CASES = Cases()


def _case(name: str, reason: str, text: bytes) -> None:
    JSON_CASES.add(f"json {name}", "json", lambda: text, reason)


def _add_broken_lists() -> None:
    _case("empty", "ends before its list of layers", b"")
    _case("blank", "ends before its list of layers", b" \n" * 1000)
    _case("a million open brackets", "nested deeper than 64", b"[" * 1_000_000)
    _case("a million brackets", "nested deeper than 64", b"[" * 500_000 + b"]" * 500_000)
    _case("a million closing brackets", "a list ends where a number is missing", b"]" * 1_000_000)
    _case("five million empty layers", "more than 20000 layers", b"[" + b"[]," * 5_000_000 + b"[]]")
    _case("seven million numbers", "more than 20000 layers", b"[" + b"1," * 7_000_000 + b"1]")
    _case("four million lists", "more than 1048576 lists", b"[[" + b"[0]," * 4_000_000 + b"[0]]]")
    _case("beyond the cap", "at most 16777216 are read", b" " * (16 << 20) + b"[]")
    _case("cut", "ends before its list of layers", b"[[1, 2], [3")
    _case("cut before the end", "ends before its list of layers", b"[[1, 2], [3]")
    _case("going on after the end", "not one list of layers", b"[[1]] 2")
    _case("two texts", "a comma is missing", b"[[1]][[2]]")
    _case("a number", "not one list of layers", b"3")
    _case("an object", "found an object", b'{"w": [1, 2]}')
    _case("an object as a layer", "found an object", b'[{"w": 1}]')
    _case("objects as numbers", "found an object", b'[[{"w": [1]}]]')
    _case("an object with duplicate keys", "found an object", b'{"w": [1], "w": [2]}')
    _case("objects nested deep", "found an object", b"[[" + b'{"a":' * 200_000)


def _add_broken_numbers() -> None:
    _case("1e999", "out of range of F64", b"[[1e999]]")
    _case("-1e999", "out of range of F64", b"[[-1e999]]")
    _case("an integer beyond float64", "out of range of F64", b"[[" + b"9" * 400 + b"]]")
    _case(
        "an integer of 5000 digits",
        "a number of more than 4300 digits",
        b"[[%b]]" % (b"9" * 5000),
    )
    _case(
        "an integer of megabytes",
        "a number of more than 4300 digits",
        b"[[" + b"9" * (10 << 20) + b"]]",
    )
    _case("NaN", "found NaN", b"[[1, NaN]]")
    _case("Infinity", "found Infinity", b"[[Infinity]]")
    _case("-Infinity", "found Infinity", b"[[-Infinity]]")
    _case("true", "found true", b"[[true, 1]]")
    _case("false", "found false", b"[[1, false]]")
    _case("null", "found null", b"[[null]]")
    _case("a string", "found a string", b'[["1"]]')
    _case("a string with brackets", "found a string", b'[["]", 1]]')
    _case("a string without an end", "found a string", b'[["' + b"x" * (1 << 20))
    _case("ragged", "a list of 1 beside one of 2", b"[[[1, 2], [3]]]")
    _case("ragged, later", "a list of 3 beside one of 2", b"[[[1, 2], [3, 4], [5, 6, 7]]]")
    _case("ragged at depth", "a list of 1 beside one of 2", b"[[[[1], [2]], [[3]]]]")
    _case("numbers beside a list", "ragged, numbers beside a list", b"[[[1], 2]]")
    _case("a list beside numbers", "ragged, a list beside numbers", b"[[1, [2]]]")
    _case("an empty list beside a full one", "a list of 1 beside one of 0", b"[[[], [1]]]")


def _add_broken_syntax() -> None:
    _case("a comma too many", "a list ends where a number is missing", b"[[1, 2,]]")
    _case("a comma at the beginning", "found ',1'", b"[[,1]]")
    _case("nothing but a comma", "a number is missing beside a comma", b"[[,]]")
    _case(
        "a number of megabytes",
        "a number of more than 4300 digits",
        b"[[0." + b"0" * (10 << 20) + b"]]",
    )
    _case("two commas", "found '1,,2'", b"[[1,,2]]")
    _case("a comma too few", "found '1 2'", b"[[1 2]]")
    _case("a comma too few between lists", "a comma is missing", b"[[1] [2]]")
    _case("hexadecimal", "found 'x10'", b"[[0x10]]")
    _case("leading zeros", "found '01'", b"[[01]]")
    _case("a plus sign", "found '+1'", b"[[+1]]")
    _case("a bare point", "found '.5'", b"[[.5]]")
    _case("a comment", "found '/* no */", b"[[1 /* no */]]")
    _case("not UTF-8", "found text that is not ASCII", b"[[1, \xff]]")
    _case("UTF-16", "expected numbers", "[[1]]".encode("utf-16"))
    _case("a byte order mark", "found text that is not ASCII", b"\xef\xbb\xbf[[1]]")
    _case("digits of another script", "found text that is not ASCII", "[[\u0661]]".encode())
    _case("zero bytes", "expected numbers", bytes(1000))
    _case("terminal escapes", "expected numbers", b"[[\x1b[31m]]")


_add_broken_lists()
_add_broken_numbers()
_add_broken_syntax()
