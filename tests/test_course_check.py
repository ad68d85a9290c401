"""The checks of the exercises: right answers pass, usual wrong ones get their hint, bad input a sentence."""

import ast
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from vplib import paths, publish
from vplib.course import check, fifth, first, fourth, grade, sheets, third
from vplib.method import losses, masking, stages
from vplib.model.layers import AttentionPool

SOURCES = {p.stem: p for p in sorted(sheets.SOURCES.glob("*.py"))}


def cases():
    for session in check.SESSIONS:
        check.begin(session)
        yield from ((session, number, case) for number, case in check._sheet.cases.items())


CASES = list(cases())


def said(capsys, call, *arguments, **words) -> str:
    """What a check prints: one line."""
    capsys.readouterr()
    call(*arguments, **words)
    (line,) = capsys.readouterr().out.splitlines()
    return line


def status(number: str) -> str:
    return check._sheet.results[number]["status"]


@pytest.mark.parametrize("session, number, case", CASES, ids=[n for _, n, _ in CASES])
def test_every_listed_wrong_answer_gets_its_hint(session, number, case, capsys):
    check.begin(session)
    assert len(case.wrong) >= 2
    for wrong, hint in case.wrong:
        assert said(capsys, check.function, number, wrong) == f"✗ {number} {hint}"
        assert status(number) == check.WRONG
    if case.right:
        assert said(capsys, check.function, number, case.right).startswith("✓")


@pytest.mark.parametrize("session, number, case", CASES, ids=[n for _, n, _ in CASES])
def test_a_function_of_another_kind_gets_one_sentence(session, number, case, capsys):
    check.begin(session)
    assert "not done yet" in said(capsys, check.function, number, sheet_blank)
    assert status(number) == check.TODO
    for given in (
        lambda *a: None,
        lambda *a: "text",
        lambda *a: [[1], [1, 2]],
        lambda: 0,
        lambda *a: 1 / 0,
        lambda *a: np.full(3, np.nan),
        lambda *a: np.zeros((7, 7, 7)),
        lambda *a: np.array(["a", "b"]),
        np.pi,
    ):
        line = said(capsys, check.function, number, given)
        assert line.startswith(f"✗ {number} ") and status(number) == check.WRONG


def sheet_blank(*arguments):
    raise check.NotDone


def test_a_result_that_is_nearly_right_says_how_far_it_is(capsys):
    check.begin("session2")
    close = lambda v, t, tau: 1.01 * check._sheet.cases["2.4"].right(v, t, tau)  # noqa: E731
    assert "the largest difference" in said(capsys, check.function, "2.4", close)


def test_an_error_of_the_student_is_told_with_its_line(capsys):
    check.begin("session3")
    scope = {}
    exec(compile("def f(order):\n    x = 1\n    return order + [1, 2]\n", "cell", "exec"), scope)
    line = said(capsys, check.function, "3.5", scope["f"])
    assert "stopped with ValueError" in line and "(line 3 of its cell)" in line


def test_arguments_may_be_written_into(capsys):
    check.begin("session3")

    def careless(order):
        result = np.argsort(order)
        order[:] = 0
        return result

    assert said(capsys, check.function, "3.5", careless).startswith("✓")


def test_numbers_are_known_by_digest_within_a_step(capsys):
    check.begin("session1")
    right = check.digest("1.1", 2.08, 0.01)
    give = lambda value: said(  # noqa: E731
        capsys, check.number, "1.1", value, right, step=0.01, hints={4.16: "twice"}
    )
    for value in (2.08, 2.0794, 2.09, np.float32(2.08), jnp.asarray([2.08])):
        assert give(value).startswith("✓"), value
    assert give(4.16).endswith("twice") and give(2.11).startswith("✗")
    assert "not done yet" in give(None)
    for value in ("2.08", True, [1, 2], {}, lambda: 0, np.zeros((2, 2)), 1j):
        assert "must be one number" in give(value), value
    for value in (np.nan, np.inf, 1e300):
        assert "is no answer" in give(value)


def test_written_answers_are_kept_if_they_say_something(capsys):
    check.begin("session1")
    say = lambda text: said(capsys, check.written, "1.9", text)  # noqa: E731
    assert "not done yet" in say(None) and "not done yet" in say(" \n")
    assert (
        "must be text" in say(7)
        and "words are few" in say("because")
        and "too many" in say("a " * 20000)
    )
    assert say("word " * 30).startswith("✓") and status("1.9") == check.OPEN


def test_the_summary_counts_and_the_hand_in_holds_it(capsys, tmp_path):
    check.begin("session3")
    check.function("3.5", np.sort)
    check.function("3.5", np.argsort)
    check.written("3.9", "word " * 30)
    assert said(capsys, check.summary) == (
        "session3: 1 of 10 done, 1 open, to do: 3.1, 3.2, 3.3, 3.4, 3.6, 3.7, 3.8, 3.10"
    )
    said(capsys, check.hand_in, "ab-1", tmp_path)
    told = json.loads((tmp_path / "handin-session3-ab-1.json").read_text())
    assert told["results"]["3.5"] == {"status": "done", "tries": 2}
    assert told["results"]["3.10"]["status"] == check.TODO and len(told["results"]) == 10
    for student in ("a/b", "x" * 41, "ä", 5):
        assert "will not do" in said(capsys, check.hand_in, student, tmp_path)
    assert "there is no folder" in said(capsys, check.hand_in, "a", tmp_path / "gone")
    (tmp_path / "file").touch()
    assert "cannot be written" in said(capsys, check.hand_in, "a", tmp_path / "file")


def test_a_check_out_of_place_says_so(capsys, monkeypatch):
    check.begin("session1")
    assert "run the first cell" in said(capsys, check.function, "2.4", print)
    monkeypatch.setattr(check, "_sheet", check.Sheet("", [], {}))
    assert "from its first cell" in said(capsys, check.hand_in)
    with pytest.raises(ValueError, match="is no session: one of session1"):
        check.begin("session9")


def test_grades_hold_every_good_file_and_name_the_others(tmp_path, capsys):
    check.begin("session3")
    check.function("3.5", np.argsort)
    check.written("3.10", "=1+1 " + "word " * 30)
    check.hand_in("b", tmp_path)
    check.begin("session1")
    check.hand_in("a", tmp_path)
    good = json.loads((tmp_path / "handin-session1-a.json").read_text())
    bad = {
        "not.json": "no",
        "list.json": "[]",
        "deep.json": "[" * 100_000,
        "other.json": json.dumps(good | {"session": "session9"}),
        "status.json": json.dumps(good | {"results": {"1.1": {"status": "best", "tries": 1}}}),
        "text.json": json.dumps(good | {"student": ["a"]}),
        "large.json": " " * (grade.MOST + 1),
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        grade.main([str(tmp_path)])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert {line.split()[2] for line in told.err.splitlines()} == {*bad}
    lines = grade.table(tmp_path)[0].splitlines()
    header, first, second = (line.split(",") for line in lines)
    assert header[:8] == "file session student minutes done open left 1.1".split()
    assert first[4:7] == ["0", "0", "10"] and second[4:7] == ["1", "1", "8"]
    assert second[header.index("3.5")] == "done (1)"
    assert second[header.index("3.10 text")].startswith("'=1+1")
    assert header.index("3.9") < header.index("3.10")
    for words in ([], ["a", "b", "c"], ["--help"], [str(tmp_path / "gone")]):
        with pytest.raises(SystemExit, match="usage|holds no hand-ins"):
            grade.main(words)
    with pytest.raises(SystemExit, match="there is no folder"):
        grade.main([str(tmp_path), str(tmp_path / "gone" / "x.csv")])


def test_the_reference_of_pooling_is_the_librarys():
    pool = AttentionPool(6, 2, inner=8, rngs=nnx.Rngs(0))
    p, x = pool.pooling_attention, np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    query = np.einsum("d,dkh->kh", pool.pooling_attention_query[...][0], p.query.w[...])
    query = query + p.query.b[...]
    # The library's learnt scale takes the place of 1 / sqrt(H).
    query = query * p.per_dim_scale() * query.shape[-1] ** 0.5
    mean = first.pool(x, query, np.asarray(p.key.w[...]), np.asarray(p.value.w[...])).reshape(2, 4)
    y = np.einsum("kh,dkh->d", mean + p.value.b[...], p.post.w[...]) + p.post.b[...]
    np.testing.assert_allclose(
        pool.pooling_attention_layer_norm(y), pool(jnp.asarray(x)), atol=1e-5
    )


def test_the_reference_of_algorithm_1_is_the_librarys():
    """What LocalDecoder feeds its transformer, but for the projector."""
    sizes = toy.SIZES
    decoder = stages.LocalDecoder(sizes, sizes, rngs=nnx.Rngs(0))
    decoder.projector = decoder.stack = decoder.output = lambda x: x
    rng, key = np.random.default_rng(0), jax.random.key(0)
    places, frames = sizes.places, sizes.frames
    visible = jnp.tile(jnp.arange(2), (1, frames, 1))  # B T V
    seen = rng.normal(size=(1, 2 * frames, sizes.width)).astype(np.float32)
    theirs = decoder(jnp.asarray(seen), visible, share=1, key=key)[0]
    order, _ = masking.shuffle_orders(key, visible, places * frames, 1)
    time, space = (np.asarray(x[...]) for x in (decoder.temporal_pos_emb, decoder.spatial_pos_emb))
    positions = (time[:, None] + space).reshape(places * frames, -1)
    mask_token = np.asarray(decoder.mask_token[...])
    ours = third.decoder_input(seen[0], mask_token, positions, np.asarray(order[0]))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_reference_of_the_loss_of_stage_2_weighs_both_alike():
    ((local, target, masked, whole, aim),) = third._outputs()
    wanted = (
        losses.cosine_distance(jnp.asarray(local), jnp.asarray(target)).mean()
        + losses.cosine_distance(jnp.asarray(whole), jnp.asarray(aim)).mean()
    )
    assert third.stage2_loss(local, target, masked, whole, aim) == pytest.approx(float(wanted))


def test_the_reference_of_the_shortcut_is_the_librarys_loss():
    corpora = np.random.default_rng(0).integers(3, size=32)
    style = jnp.eye(3)[corpora]
    wanted = float(losses.contrastive(style, style, jnp.float32(100)))
    assert fourth.style_loss(corpora) == pytest.approx(wanted, abs=1e-5)


def test_the_references_of_turns_and_processes_keep_shares_and_batches():
    order = fourth.turns(400, [3, 1, 4])
    for count in (8, 80, 400):
        given = np.bincount(order[:count], minlength=3)
        assert (abs(given - count * np.array([3, 1, 4]) / 8) < 1).all()
    for step in (0, 5):
        parts = [fourth.own_items(step, 12, index, 3) for index in range(3)]
        assert sorted(np.concatenate(parts)) == [*range(12 * step, 12 * step + 12)]
    assert sorted(fourth.clips_of([*range(14, 21)], 7, 0)) == [*range(7)]


def test_the_references_of_losses_over_devices_are_the_librarys():
    (v, t), scale = fifth._vectors(4, 3, 8), jnp.float32(8)
    flat = [jnp.asarray(x.reshape(12, 8)) for x in (v, t)]
    whole = float(losses.contrastive(*flat, scale))
    assert np.mean([fifth.own_rows(v, t, 8.0, d) for d in range(4)]) == pytest.approx(
        whole, rel=1e-5
    )
    alone = np.mean(
        [
            float(losses.contrastive(jnp.asarray(a), jnp.asarray(b), scale))
            for a, b in zip(v, t, strict=True)
        ]
    )
    parts = fifth.accumulated(*(x.reshape(12, 8) for x in (v, t)), 8.0, 4)
    assert parts == pytest.approx(alone, rel=1e-5) and parts < whole
    g = np.random.default_rng(0).normal(size=(4, 8))
    np.testing.assert_allclose(fifth.reduce_scatter(g).reshape(-1) / 4, fifth.all_reduce(g)[2])


# The sources, and the notebooks made from them.


def code(path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


RUN = """
import json, pathlib, re, resource, sys
import matplotlib
matplotlib.use("agg")
scope = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), "cell", "exec"), scope)
used, status = resource.getrusage(resource.RUSAGE_SELF), pathlib.Path("/proc/self/status")
peak = used.ru_maxrss  # on Linux at least that of the process that started this one
if status.exists():
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
print(used.ru_utime + used.ru_stime, peak / 1e6)
"""


def execute(kind: str, session: str, folder) -> list[str]:
    """What a notebook prints when it is run from another folder, within 5 CPU minutes and 2 GB."""
    path = sheets.COURSE / kind / f"{session}.ipynb"
    env = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, path], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *lines, used = done.stdout.splitlines()
    seconds, gigabytes = map(float, used.split())
    assert seconds < 300 and gigabytes < 2
    return lines


def test_the_committed_notebooks_are_those_of_the_sources():
    for path, text in sheets.build().items():
        assert path.read_text() == text, f"{path.name}: type python -m vplib.course.sheets"
    for kind in ("student", "solutions"):
        found = {p.stem for p in (sheets.COURSE / kind).glob("*.ipynb")}
        assert found == {*SOURCES} == {*check.SESSIONS}


@pytest.mark.parametrize("session", SOURCES)
def test_solutions_pass_every_check(session, tmp_path):
    assert f"{session}: 8 of 10 done, 2 open" in execute("solutions", session, tmp_path)
    row = grade.read(tmp_path / f"handin-{session}.json")
    assert (row["done"], row["open"], row["left"]) == (8, 2, 0)


@pytest.mark.parametrize("session", SOURCES)
def test_blanks_fail_in_one_sentence_and_nothing_stops(session, tmp_path):
    lines = execute("student", session, tmp_path)
    blank = [line for line in lines if "not done yet:" in line]
    assert len(blank) == 10 and all(line.startswith("· ") for line in blank)
    assert any(line.startswith(f"{session}: 0 of 10 done, 0 open") for line in lines)


@pytest.mark.parametrize("session", SOURCES)
def test_every_wrong_number_gets_its_hint(session, monkeypatch, capsys):
    """The numbers of the source, against the digests of the student's notebook."""
    numbers = [t for t in SOURCES[session].read_text().split("# %%") if "check.number(" in t]
    student = [
        t for t in code(sheets.COURSE / "student" / f"{session}.ipynb") if "check.number(" in t
    ]
    assert len(numbers) == len(student) == 3
    check.begin(session)
    for source, given in zip(numbers, student, strict=True):
        (call,) = (
            n
            for n in ast.walk(ast.parse(source))
            if isinstance(n, ast.Call) and ast.unparse(n.func) == "check.number"
        )
        words = {k.arg: k.value for k in call.keywords}
        name = ast.unparse(call.args[1])
        values = [eval(ast.unparse(key), {"math": math}) for key in words["hints"].keys]
        assert len(values) >= 3
        shown = ast.parse(given).body[0].value  # no answer stands there as a number
        assert isinstance(shown.args[2].value, str)
        hints = next(k.value for k in shown.keywords if k.arg == "hints")
        assert all(isinstance(key.value, str) for key in hints.keys)
        for value, hint in zip(values, words["hints"].values, strict=True):
            capsys.readouterr()
            exec(given, {"check": check, name: value})
            assert capsys.readouterr().out.strip().endswith(hint.value)
        exec(given, {"check": check, name: eval(ast.unparse(call.args[2]), {"math": math})})
        assert capsys.readouterr().out.startswith("✓")


@pytest.mark.parametrize("session", SOURCES)
def test_students_get_no_solution(session):
    text = (sheets.COURSE / "student" / f"{session}.ipynb").read_text()
    assert "Model answer" not in text and "# solution" not in text
    assert text.count("raise check.NotDone") == 5 and text.count("= None  # your answer") == 3
    solved = (sheets.COURSE / "solutions" / f"{session}.ipynb").read_text()
    assert "NotDone  #" not in solved and solved.count("**Model answer.**") == 2


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("x = 1\n", "must begin with a cell"),
        ("# %% [raw]\n# a\n", "has a cell [raw]"),
        ("# %%\ndef f():\n    # solution\n    return 1\n", "does not end"),
        ("# %%\nx = = 1\n", "is not Python"),
    ],
)
def test_a_source_with_a_fault_gets_one_sentence(source, sentence):
    with pytest.raises(sheets.SheetError, match=re.escape(sentence)):
        sheets.notebook(source, "s", solutions=False)


def test_copies_for_students_replace_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(sheets.paths, "ROOT", tmp_path)
    made = sheets.copy()
    assert {p.stem for p in made} == {*SOURCES} and sheets.copy() == []
    made[0].write_text("mine")
    made[1].unlink()
    assert sheets.copy() == [made[1]] and made[0].read_text() == "mine"
    links = re.findall(r"\]\((\.\.[^)\s]+)\)", made[1].read_text())
    root = sheets.COURSE.parent
    assert links and all((root / "my" / "exercises" / link).resolve().exists() for link in links)


def test_the_setup_cell_is_that_of_the_notebooks():
    for path in (sheets.COURSE / "student").glob("*.ipynb"):
        setup = [
            c
            for c in json.loads(path.read_text())["cells"]
            if c["metadata"].get("tags") == [publish.TAG]
        ]
        assert "".join(setup[0]["source"]) == publish.SETUP.format(
            address=publish.address(paths.NOTEBOOKS / "00_tour.ipynb")
        )
