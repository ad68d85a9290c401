"""Numbers that pages quote are those of the tables."""

import numpy as np
import pandas as pd
import pytest

from vplib import claims, paths, quoted

ROW = {"value": "0.7167", "low": "0.6893", "high": "0.7442", "unit": "fraction"}


def test_every_page_quotes_the_present_tables():
    known = quoted.rows()
    for path in quoted.pages():
        text = path.read_text()
        assert quoted.filled(text, known, where=path.name) == text, (
            f"{paths.short(path)}: type python -m vplib.quoted"
        )
    readme = (paths.ROOT / "README.md").read_text()
    assert readme.count("<!--q table-->") == 1
    assert {(name, "study") for name in quoted.TABLE.values()} <= {*known}


@pytest.mark.parametrize(
    "row, words",
    [
        (ROW, "71.7% [68.9, 74.4]"),
        (ROW | {"low": "", "high": ""}, "71.7%"),
        (ROW | {"value": "-0.0005", "low": "", "high": "", "unit": "fraction"}, "-0.1%"),
        (
            {"value": "26.99", "low": "-11.44", "high": "42.55", "unit": "points"},
            "+27.0 [-11.4, +42.6]",
        ),
        (
            {"value": "216.34", "low": "204.1", "high": "228.6", "unit": "times chance"},
            "216 [204, 229]",
        ),
        (None, "not yet run"),
    ],
)
def test_a_row_in_words(row, words):
    assert quoted.told(row) == words


def test_marks_are_filled_again_and_again():
    known = {("a", "study"): ROW}
    text = "x <!--q a study-->old<!--/q--> y <!--q b study--><!--/q--> <!--q a lesson-->1<!--/q-->"
    new = quoted.filled(text, known, where="page")
    assert new.startswith(
        "x <!--q a study-->71.7% [68.9, 74.4]<!--/q--> y <!--q b study-->not yet run"
    )
    assert quoted.filled(new, known, where="page") == new


def test_a_difference_of_the_sweep(monkeypatch):
    rows = [
        {
            "ablation": a,
            "seed": s,
            "encoder": "final",
            "task": "motion",
            "metric": "top1",
            "value": v + s / 100,
        }
        for a, v in (("none", 0.6), ("other", 0.5))
        for s in range(3)
    ]
    rows[0]["value"] += 0.03
    monkeypatch.setattr(claims, "tables", lambda place: (pd.DataFrame(rows), None))
    text = quoted.filled("<!--q motion none minus other-->?<!--/q-->", {}, where="page")
    gaps = np.array([13, 10, 10])
    half = 4.303 * gaps.std(ddof=1) / 3**0.5
    assert (
        f"+{gaps.mean():.1f} [+{gaps.mean() - half:.1f}, +{gaps.mean() + half:.1f}] (3 seeds)"
        in text
    )
    assert "not yet run" in quoted.filled(
        "<!--q motion none minus x-->?<!--/q-->", {}, where="page"
    )


@pytest.mark.parametrize(
    "text",
    [
        "<!--q a-->b<!--/q-->",
        "<!--q a smoke-->b<!--/q-->",
        "<!--q a b of c-->d<!--/q-->",
        "<!--q a study-->b",
    ],
)
def test_a_mark_that_cannot_be_filled_gets_one_sentence(text):
    with pytest.raises(quoted.QuoteError, match="^page(:| has)"):
        quoted.filled(text, {}, where="page")


def test_the_command_writes_only_what_changed(monkeypatch, tmp_path, capsys):
    (tmp_path / "course").mkdir()
    good, old = tmp_path / "README.md", tmp_path / "course" / "a.md"
    good.write_text("none")
    old.write_text("<!--q a study-->old<!--/q-->")
    pages = quoted.pages(tmp_path)
    assert pages == [good, old]
    monkeypatch.setattr(quoted, "pages", lambda: pages)
    quoted.main([])
    assert capsys.readouterr().out.split() == [str(old)] and "not yet run" in old.read_text()
    quoted.main([])
    assert not capsys.readouterr().out
    old.write_text("<!--q a-->old<!--/q-->")
    with pytest.raises(SystemExit, match="must be a name and a scale"):
        quoted.main([])
    with pytest.raises(SystemExit, match="usage"):
        quoted.main(["x"])
