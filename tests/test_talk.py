"""What 42 learns from and asks of public data sets, and what 41 says of whole videos."""

import pytest
from miniatures import section, written

from vplib import published
from vplib.evaluate import features, language, talk
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
