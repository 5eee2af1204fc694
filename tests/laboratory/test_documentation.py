"""The README's example compares three rules under an attack in ten lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]


def test_ten_lines_compare_three_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """The block of the README runs; both robust rules are far better than the mean."""
    blocks = [t.content for t in MarkdownIt().parse((ROOT / "README.md").read_text()) if t.content]
    (example,) = [text for text in blocks if "from laboratory import simulate\n" in text]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) == 10
    exec(compile(example, "README.md", "exec"), {})
    scores = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(scores) == ["weighted_mean", "trimmed_mean(f=2)", "multi_krum(f=2)"]
    mean, trimmed, krum = map(float, scores.values())
    assert min(trimmed, krum) > mean + 0.5
