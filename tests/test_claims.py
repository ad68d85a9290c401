"""The claims board: nothing typed, one rule for verdicts, and the committed page is what it says."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from vplib import beside, chains, claims, comparisons, config, paths, published, results, sweep

GROUPS = claims.claims()
CLAIMS = [claim for group in GROUPS for claim in group["claims"]]
TESTS = [(claim["id"], test) for claim in CLAIMS for test in claim["tests"]]


def made(values: dict[str, list[float]], task: str = "motion") -> pd.DataFrame:
    """Rows of a sweep: "ablation.encoder" -> the score of each seed."""
    rows = [
        {
            **dict(zip(("ablation", "encoder"), name.split("."), strict=True)),
            **{"seed": seed, "task": task, "metric": "top1", "value": value},
        }
        for name, each in values.items()
        for seed, value in enumerate(each)
    ]
    return pd.DataFrame(rows, columns=sweep.COLUMNS)


RECORD = pd.DataFrame(columns=results.RECORD)
ASKED = {"task": "motion", "one": "none", "other": "no_shuffle", "expect": "above"}


def told(values, **asked):
    (found,) = claims.outcomes({"sweep": ASKED | asked}, made(values), RECORD)
    return found


BASE = [0.50, 0.53, 0.48, 0.55, 0.51]
LOWER = [0.45, 0.49, 0.42, 0.51, 0.45]  # by 4 to 6 points


def test_a_difference_is_of_the_seeds_that_both_have_in_points():
    found = told({"none.final": [*BASE, 0.9], "no_shuffle.final": LOWER, "none.stage1": LOWER})
    gaps = 100 * (np.array(BASE) - LOWER)
    assert found.difference == pytest.approx(comparisons.paired(gaps)) and found.scale == "sweep"
    assert found.rows == "motion: none - no_shuffle > 0"
    assert found.command == "python -m vplib.sweep run 'ablation=none,no_shuffle' 'seed=range(5)'"
    own = told({"none.final": BASE, "none.stage1": LOWER}, other="none.stage1")
    assert own.difference == found.difference
    assert own.command == "python -m vplib.sweep run 'ablation=none' 'seed=range(5)'"


NOISY = [0.40, 0.60, 0.45, 0.57, 0.49]


@pytest.mark.parametrize(
    ("other", "asked", "verdict"),
    [
        (LOWER, {}, "supported"),
        (LOWER, {"expect": "below"}, "not supported"),
        (NOISY, {}, "inconclusive"),
        (NOISY, {"expect": "within", "points": 2}, "inconclusive"),  # the interval is wider
        (LOWER, {"expect": "within", "points": 7}, "supported"),
        (LOWER, {"expect": "within", "points": 2}, "not supported"),
        (LOWER[:4], {}, "inconclusive (4 seeds)"),
        (LOWER[:1], {}, "inconclusive (1 seed)"),
        ([], {}, "not yet run"),
    ],
)
def test_a_verdict_follows_from_the_interval_alone(other, asked, verdict):
    found = told({"none.final": BASE, "no_shuffle.final": other}, **asked)
    assert found.verdict == verdict
    assert (found.difference is None) == (len(other) < 2)


def test_a_row_of_the_record_is_told_at_every_scale_that_has_it():
    rows = [
        {"name": name, "scale": scale, "seed": seed, "value": value + seed / 100, "unit": unit}
        for name, value, unit in (
            ("a", 0.6, "fraction"),
            ("b", 0.5, "fraction"),
            ("c", 3, "points"),
        )
        for scale, count in (("lesson", 5), ("study", 3))
        for seed in range(count)
    ]
    record = pd.DataFrame(rows).assign(command="python -m vplib.run 41 scale=x")
    scores = made({})
    two = claims.outcomes({"record": {"row": "a", "minus": "b", "expect": "above"}}, scores, record)
    assert [(one.scale, one.verdict) for one in two] == [
        ("study", "inconclusive (3 seeds)"),
        ("lesson", "supported"),
    ]
    assert two[1].difference.value == pytest.approx(10)  # points
    one = claims.outcomes({"record": {"row": "c", "expect": "above"}}, scores, record)[1]
    assert one.difference.value == pytest.approx(3.02) and one.command.endswith("scale=x")
    (none,) = claims.outcomes({"record": {"row": "d", "expect": "above"}}, scores, record)
    assert none.verdict == "not yet run"


def test_a_published_number_is_found_by_exactly_one_row():
    full = {"table": "T26", "benchmark": "SSv2", "model": "VideoPrism Stage 2: full"}
    assert claims.number(full) == 63.6
    without = {"model": "VideoPrism Stage 2: w/o token shuffling"}
    assert claims.number(full | {"minus": without}) == pytest.approx(1.8)
    for wrong in ({"model": "VideoPrism"}, {"benchmark": "UCF"}):
        with pytest.raises(ValueError, match="0 rows"):
            claims.number(full | wrong)
    with pytest.raises(ValueError, match="3 rows"):
        claims.number({"table": "T26", "model": "VideoPrism Stage 2: full"})
    empty = {"table": "F6", "benchmark": "SSv2", "model": "VideoPrism Stage 2: Tube mask 0.55"}
    with pytest.raises(ValueError, match="an empty one"):
        claims.number(empty)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_every_claim_says_where_it_stands_and_how_it_is_decided(claim):
    assert claim["said"] and claim["where"]
    assert claim["tests"] or {"compute", "untestable"} & {*claim}
    for keys in claim.get("published", []):
        assert math.isfinite(claims.number(keys))
    if "compute" in claim:
        holds, words = claims.COMPUTED[claim["compute"]]()
        assert isinstance(holds, bool) and re.search(r"\d", words)


def test_claims_have_names_of_their_own_and_use_every_computation():
    ids = [claim["id"] for claim in CLAIMS]
    assert len({*ids}) == len(ids) >= 40
    assert {c["compute"] for c in CLAIMS if "compute" in c} == {*claims.COMPUTED}


@pytest.mark.parametrize(("name", "test"), TESTS, ids=lambda value: str(value)[:60])
def test_every_test_names_runs_that_the_sweep_knows(name, test):
    (asked,) = test.values()
    assert asked["expect"] in ("above", "below") or asked["points"] > 0
    for side in ("one", "other") if "sweep" in test else ():
        ablation, _, encoder = asked[side].partition(".")
        assert ablation in sweep.SWEPT and encoder in ("", "stage1")
        if encoder:  # scored in runs of ablations with a stage 1 of their own alone
            assert encoder in chains.judged(ablation)
    if "record" in test:
        rows = {row["name"] for row in results.read("seeds", paths.ROOT / "reports")}
        assert {asked["row"], asked.get("minus", asked["row"])} <= rows


def test_claims_of_others_are_told_in_our_words_and_look_like_it():
    """None of the texts is here to be quoted from."""
    assert [group.get("paraphrase", False) for group in GROUPS] == [True, True, False]
    page = (paths.ROOT / "reports" / "CLAIMS.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("| Claim")]
    assert [head.startswith("| Claim, paraphrased |") for head in heads] == [True, True, False]
    assert not re.search('[“”"]', page + " ".join(claim["said"] for claim in CLAIMS))


def test_the_core_of_the_board_is_there():
    tests = [test["sweep"] for _, test in TESTS if "sweep" in test]
    pairs = {(t["task"], t["one"], t["other"]) for t in tests}
    others = (
        "no_shuffle",
        "no_global",
        "no_local",
        "masked_only",
        "stage1_continued",
        "scratch_init",
    )
    assert {("motion", "none", other) for other in others} <= pairs


def test_published_claims_that_can_be_recomputed():
    """What the errata of the published tables say."""
    assert claims.wins() == (True, "31 of 33 in the later edition")
    assert claims.no_second()[0] and "UMT" in claims.no_second()[1]
    holds, words = claims.umt_score()  # what the text says of UMT is nearer to VATT
    assert not holds and re.fullmatch(r"over UMT 13\.[12]%, over VATT 13\.[67]%", words)
    assert not claims.text_gains()[0] and "v2t +9.6" in claims.text_gains()[1]
    assert claims.corpus_size()[0] and claims.alternating()[0] and claims.domain_experts()[0]


def test_the_board_adjusts_for_all_tests_that_were_run():
    board = claims.board(made({"none.final": BASE, "no_shuffle.final": LOWER}))
    known = board[board["p"].notna()]
    assert known["holm"].tolist() == pytest.approx(comparisons.holm(known["p"].tolist()))
    assert (known["holm"] >= known["p"] - 1e-12).all()
    row = known[known["rows"] == "motion: none - no_shuffle > 0"].iloc[0]
    assert row["verdict"] == "supported" and row["value"] == pytest.approx(5.0, abs=1)
    assert row["detectable"] == pytest.approx(comparisons.detectable(row["deviation"], 5))
    page = claims.page(board)
    assert re.search(r"none - no_shuffle > 0 \| \+5\.\d \[\+\d.\d, \+\d.\d\], 5 seeds", page)


def test_the_committed_page_is_what_the_committed_tables_say(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    (tmp_path / "tables").mkdir()
    for name in ("seeds", sweep.TABLE):
        file = paths.ROOT / "reports" / "tables" / f"{name}.csv"
        if file.exists():
            (tmp_path / "tables" / file.name).write_bytes(file.read_bytes())
    claims.main([])
    committed = (paths.ROOT / "reports" / "CLAIMS.md").read_text()
    assert (tmp_path / "CLAIMS.md").read_text() == committed, "python -m vplib.claims"
    columns = {line.count("|") for line in committed.splitlines() if line.startswith("|")}
    assert len(columns) == 1
    with pytest.raises(SystemExit, match="usage"):
        claims.main(["now"])


def test_without_runs_every_experiment_is_not_yet_run(monkeypatch):
    monkeypatch.setattr(claims, "tables", lambda: (made({}), RECORD))
    board = claims.board()
    assert {v.partition(":")[0] for v in board["verdict"]} == {
        *("not yet run", "not testable here", "recomputed")
    }
    assert "0 of them with 5 seeds" in claims.page(board)


def test_commands_of_the_board_compose(out):
    commands = claims.board()["command"].dropna()
    for command in {one for one in commands if "vplib.sweep" in one}:
        swept = re.search(r"'ablation=([\w,]+)'", command)[1].split(",")
        assert {*swept} <= {*config.groups()["ablation"]}


def test_ours_stand_beside_the_published_in_one_form():
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, sharey=True)
    variants = {
        "full": ({"model": "VideoPrism Stage 2: full"}, "none"),
        "no text": (None, "no_local"),
        "not here": ({"model": "VideoPrism Stage 2: w/o token shuffling"}, None),
    }
    found = beside.table(
        axes,
        variants,
        frame=published.numbers("T26"),
        benchmarks=[{"benchmark": "SSv2", "task": "VC"}],
        tasks={"motion": "motion"},
        scores=made({"none.final": BASE}),
    ).set_index(["benchmark", "variant"])
    assert found.loc[("SSv2", "full"), "value"] == 63.6
    mean, low, high = comparisons.paired(100 * np.array(BASE))[:3]
    ours = found.loc[("motion", "full")]
    assert [ours[k] for k in ("value", "low", "high")] == pytest.approx([mean, low, high])
    assert ours["each"] == "50 53 48 55 51"
    assert np.isnan(found.loc[("motion", "no text"), "value"])
    texts = [[text.get_text() for text in ax.texts] for ax in axes]
    assert texts == [["63.6", "not published", "61.8"], ["51.4", "not yet run", "not here"]]
    plt.close(fig)
