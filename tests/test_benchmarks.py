"""Every number of the paper's tables on a made-up miniature of its data set: official files are read,
joined and cut, what is seen in the clips is answered, and the answers are scored.
"""

import json
import math

import numpy as np
import pytest
import test_wups
import yaml
from miniatures import seen, written

from vplib import config, paths, published
from vplib.data.public import registry
from vplib.data.sources import FolderSource
from vplib.evaluate import benchmarks, wups
from vplib.evaluate.tasks import LabelError

CONF = {
    file.stem: of
    for file in sorted((paths.CONF / "data").glob("*.yaml"))
    if (of := yaml.safe_load(file.read_text()).get("benchmarks"))
}
CELLS = [(name, cell) for name, of in CONF.items() for cell in of]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Of a data set: miniature, folder, lines of a part, and which video each file is by its pixels."""
    place, known = tmp_path_factory.mktemp("benchmarks"), {}

    def of(name, part):
        if name not in known:
            known[name] = written(name, place)
        if (name, part) not in known:
            made, root = known[name]
            source = FolderSource(root, part, name=part, resolution=288, captions=False)
            metas, numbers = [], {}
            for index in range(len(source)):
                file, meta = source.original(index)
                number, frame, count = seen(file)
                true = made.plan[number]
                fps = 1 if meta.get("unit") == "frame" else true["fps"]
                assert frame == math.ceil(meta.get("start", 0) * fps - 1e-6)
                if "end" in meta:
                    assert count == math.ceil(meta["end"] * fps - 1e-6) - frame
                assert numbers.setdefault(meta["file_name"], number) == number
                metas.append(meta)
            known[name, part] = metas, numbers
        return *known[name], *known[name, part]

    return of


def cell_of(name, cell):
    return benchmarks.cells(CONF[name])[cell]


def truth_of(made, numbers, meta):
    return made.plan[numbers[meta["file_name"]]]


def said_at(true, meta):
    """What is said of a stretch."""
    return next(text for start, _, text in true["events"] if start == meta["start"])


def perfect(cell, of, made, numbers):
    """What somebody says who has seen the clips and knows the plan, not the annotations."""
    planned = {file: made.plan[number] for file, number in numbers.items()}
    if cell.task in ("label", "actions", "labels"):
        of_clips = [planned[meta["file_name"]]["labels"] for meta in of.items]
        return np.array([[float(one in own) for one in of.classes] for own in of_clips])
    if cell.task == "segments":
        return {file: [(*event, 0.9) for event in planned[file]["events"]] for file in of.items}
    if cell.task == "boxes":
        return [
            (file, at, *place, label, 0.9)
            for file, at in of.items
            for place, labels in planned[file]["boxes"][at]
            for label in labels
        ]
    if cell.task in ("t2v", "v2t"):
        texts = of.truth[0]
        return np.array(
            [[float(one in planned[file]["texts"]) for file in of.items] for one in texts]
        )
    if cell.task == "sentences":
        own = [f"{said_at(planned[meta['file_name']], meta)}." for meta in of.items]
        return np.array([[float(one == text) for text in of.truth[0]] for one in own])
    if cell.task == "options":
        right = [planned[meta["file_name"]]["qa"][meta["question"]] for meta in of.items]
        pairs = zip(right, of.items, strict=True)
        return np.array([[float(one == text) for text in meta["options"]] for one, meta in pairs])
    if cell.task in ("answers", "wups"):
        return [planned[meta["file_name"]]["qa"][meta["question"]] for meta in of.items]
    if cell.task == "captions":
        true = [(planned[meta["file_name"]], meta) for meta in of.items]
        return [one["texts"][0] if "texts" in one else said_at(one, meta) for one, meta in true]
    shown = [
        planned[file]["frames"][place[0] if cell.task == "bouts" else sum(place) // 2]
        for file, *place in of.items
    ]
    return np.array([[float(one in own) for one in of.classes] for own in shown])


def permuted(found, rng):
    """The same predictions, of other clips."""
    if isinstance(found, dict):
        order = rng.permutation(len(found))
        return dict(zip(found, [[*found.values()][place] for place in order], strict=True))
    order = rng.permutation(len(found))
    if isinstance(found, np.ndarray):  # equal scores in random order
        return found[order] + 1e-3 * rng.random(found.shape)
    if isinstance(found[0], str):
        return [found[place] for place in order]
    return [(*row[:6], found[place][6], row[7]) for row, place in zip(found, order, strict=True)]


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return wups.WordNet(test_wups.write(tmp_path_factory.mktemp("wordnet")))


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_perfect_answers_score_the_most_and_permuted_ones_like_guesses(
    name, cell, corpus, wordnet, monkeypatch
):
    monkeypatch.setattr(wups, "installed", lambda: wordnet)
    cell = cell_of(name, cell)
    made, root, metas, numbers = corpus(name, cell.part)
    of = benchmarks.asked(cell, metas, root)
    most = 10.0 if cell.task == "captions" else 1.0
    found = perfect(cell, of, made, numbers)
    assert benchmarks.score(cell, of, found) == pytest.approx(most)
    rng = np.random.default_rng(0)
    guesses = np.mean([benchmarks.score(cell, of, permuted(found, rng)) for _ in range(60)])
    chance = benchmarks.chance(cell, of)
    if math.isnan(chance):
        assert guesses < 0.55 * most
    else:
        assert guesses == pytest.approx(chance, abs=0.07)


def test_the_cells_are_those_of_the_papers_figure_2():
    told = [cell_of(*one) for one in CELLS]
    figure = published.numbers("F2")
    pairs = {(one.row, published.TASKS.get(one.kind, one.kind)) for one in told}
    assert pairs == set(zip(figure["benchmark"], figure["task"], strict=True))
    assert len(told) == len(figure) == 33


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_every_cell_has_its_published_row(name, cell):
    found = published.cell(CONF[name][cell])
    assert sorted(found["size"]) in (["B", "g"], ["B+1B", "B+8B"])
    assert found["value"].notna().all() and found["model"].str.startswith("VideoPrism").all()


@pytest.mark.parametrize("name", CONF)
def test_the_configuration_of_a_benchmark_is_complete(name):
    cfg = config.check("40_classification_localization", f"data={name}")
    assert cfg.data.kind == "folder" and cfg.data.root == f"data/{name}"
    assert name in registry.DATA_SETS
    for cell in benchmarks.cells(cfg.data.benchmarks).values():
        assert cell.task in benchmarks.TASKS


def test_what_is_missing_is_one_sentence(corpus, tmp_path):
    _, root, metas, _ = corpus("nextqa", "val")
    choice = cell_of("nextqa", "choice")
    with pytest.raises(LabelError, match=r"atp_hard.json: there is no such file; .*\.$"):
        benchmarks.asked(choice, metas, tmp_path)
    with pytest.raises(LabelError, match=r"no line of test can be asked for NExT-QA; .*\.$"):
        benchmarks.asked(cell_of("nextqa", "answers"), [], root)


def test_texts_find_videos_and_any_of_its_texts_a_video():
    metas = [{"id": f"{n}", "file_name": f"{n}.mp4", "texts": ["x"] * (2 - n)} for n in range(2)]
    ways = {way: cell_of("vatex", way) for way in ("t2v", "v2t")}
    of = benchmarks.asked(ways["t2v"], metas, paths.ROOT)
    similarity = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.8]])  # the second text finds the other
    assert benchmarks.score(ways["t2v"], of, similarity) == pytest.approx(2 / 3)
    assert benchmarks.score(ways["v2t"], of, similarity) == 1
    assert benchmarks.chance(ways["t2v"], of) == 0.5
    assert benchmarks.chance(ways["v2t"], of) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert of.truth[0] == ["x"] * 3 and of.items == ["0.mp4", "1.mp4"]


def test_windows_follow_each_other_and_a_short_video_is_one():
    cell = cell_of("kabr", "clips")
    runs = [{"label": "Walk", "start_frame": 0, "end_frame": 100}]
    runs += [{"label": "Run", "start_frame": 100, "end_frame": 170}]
    short = [{"label": "Run", "start_frame": 0, "end_frame": 7}]
    metas = [{"file_name": "a", "bouts": runs}, {"file_name": "b", "bouts": short}]
    of = benchmarks.asked(cell, metas, paths.ROOT)
    assert of.items == [("a", 0, 80), ("a", 80, 160), ("b", 0, 7)]
    assert [of.classes[one] for one in of.truth] == ["Walk", "Run", "Run"]


def test_background_and_second_streams_are_not_scored():
    cell = cell_of("crim13", "top")
    row = {"file_name": "x/m_top.avi", "start": 0, "end": 4, "stream": 1}
    metas = [row | {"labels": ["other"]}, row | {"labels": ["attack"], "start": 4, "end": 6}]
    metas += [row | {"labels": ["drink"], "stream": 2}]
    metas += [row | {"labels": ["sniff"], "file_name": "x/m_side.avi"}]
    of = benchmarks.asked(cell, metas, paths.ROOT)
    assert of.classes == ["attack"] and of.truth.ravel().tolist() == [0] * 4 + [1] * 2


def test_only_the_scored_actions_of_ava_count(corpus):
    _, root, metas, _ = corpus("ava22", "val")
    of = benchmarks.asked(cell_of("ava22", "boxes"), metas, root)
    assert of.classes == [10, 11, 13] and {row[6] for row in of.truth} == {5, 10, 11, 13}
    assert json.loads((root / "labels_60.json").read_text()) == of.classes
