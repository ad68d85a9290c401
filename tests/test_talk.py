"""What 42 learns from and asks of public data sets, and what 41 says of whole videos."""

from pathlib import Path

import numpy as np
import pytest
from miniatures import section, seen, written

from vplib import published
from vplib.data import sources
from vplib.evaluate import benchmarks, features, language, talk
from vplib.evaluate.tasks import LabelError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place, known = tmp_path_factory.mktemp("talk"), {}

    def of(name):
        if name not in known:
            made, out = written(name, place)
            known[name] = made, section(name, out, 32)
        return known[name]

    return of


def test_a_video_is_there_once_with_all_of_its_questions(data):
    made, of = data("msrvtt_qa")
    found = talk.videos(of, published.benchmarks("msrvtt_qa"))
    assert [*found] == ["train", "test"] and [*map(len, found.values())] == [3, 6]
    plans = {plan["file"]: plan["qa"] for plan in made.plan}
    for source in found.values():
        for meta in source.metas:
            asked = {one["question"]: one["answer"] for one in meta["qa"]}
            assert asked == plans[meta["file_name"].removeprefix("videos/")]
    file, meta = found["test"].original(0)
    assert file.is_file() and meta == found["test"].metas[0]


def test_of_nextqa_open_questions_alone_are_asked(data):
    _, of = data("nextqa")
    found = talk.videos(of, published.benchmarks("nextqa"))
    assert [*map(len, found.values())] == [4, 8]
    asked = [one for meta in found["test"].metas for one in meta["qa"]]
    assert {one["kind"] for one in asked} == {"DO"}
    with pytest.raises(LabelError, match=r"val: there are no open questions to learn .*\.$"):
        talk.videos(of, {"answers": {"task": "wups", "part": "val"}})


def test_captions_are_those_of_the_part_that_is_scored(data):
    _, of = data("msrvtt")
    found = talk.videos(of, published.benchmarks("msrvtt"))
    assert [*found] == ["train", "test"] and "text" in found["test"].original(0)[1]
    assert published.benchmarks("folder") == published.benchmarks("world") == {}


@pytest.mark.parametrize(
    ("name", "part"), [("activitynet_captions", "val_1"), ("charades_sta", "test")]
)
def test_a_whole_video_has_all_that_is_said_of_it(name, part, data):
    made, of = data(name)
    [(called, source)] = talk.long(of).items()
    assert called == f"{part}-whole"
    plans = {plan["file"]: plan for plan in made.plan}
    metas = features.metadata(source)
    told = language.moments(metas, name=called)
    for meta, times, said in zip(metas, told.times, told.sentences, strict=True):
        plan = plans[meta["file_name"].removeprefix("videos/")]
        if name == "charades_sta":
            assert [(*at, text) for at, text in zip(times.tolist(), said, strict=True)] == [
                (start, end, f"{text}.") for start, end, text in plan["events"]
            ]
            assert talk.paragraphs([meta], [said]) == [" ".join(said)]
        else:
            assert talk.paragraphs([meta], [said]) == plan["texts"] == [" ".join(said)]
            assert times.tolist() == [[0.0, 2.0], [1.5, 4.0]]  # the second went on behind the end
    assert talk.long(data("msrvtt")[1]) == {}


def test_a_question_with_options_is_asked_of_its_video(data):
    made, of = data("nextqa")
    [(called, source)] = talk.choices(of).items()
    assert called == "val-asked" and len(source) == 7  # the easy one is not asked
    rows = np.array([0, 2, 6])
    numbers = np.array([[float(seen(source.original(row)[0])[0])] for row in rows.tolist()])
    texts, clips, right = talk.choice(source, features.Features({"lit": numbers}, rows, []))
    assert len(texts) == 3 and clips["lit"].shape == (3, 1)
    for options, [number], answer in zip(texts, clips["lit"], right.tolist(), strict=True):
        true = made.plan[int(number)]["qa"]["why does it?"]
        assert options[answer] == f"why does it? {true}" and len(options) == 5
    assert talk.choices(data("ssv2")[1]) == talk.choices({}) == {}


def test_actions_are_asked_of_the_clips_of_a_list(data):
    made, of = data("ssv2")
    root = Path(of["root"])
    (root / "few.txt").write_text('\ufeffid,class\n"75",x\n79,y\n86,z\n\n')  # 86 is none of val
    of["benchmarks"]["temporal"]["only"] = "few.txt"
    corpus = benchmarks.Told(sources.split("folder", root, "val", resolution=32))
    rows = np.arange(len(corpus))[::-1]
    numbers = np.array([[seen(corpus.original(row)[0])[0]] for row in rows.tolist()])
    found = {"val": features.Features({"lit": numbers}, rows, [])}
    told = dict(talk.actions(of, {"val": corpus}, found))
    assert [*told] == ["temporal", "events"]
    assert sorted(told["temporal"].clips["lit"].ravel().tolist()) == [5, 9]
    assert len(told["events"].right) == 12
    for one in told.values():
        for [number], right in zip(one.clips["lit"], one.right.tolist(), strict=True):
            assert [one.texts[right]] == made.plan[number]["labels"]
    of["benchmarks"]["temporal"]["only"] = "none.txt"
    with pytest.raises(LabelError, match=r"none.txt: this list of ids cannot be read; .*\.$"):
        dict(talk.actions(of, {"val": corpus}, found))
    (root / "none.txt").write_text("1\n2\n")
    with pytest.raises(LabelError, match="no line of val can be asked for SSv2-Temporal"):
        dict(talk.actions(of, {"val": corpus}, found))
    assert talk.acted(data("nextqa")[1]) == {}
