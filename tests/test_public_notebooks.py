"""Notebooks read public data sets, here miniatures, with weights that are there: one of each family."""

import csv

import pytest
from miniatures import written

from vplib import paths, run
from vplib.data import sources
from vplib.data.sources import FolderSource, SourceError
from vplib.evaluate import benchmarks

PREPARED = (
    "kinetics400",
    "activitynet13",
    "charades",
    "vatex",
    "activitynet_captions",
    "ssv2",
)  # as shards
WEIGHTS = paths.ROOT / "reports" / "weights" / "lesson-stage2.npz"


@pytest.mark.parametrize(
    ("name", "notebook", "row"),
    [
        ("kinetics400", "40_classification_localization", "label_stage2_top1"),
        ("activitynet13", "40_classification_localization", "localisation_temporal_stage2_map"),
        ("charades", "40_classification_localization", "labels_stage2_map"),
        ("vatex", "41_retrieval_zero_shot", "retrieval_t2v_captions_r1"),
        ("msrvtt", "42_captioning_qa", "captioning_cider_stage2"),
        (
            "ava_kinetics",
            "40_classification_localization",
            "localisation_spatiotemporal_stage2_map",
        ),
        ("activitynet_captions", "41_retrieval_zero_shot", "paragraph_t2v_r1"),
        ("msrvtt_qa", "42_captioning_qa", "qa_all_stage2_top1"),
        ("calms21", "43_science", "science_frames_stage2_map"),
        ("ssv2", "41_retrieval_zero_shot", "actions_temporal_map"),
        ("nextqa", "41_retrieval_zero_shot", "choice_top1"),
        ("msvd_qa", "42_captioning_qa", "qa_all_stage2_top1"),
        ("youcook2", "42_captioning_qa", "captioning_cider_stage2"),
    ],
)
def test_a_public_data_set_runs_through_its_notebook(name, notebook, row, out, tmp_path, capfd):
    words = ["scale=smoke", f"data={name}", f"data.root={written(name, tmp_path / 'made')[1]}"]
    words += ["data.resolution=56"]
    if name in PREPARED:
        run.run_inline("10_prepare_corpus", words)
    run.run_inline(notebook, [*words, f"weights={WEIGHTS}", "model=tiny"])
    said = capfd.readouterr().out
    assert " in the paper (" in said and "VideoPrism-" in said
    [metrics] = (out / "runs" / ".scratch" / notebook).glob("*/metrics.json")
    assert f'"{row}"' in metrics.read_text()


def test_parts_are_those_that_are_there(tmp_path):
    root = written("diving48", tmp_path)[1]
    cells = {"classification": {"part": "test"}}
    data = {
        "root": str(root),
        "corpora": {"train": 1.0},
        "benchmarks": cells,
        "tasks": {"label": {"train": "train", "test": "test"}},
    }
    assert sources.parts(data) == ["train", "test"]
    (root / "train" / "metadata.jsonl").unlink()
    assert sources.parts(data) == ["test"]
    assert sources.parts(data | {"benchmarks": {}}) == []
    with pytest.raises(SourceError, match=r"there is none of train, test; write them .*\.$"):
        sources.parts(data | {"root": str(tmp_path)})


def test_what_public_lines_say_is_what_tasks_read(tmp_path):
    root = written("nextqa", tmp_path)[1]
    told = benchmarks.Told(FolderSource(root, "val", name="val", resolution=48, captions=False))
    [one] = told.original(0)[1]["qa"]
    assert one == {"question": "why does it?", "answer": "dog 0", "kind": "CW"}
    told = benchmarks.Told(
        FolderSource(written("vatex", tmp_path)[1], "test", name="test", resolution=48)
    )
    assert len(told) == 6 and len(told.original(0)[1]["captions_reference"]) == 2
    assert told[0].text == told.original(0)[1]["texts"][0]


def test_whole_videos_have_all_their_events(tmp_path):
    root = written("activitynet13", tmp_path)[1]
    cells = {"temporal": {"part": "val", "task": "segments"}}
    timed = benchmarks.timed({"root": str(root), "benchmarks": cells})
    assert [*timed] == ["train", "val"] and [*map(len, timed.values())] == [4, 8]
    file, meta = timed["val"].original(0)
    assert file.is_file() and [one["end"] for one in meta["events"]] == [4.5, 9.5]
    assert benchmarks.timed({"root": str(root), "benchmarks": {}}) == {}


def test_entries_that_are_left_out_are_listed(tmp_path):
    root = written("ava22", tmp_path)[1]
    rows = list(csv.DictReader((root / "skipped.csv").open()))
    assert [row["reason"] for row in rows] == ["no_box"]
