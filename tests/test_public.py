"""Public data sets in their official form: what is read, what is skipped and why, what is written.

The samples of every form lie beside the repository, where there are some; small files of the same
forms are written here, so that a fresh clone tests every reader, too.
"""

import csv
import gzip
import io
import json
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from test_video import moving_square

from vplib import files, paths
from vplib.data import sources, video
from vplib.data.public import __main__ as command
from vplib.data.public import joining, registry, science
from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.rows import Row
from vplib.data.public.videos import Videos

SAMPLES = Path(
    os.environ.get("VPLIB_SAMPLES") or paths.ROOT.parent / "shared" / "benchmarks" / "samples"
)
EXPECTED = {path.parent.name: path for path in sorted(SAMPLES.glob("*/expected.json"))}
# In brackets a source of `expected.json` has a remark, but for the id of a line.
REMARK = re.compile(r" \((?:reversed|only in the CSV)\)$")


def read(name, given, videos):
    """Records and (source, reason) of what is skipped."""
    index = Videos(videos) if videos else None
    rows = [*joining.joined(registry.rows(name, given, index), index)]
    kept = [row.record() for row in rows if not row.reason]
    return kept, [(row.source, row.reason) for row in rows if row.reason]


@pytest.mark.skipif(not EXPECTED, reason="the folder of samples is not here")
@pytest.mark.parametrize("name", EXPECTED)
def test_samples_are_read_as_they_should_be(name, tmp_path):
    expected = json.loads(EXPECTED[name].read_text())
    given = [EXPECTED[name].parent]
    if "split_names" in expected:  # lists that only the official script has
        (tmp_path / "split_names.json").write_text(json.dumps(expected["split_names"]))
        given.append(tmp_path)
    kept, skipped = read(name, given, expected["videos"])
    assert kept == expected["records"]
    reasons = [(REMARK.sub("", one["source"]), one["reason"]) for one in expected["skipped"]]
    assert Counter(skipped) == Counter(reasons)
    beside = registry.beside(name, given)
    if said := beside.pop("paragraphs", {}):  # by split
        flat = {f"{key} {split}": text for split, of in said.items() for key, text in of.items()}
        flat = {key.removesuffix(" train"): text for key, text in flat.items()}
        assert expected["paragraphs"].items() <= flat.items()
    assert all(beside[key] == expected[key] for key in beside.keys() & expected.keys())


def sample(name, *inside):
    if name not in EXPECTED:
        pytest.skip("the folder of samples is not here")
    folder = EXPECTED[name].parent
    expected = json.loads(EXPECTED[name].read_text())
    return [folder / one for one in inside], expected


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("videocc", ["variant_header_ids/video_cc_public.csv"]),
        ("ssv2", ["labels"]),
        ("howto100m", ["caption.json"]),
        ("calms21", ["calms21_task1_train.npy", "calms21_task1_test.npy"]),
        ("msrvtt", ["MSRVTT_data.json"]),
        ("kinetics400", ["train.csv", "val.csv"]),
    ],
)
def test_other_forms_of_a_sample_give_the_same_records(name, inside):
    given, expected = sample(name, *inside)
    assert read(name, given, expected["videos"])[0] == expected["records"]


def test_labels_of_a_test_part_are_read_where_a_copy_has_them():
    given, expected = sample("kinetics400", "variant_cvdf")
    [record], skipped = read("kinetics400", given, expected["videos"])
    assert (record["labels"], record["split"], skipped) == (["zumba"], "test", [])


# --- files of the official form, written here ------------------------------------------------------

MICE = {"keypoints": [], "scores": [], "metadata": {"vocab": science.MICE}}
QUESTION = "video,frame_count,width,height,question,answer,qid,type"
PBTXT = 'label {\n  name: "sit"\n  label_id: 11\n}\nlabel {\n  name: "run/jog"\n  label_id: 10\n}\n'
ANNOTATOR = (
    "Caltech Behavior Annotator - Annotation File\n\nConfiguration file:\nother\to\nattack\tk\n\n"
    "S1:\tstart\tend\ttype\n-----------------------------\n\t1\t20\tother\n\t21\t20\tattack\n"
    "\t21\t30\tattack\n\t31\t40\tcharge\n\n"
)
APE = {"bbox": [64, 48, 128, 96], "bbox_id": 4, "behaviors": [1]}
PICTURE = {"width": 640, "height": 480}
# name: (files, videos, [(file, start, end, texts, labels, split)], [(source, reason)])
FORMS = {
    "activitynet13": (
        {
            "activity_net.v1-3.min.json": {
                "database": {
                    "-a": {
                        "duration": 20.0,
                        "subset": "training",
                        "annotations": [
                            {"label": "Jump", "segment": [1, 30.0]},
                            {"label": "Sports", "segment": [1, 3.0]},
                        ],
                    },
                    "b": {"duration": 9.0, "subset": "testing", "annotations": []},
                },
                "taxonomy": [
                    {"nodeName": "Sports", "parentName": None},
                    {"nodeName": "Jump", "parentName": "Sports"},
                ],
            }
        },
        {"v_-a.mkv": None},
        [("v_-a.mkv", 1.0, 20.0, [], ["Jump"], "train")],
        [("-a 2", "unknown_label"), ("b", "no_label")],
    ),
    "activitynet_captions": (
        {
            "train.json": {
                "v_-a": {
                    "duration": 9.0,
                    "timestamps": [[0, 5], [7, 2]],
                    "sentences": [" One.", "Two."],
                },
                "v_b": {"duration": 9.0, "timestamps": [[0, 5], [1, 2]], "sentences": ["x", "y"]},
            },
            "test_ids.json": ["v_c"],
        },
        {"-a.mp4": 8.0},
        [("-a.mp4", 0.0, 5.0, ["One."], [], "train")],
        [
            ("train v_-a 2", "empty_segment"),
            ("train v_b", "missing_video"),
            ("test v_c", "no_text"),
        ],
    ),
    "ava22": (
        {
            "ava_val_v2.2.csv": "-a,0902,0.1,0.2,0.3,0.4,11,7\n-a,902,0.1,0.2,0.3,0.4,10,7\n"
            "-a,0903\n-a,0904,0,0,1,1,11,7\n-a,0905,0,0,1,1,99,7\n",
            "ava_val_excluded_timestamps_v2.2.csv": "-a,0904\n",
            "ava_action_list_v2.2.pbtxt": PBTXT,
        },
        {"full/-a.webm": 4000.0},
        [("full/-a.webm", 900.5, 903.5, [], ["run/jog", "sit"], "val")],
        [
            ("ava_val_v2.2.csv: -a,0903", "no_box"),
            ("ava_val_v2.2.csv: -a,0904", "excluded"),
            ("ava_val_v2.2.csv: -a,0905", "unknown_label"),
        ],
    ),
    "ava_kinetics": (
        {
            "kinetics_train_v1.0.csv": "-a_b,12.5,0,0,1,1,11\n-a_b,20.0,0,0,1,1,11\n",
            "kinetics_test_v1.0.csv": "-a_b,12.5\n",
            "ava_action_list_v2.2.pbtxt": PBTXT,
        },
        {"-a_b_000010_000020.mp4": 10.0, "-a_b_000012_000022.mp4": 10.0},
        [
            ("-a_b_000010_000020.mp4", 1.0, 4.0, [], ["sit"], "train"),
            ("-a_b_000012_000022.mp4", 6.5, 9.5, [], ["sit"], "train"),
        ],
        [("kinetics_test_v1.0.csv: -a_b,12.5", "no_label")],
    ),
    "calms21": (
        {
            "calms21_task1_train.json": {
                "annotator-id_0": {
                    "task1/train/mouse063_task1_annotator1": MICE | {"annotations": [3, 3, 0]},
                    "task1/train/mouse001_task1_annotator1": MICE | {"annotations": [3, 9]},
                }
            }
        },
        {"train/mouse063_task1_annotator1.mp4": None},
        [
            (
                "train/mouse063_task1_annotator1.mp4",
                *(None, None, []),
                ["attack", "other"],
                "val",
            )
        ],
        [("task1/train/mouse001_task1_annotator1", "unknown_label")],
    ),
    "charades": (
        {
            "Charades_v1_test.csv": "id,script,descriptions,actions,length\n"
            'AB,s,"One, two.;Three.",c001 1.0 99.0;c000 5 4;c777 0 1,9.5\n',
            "Charades_v1_classes.txt": "c000 Holding a book\nc001 Sitting\n",
        },
        {"AB.mp4": None},
        [("AB.mp4", None, None, ["One, two.", "Three."], ["c000", "c001"], "test")],
        [
            ("Charades_v1_test.csv:2 c000 5 4", "empty_segment"),
            ("Charades_v1_test.csv:2 c777 0 1", "unknown_label"),
        ],
    ),
    "charades_sta": (
        {"charades_sta_train.txt": "\ufeffAB 1.0 99.0##a ## b.\nAB 1.0 2.0##\nAB 30 40##late.\n"},
        {"x/AB.mp4": 20.0},
        [("x/AB.mp4", 1.0, 20.0, ["a ## b."], [], "train")],
        [("charades_sta_train.txt:2", "empty_text"), ("charades_sta_train.txt:3", "outside_video")],
    ),
    "chimpact": (
        {
            "labels/a_clip_0_30.json": {
                "images": [
                    {"id": 5, "file_name": "a_clip_0_30/000002.jpg", **PICTURE},
                    {"id": 6, "file_name": "a_clip_0_30/000003.jpg", **PICTURE},
                ],
                "annotations": [{"image_id": 5, **APE}, {"image_id": 6, **APE, "behaviors": []}],
            },
            "action_list.txt": 'item {\n  name: "climbing"\n  id: 2\n}\n',
            "split_names.json": {"val": [], "test": ["a_clip_0_30"]},
        },
        {"a_clip_0_30.mp4": None},
        [("a_clip_0_30.mp4", 20, 21, [], ["climbing"], "test")],
        [("a_clip_0_30 key frame 3", "no_label")],
    ),
    "crim13": (
        {"m.txt": ANNOTATOR},
        {"m.avi": None},
        [("m.avi", 0, 20, [], ["other"], None), ("m.avi", 20, 30, [], ["attack"], None)],
        [("m.txt S1 row 2", "empty_segment"), ("m.txt S1 row 4", "unknown_label")],
    ),
    "diving48": (
        {
            "Diving48_vocab.json": [["Back", "Dive", "NoTwis", "TUCK"]],
            "Diving48_V2_test.json": [
                {"vid_name": "--a_1", "label": 0, "start_frame": 0, "end_frame": 9},
                {"vid_name": "--a_1", "label": 0, "start_frame": 0, "end_frame": 9},
                {"vid_name": "b_1", "label": 48, "start_frame": 0, "end_frame": 9},
            ],
        },
        {"--a_1.mp4": None},
        [
            ("--a_1.mp4", None, None, ["Back Dive NoTwis TUCK"])
            + (["Back+Dive+NoTwis+TUCK"], "test")
        ],
        [("Diving48_V2_test.json 1", "duplicate"), ("Diving48_V2_test.json 2", "unknown_label")],
    ),
    "fly_vs_fly": (
        {"Aggression/Aggression/movie3/movie3_actions.mat": {"lunge": [[2, 5, 0]]}},
        {},
        [("Aggression/Aggression/movie3/movie3.seq", 2, 5, [], ["lunge"], None)],
        [],
    ),
    "howto100m": (
        {"caption.json": {"-a": {"start": [1.0, 2], "end": [3, 3.5], "text": ["hi ", None]}}},
        {"-a.webm": 3.0},
        [("-a.webm", 1.0, 3.0, ["hi"], [], "train")],
        [("-a 2", "empty_text")],
    ),
    "internvid": (
        {
            "InternVid-10M-flt.jsonl": "\n".join(
                json.dumps(
                    {
                        "YoutubeID": "-a",
                        "Start_timestamp": start,
                        "End_timestamp": end,
                        "Caption": "cafe\u0301",
                    }
                )
                for start, end in [
                    ("01:00:01.250", "01:00:02.000"),
                    ("01:00:01.250", "01:00:02.000"),
                    ("00:00:03.000", "00:00:02.000"),
                ]
            )
        },
        {"-a.mp4": 3602.0},
        [("-a.mp4", 3601.25, 3602.0, ["cafe\u0301"], [], "train")],
        [("line 2", "duplicate"), ("line 3", "empty_segment")],
    ),
    "kabr": (
        {
            "annotation/train.csv": "original_vido_id video_id frame_id path labels\n"
            "ZG1.1 1 2 ZG1.1/2.jpg 3\nZG1.1 1 1 ZG1.1/1.jpg 0\nG2.1 2 1 G2.1/1.jpg 8\n",
            "annotation/classes.json": {"Walk": 0, "Head Up": 3},
        },
        {"image/ZG1.1": None},
        [("image/ZG1.1", None, None, [], ["Head Up", "Walk"], "train")],
        [("train.csv G2.1", "unknown_label")],
    ),
    "kinetics400": (
        {
            "validate.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
            '"hurling (sport)",-a_b,7.0,17.0,validate,0\nzumba,c,1,11,val,0\n'
        },
        {"hurling_sport/-a_b_000007_000017.mp4": None},
        [
            ("hurling_sport/-a_b_000007_000017.mp4", None, None)
            + (["hurling (sport)"], ["hurling (sport)"], "val")
        ],
        [("validate.csv:3", "missing_video")],
    ),
    "kinetics600": (
        {"test.csv": "youtube_id;time_start;time_end;split\n-a_b;7;17;test\n"},
        {"-a_b_000007_000017.mp4": None},
        [],
        [("test.csv:2", "no_label")],
    ),
    "moments_in_time": (
        {
            "validationSet.csv": "a+b/x-1.y.mp4,a+b,3,0\na+b/z.mp4,other,3,0\n",
            "moments_categories.txt": "a+b,0\n",
        },
        {"validation/a+b/x-1.y.mp4": None, "training/a+b/z.mp4": None},
        [("validation/a+b/x-1.y.mp4", None, None, ["a b"], ["a+b"], "val")],
        [("validationSet.csv:2", "unknown_label")],
    ),
    "msrvtt": (
        {
            "test_videodatainfo.json": {
                "videos": [{"video_id": f"video{n}", "split": "validate"} for n in (7, 8, 9)],
                "sentences": [
                    {"video_id": "video7", "sen_id": 11, "caption": "last"},
                    {"video_id": "video7", "sen_id": 2, "caption": "first"},
                    {"video_id": "video8", "sen_id": 3, "caption": " "},
                    {"video_id": "video9", "sen_id": 4, "caption": "gone"},
                    {"video_id": "video9", "sen_id": 5, "caption": "gone"},
                ],
            }
        },
        {"video7.mp4": None, "video8.mp4": None},
        [("video7.mp4", None, None, ["first", "last"], [], "val")],
        [("sen_id 3", "empty_text"), ("video8", "no_text"), ("video9", "missing_video")],
    ),
    "msrvtt_qa": (
        {
            "val_qa.json": [
                {"answer": "tent", "category_id": 1, "id": 4, "question": "where?", "video_id": 7},
                {"answer": "", "category_id": 1, "id": 5, "question": "where?", "video_id": 7},
            ]
        },
        {"video7.mp4": None},
        [("video7.mp4", None, None, [], [], "val")],
        [("val id 5", "no_label")],
    ),
    "msvd": (
        {
            "MSR Video Description Corpus.csv": "VideoID,Start,End,WorkerID,Source,AnnotationTime,"
            "Language,Description\n-a_b,3,7,1,clean,5,English,one\n-a_b,3,7,1,clean,5,Welsh,dau\n"
            '-a_b,3,7,1,clean,5,English,"two, with\na break"\nc,0,9,1,clean,5,English,x\n'
            "c,0,9,1,clean,5,English,y\n",
            "test_list.txt": "-a_b_3_7\n",
        },
        {"-a_b_3_7.avi": None},
        [("-a_b_3_7.avi", None, None, ["one", "two, with\na break"], [], "test")],
        [
            ("csv line 3", "not_english"),
            ("csv line 6", "missing_video"),
            ("csv line 7", "missing_video"),
        ],
    ),
    "msvd_qa": (
        {
            "train_qa.json": [
                {"answer": "jar", "id": number, "question": "what?", "video_id": number}
                for number in (1, 2)
            ],
            "youtube_mapping.txt": "-a_b_3_7 vid1\n",
        },
        {"-a_b_3_7.avi": None},
        [("-a_b_3_7.avi", None, None, [], [], "train")],
        [("train id 2", "missing_video")],
    ),
    "nextqa": (
        {
            "nextqa/val.csv": f"{QUESTION},a0,a1,a2,a3,a4\n012,9,6,4,who?,4,0,CW,a,b,c,no,none \n"
            "012,9,6,4,who?,5,1,CW,a,b,c,d,e\n",
            "nextoe/test.csv": f"{QUESTION}\n012,9,6,4,why?,so ,0,CW\n012,9,6,4,how?,so,0,CW\n",
            "nextqa/map_vid_vidorID.json": {"012": "0007/012"},
            "nextoe/add_reference_answer_test.json": {"012": {"0": "thus"}},
        },
        {"NExTVideo/0007/012.mp4": None, "NExTVideo/0008/012.mp4": None},
        [
            ("NExTVideo/0007/012.mp4", None, None, [], [], "val"),
            ("NExTVideo/0007/012.mp4", None, None, [], [], "test"),
        ],
        [("nextqa/val.csv:3", "unknown_label"), ("nextoe/test.csv:3", "duplicate")],
    ),
    "ssv2": (
        {
            "labels.json": {"Moving something up": "1", "Holding something next to the wall": "0"},
            "train.json": [
                {"id": "7", "label": "moving tea up", "template": "Moving [something] up"},
                {"id": "8", "label": "x", "template": "Holding [something next to the wall]"},
                {"id": "9", "label": "x", "template": "Eating [something]"},
            ],
            "test.json": [{"id": "3"}],
        },
        {"7.webm": None, "8.webm": None, "3.webm": None},
        [
            ("7.webm", None, None, ["moving tea up"], ["Moving something up"], "train"),
            ("8.webm", None, None, ["x"], ["Holding something next to the wall"], "train"),
        ],
        [("train 9", "unknown_label"), ("test 3", "no_label")],
    ),
    "thumos14": (
        {
            "annotation/Diving_val.txt": "video_validation_0000002  3.0 99.5\nvideo_validation_0000003\t0 1\n",
            "annotation/Ambiguous_val.txt": "video_validation_0000002  1.0 2.0\n",
        },
        {"video_validation_0000002.mp4": 30.0},
        [("video_validation_0000002.mp4", 3.0, 30.0, [], ["Diving"], "val")],
        [("Ambiguous_val.txt:1", "ambiguous"), ("Diving_val.txt:2", "missing_video")],
    ),
    "vatex": (
        {
            "vatex_training_v1.0.json": [
                {"videoID": "-a_b_000012_000022", "enCap": [" one ", ""], "chCap": ["\u6c34"]}
            ],
            "vatex_private_test_without_annotations.json": [{"videoID": "c_000001_000011"}],
        },
        {"-a_b_000012_000022.mp4": 10.0},
        [("-a_b_000012_000022.mp4", None, None, ["one"], [], "train")],
        [("c_000001_000011", "no_text")],
    ),
    "videocc": (
        {
            "video_cc_public.csv": "url,start,end,caption\n"
            'https://www.youtube.com/watch?v=-aaaaaaaaaa&t=3,1500000,2000000,"a, b"\n'
            "https://youtu.be/-aaaaaaaaaa,9000000,9500000,c\n"
        },
        {"-aaaaaaaaaa.mp4": 5.0},
        [("-aaaaaaaaaa.mp4", 1.5, 2.0, ["a, b"], [], "train")],
        [("row 2", "outside_video")],
    ),
    "webvid": (
        {
            "results_10M_val.csv": "videoid,name,page_dir,duration,contentUrl\n"
            '007,"say ""hi""",1_50,PT00H01M05S,u\n007,other,51_100,PT00H00M05S,u\n'
            "007,other,51_100,PT00H00M05S,u\n"
        },
        {"1_50/007.mp4": 65.0, "51_100/007.mp4": 5.0},
        [
            ("1_50/007.mp4", None, None, ['say "hi"'], [], "val"),
            ("51_100/007.mp4", None, None, ["other"], [], "val"),
        ],
        [("results_10M_val.csv:4", "duplicate")],
    ),
    "youcook2": (
        {
            "youcookii_annotations_trainval.json": {
                "database": {
                    "-a": {
                        "duration": 50.0,
                        "subset": "validation",
                        "recipe_type": "113",
                        "annotations": [{"segment": [41, 54], "id": 0, "sentence": "peel"}],
                    },
                    "b": {
                        "duration": 50.0,
                        "subset": "training",
                        "recipe_type": "1",
                        "annotations": [{"segment": [41, 54], "id": 0}],
                    },
                }
            }
        },
        {"validation/113/-a.mkv": None, "training/101/-a.mkv": None},
        [("validation/113/-a.mkv", 41.0, 50.0, ["peel"], ["113"], "val")],
        [("b", "no_text")],
    ),
    "yt_temporal_180m": (
        {
            "yttemporal180m_000of100.jsonl.gz": [
                {
                    "denoised": [{"cleanasr": "Hi."}],
                    "info": {"id": "-a", "duration": 99},
                    "subtitles": [
                        {"word": word, "time": time}
                        for word, time in [("hi", 1), ("&nbsp;", 2), ("you", 11), ("late", 12.5)]
                    ],
                },
                {"denoised": [], "info": {"id": "b"}, "subtitles": []},
            ]
        },
        {"-a.mp4": 12.5},
        [
            ("-a.mp4", 0.0, 10.0, ["hi"], [], "train"),
            ("-a.mp4", 10.0, 12.5, ["you"], [], "train"),
        ],
        [("line 2 (b)", "empty_text")],
    ),
}


def put(folder, contents):
    """Files of the forms above in a folder."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mat":
            bouts = np.empty((2, len(content)), object)
            bouts[:] = [[np.array(rows) for rows in content.values()], [np.empty((0, 3))]]
            names = np.array([*content], object)
            scipy.io.savemat(path, {"behs": names, "bouts": bouts})
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, content)).encode()))
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
    return folder


def test_every_data_set_has_a_form_here():
    assert FORMS.keys() == registry.DATA_SETS.keys() - {"video2dataset"}  # test_webdataset.py


@pytest.mark.parametrize("name", FORMS)
def test_official_forms_are_read(name, tmp_path):
    contents, videos, records, reasons = FORMS[name]
    kept, skipped = read(name, [put(tmp_path, contents)], videos)
    keys = ("file_name", "start", "end", "texts", "labels", "split")
    assert [tuple(one[key] for key in keys) for one in kept] == records
    assert Counter(skipped) == Counter(reasons)


@pytest.mark.parametrize("name", FORMS)
def test_annotations_of_another_data_set_are_one_sentence(name, tmp_path):
    """Another form under the official names."""
    contents, videos, *_ = FORMS[name]
    other = {file: "[1, 2]" if file.endswith("json") else "a b\nc\n" for file in contents}
    put(
        tmp_path, {file: text for file, text in other.items() if not file.endswith((".mat", ".gz"))}
    )
    with pytest.raises(AnnotationError) as caught:
        read(name, [tmp_path], videos)
    message = str(caught.value)
    assert str(tmp_path) in message and name in message
    assert message.endswith(".") and "\n" not in message


def complaint(call):
    with pytest.raises(AnnotationError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"caf\xe9 1.0 2.0##x.\n", "is not UTF-8"),
        (b"AB 1.0 nan##x.\n", "line 1: this is not the form"),
        (b"AB 1.0 2.0 x.\n", "there is no ##"),
        (b"\x1f\x8b\x08\x00cut", "damaged or cut short"),
    ],
)
def test_a_bad_text_is_named_with_its_line(tmp_path, data, expected):
    path = tmp_path / "charades_sta_train.txt"
    path.write_bytes(data)
    message = complaint(lambda: read("charades_sta", [path], {"AB.mp4": 5.0}))
    assert message.startswith(str(path)) and expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("videoid,name,page_dir\n1,a,b\n", "the first line has no duration"),
        ("videoid,name,page_dir,duration\n1,a,b\n", "line 2: there are 3 values for 4 columns"),
        ('videoid,name,page_dir,duration\n1,"a\n2,b,c,d\n', "line 2: a quote is opened"),
        ("", "the first line has no videoid, name, page_dir, duration"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path, text, expected):
    path = tmp_path / "results_2M_train.csv"
    path.write_text(text)
    message = complaint(lambda: read("webvid", [path], {"b/1.mp4": 5.0}))
    assert message.startswith(str(path)) and expected in message


@pytest.mark.parametrize("cut", [1, 12, 60, 100])
def test_long_json_is_read_entry_by_entry_and_noticed_when_it_is_cut(tmp_path, monkeypatch, cut):
    monkeypatch.setattr("vplib.data.public.annotations.CHUNK", 7)
    path, content = tmp_path / "a.json", {"a": {"b": [1.5, "}"], "c": 12345678901}, "d": {"e": {}}}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8-sig")
    notes = Annotations("x", [path])
    assert dict(notes.entries(path)) == content
    assert [*notes.entries(path, 2)] == [("b", [1.5, "}"]), ("c", 12345678901), ("e", {})]
    path.write_text(path.read_text()[:-cut] if cut < 100 else json.dumps(content) + "]")
    with pytest.raises(ValueError):
        [*notes.entries(path, 2)]


def test_classes_of_another_version_are_noticed(tmp_path):
    rows = "".join(f"class {n},a,{n},{n + 10},val\n" for n in range(401))
    put(tmp_path, {"val.csv": "label,youtube_id,time_start,time_end,split\n" + rows})
    message = complaint(lambda: read("kinetics400", [tmp_path], {"a.mp4": None}))
    assert "line 402: this is class 401 and kinetics400 has 400" in message
    assert len(read("kinetics600", [tmp_path], {})[0]) == 401


def test_a_pickle_among_annotations_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "calms21_task1_train.npy"
    np.save(path, np.array({"a": Hostile()}), allow_pickle=True)
    message = complaint(lambda: read("calms21", [tmp_path], {}))
    assert "which is no array" in message and not (tmp_path / "ran").exists()
    np.save(path, np.array({"annotator-id_0": {"task1/test/mouse071_x": {"annotations": [0]}}}))
    assert read("calms21", [tmp_path], {})[0][0]["labels"] == ["attack"]
    assert pickle.loads(pickle.dumps(science.objects(path)[""])).shape == ()


# --- the join -------------------------------------------------------------------------------------


def row(**fields):
    return Row(**{"source": "1", "file": "a.mp4", "id": "a", "split": "train"} | fields)


def reasons(rows, videos):
    return [one.reason for one in joining.joined(rows, Videos(videos))]


def test_what_comes_first_of_several_reasons():
    there, gone = {"a.mp4": 10.0}, {"b.mp4": 10.0}
    assert reasons([row(start=5.0, end=5.0)], gone) == ["missing_video"]
    assert reasons([row(start=20.0, end=5.0)], there) == ["empty_segment"]
    assert reasons([row(start=10.0, end=15.0)], there) == ["outside_video"]
    assert reasons([row(start=-1.0, end=5.0)], there) == ["outside_video"]
    assert reasons([row(reason="no_label")], gone) == ["no_label"]
    assert reasons([row(), row()], there) == [None, "duplicate"]
    assert reasons([row(split="val"), row()], there) == [None, None]


def test_an_unknown_length_cuts_nothing_and_that_of_the_file_counts_first():
    for length, told, end in ((None, None, 99.0), (None, 20.0, 20.0), (10.0, 20.0, 10.0)):
        [one] = joining.joined([row(start=1.0, end=99.0, seconds=told)], Videos({"a.mp4": length}))
        assert (one.reason, one.end) == (None, end)


def test_a_missing_video_takes_all_its_entries_and_counts_once():
    rows = [row(source=f"a {n}", start=float(n), end=9.0, sources=("a",)) for n in range(5)]
    found = [*joining.joined(rows, Videos({"b.mp4": 1.0}))]
    assert [(one.source, one.reason, one.note) for one in found] == [
        ("a", "missing_video", "a.mp4")
    ]


def test_a_key_frame_behind_the_end_is_outside():
    rows = [row(start=8.0, end=11.0, more={"keyframe": at}) for at in (9.5, 10.5)]
    assert reasons(rows, {"a.mp4": 10.0}) == [None, "outside_video"]


def test_videos_are_found_by_the_end_of_their_path():
    names = ["x/1/a.mp4", "x/2/a.mkv", "b.part.webm", "ZG1.1", "cafe\u0301.MP4", "c.mp4.part"]
    videos = Videos(dict.fromkeys(names))
    assert videos.find("a") == "x/1/a.mp4"  # .mp4 before .mkv
    assert videos.find("2/a") == "x/2/a.mkv"
    assert videos.find("3/a") is None and videos.find("/1/a") is None
    assert videos.find("gone", "b.part") == "b.part.webm"
    assert videos.find("ZG1.1") == "ZG1.1" and videos.find("ZG1") is None
    assert videos.find("caf\u00e9") == "cafe\u0301.MP4"
    assert videos.find("c.mp4") is None and videos.find("c") is None


def test_films_of_ava_that_were_cut_are_seen_by_their_length(tmp_path):
    contents, *_ = FORMS["ava22"]
    put(tmp_path, contents)
    [one], _ = read("ava22", [tmp_path], {"-a.mp4": 901.0})
    assert (one["start"], one["end"], one["keyframe"], one["film_time"]) == (0.5, 3.5, 2.0, 902.0)
    assert read("ava22", [tmp_path], {"-a.mp4": 890.0})[1].count(
        ("ava_val_v2.2.csv: -a,0902", "outside_video")
    )


# --- the corpus that is written -------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    """Films of 1.2 s, and one that cannot be read."""
    folder = tmp_path / "films"
    for name in ("v/-AB.mp4", "v/CD.mkv.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(video.encode(moving_square(), 10))
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / ".hidden.mp4").write_bytes(b"no video")
    return folder


STA = (
    "-AB 0.2 9.0##a dog.\n-AB 0.0 0.4##a cat.\nbad 0.0 1.0##x.\ngone 0.0 1.0##x.\n-AB 2.0 3.0##x.\n"
)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["public", *map(str, words)])
    monkeypatch.setattr("vplib.environment.write_any_letter", lambda: None)
    command.main()


def table(path):
    return [*csv.reader(io.StringIO(path.read_text(encoding="utf-8")))]


def test_the_command_writes_what_the_folder_source_reads(tmp_path, videos, monkeypatch, capsys):
    given = put(tmp_path / "given", {"charades_sta_train.txt": STA})
    words = ["charades_sta", "--annotations", given, "--videos", videos, "--out", tmp_path / "out"]
    run(monkeypatch, *words, "--dry-run")
    shown = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    run(monkeypatch, *words)
    assert capsys.readouterr().out == shown
    first, counts, *published = shown.splitlines()
    assert counts.split()[:5] == ["train", "5", "2", "1", "3"]
    assert "published: train 12,408 entries (verified; " in shown and "charades_sta" not in first
    assert [line[:3] for line in table(tmp_path / "out/skipped.csv")] == [
        ["source", "reason", "split"],
        ["charades_sta_train.txt:3", "unreadable_video", "train"],
        ["charades_sta_train.txt:4", "missing_video", "train"],
        ["charades_sta_train.txt:5", "outside_video", "train"],
    ]
    assert table(tmp_path / "out/skipped.csv")[1][3].startswith("bad.mp4: is not a readable video")
    lines = (tmp_path / "out/train/metadata.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["file_name"] == "videos/v/-AB.mp4" and first["text"] == "a dog."
    assert (first["start"], first["end"], first["texts"]) == (0.2, 1.2, ["a dog."])
    source = sources.FolderSource(tmp_path / "out", "train", name="sta", resolution=48)
    assert source.texts() == ["a dog.", "a cat."]
    assert [path.name for path in (tmp_path / "out").iterdir()].count("skipped.csv") == 1
    assert [*tmp_path.glob(".*")] == []


def test_a_corpus_is_written_whole_or_not_at_all(tmp_path, videos, monkeypatch):
    given = put(tmp_path / "given", {"charades_sta_train.txt": STA})
    words = ["charades_sta", "--annotations", given, "--videos", videos, "--out", tmp_path / "out"]
    other = put(tmp_path / "other", {"x.mp4": "no video of these"})
    with pytest.raises(SystemExit, match=r"^error: .*no entry can be used \(missing_video 5\)"):
        run(monkeypatch, *words[:3], "--videos", other, "--out", tmp_path / "out")
    (given / "charades_sta_test.txt").write_text("-AB 0 1##good.\n-AB 0 1 bad\n")
    with pytest.raises(SystemExit, match=r"^error: .*charades_sta_test.txt, line 2: "):
        run(monkeypatch, *words)
    assert not (tmp_path / "out").exists() and [*tmp_path.glob(".*")] == []
    (given / "charades_sta_test.txt").unlink()

    def full(*arguments, **options):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(joining.json, "dumps", full)
        with pytest.raises(SystemExit, match=r"^error: .*out cannot be written: the disk is full"):
            run(patched, *words)
    assert not (tmp_path / "out").exists() and [*tmp_path.glob(".*")] == []
    stale = tmp_path / f".out.{joining.socket.gethostname()}-999999999.tmp"
    stale.mkdir()
    run(monkeypatch, *words)
    assert not stale.exists()
    with pytest.raises(SystemExit, match=r"^error: .*out is there already: remove it"):
        run(monkeypatch, *words)
    if Path("/proc/self").exists():  # a place that is there, in which nothing can be made
        with pytest.raises(
            SystemExit, match=r"^error: /proc/.*there is no such place; name another"
        ):
            run(monkeypatch, *words[:-1], "/proc/out")


def test_labels_and_what_belongs_to_no_entry_are_written(tmp_path, videos, monkeypatch, capsys):
    contents = {
        "train.csv": "label,youtube_id,time_start,time_end,split\nzumba,-AB,1,11,train\n",
        "val.csv": "label,youtube_id,time_start,time_end,split\nzumba,-AB,1,11,val\n",
    }
    given = put(tmp_path / "given", contents)
    (videos / "v/-AB_000001_000011.mp4").write_bytes((videos / "v/-AB.mp4").read_bytes())
    words = ["--annotations", given, "--videos", videos, "--out", tmp_path / "out"]
    run(monkeypatch, "kinetics400", *words)
    for split in ("train", "val"):
        line = json.loads((tmp_path / "out" / split / "metadata.jsonl").read_text())
        assert (line["label"], line["labels"], line["text"]) == ("zumba", ["zumba"], "zumba")
        assert "start" not in line and line["youtube_start"] == 1
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["zumba"]
    assert "published: all 400 classes" in capsys.readouterr().out


def test_each_file_is_opened_once_however_many_clips_it_has(tmp_path, videos, monkeypatch):
    looked = []

    def counted(path, *, name):
        looked.append(name)
        return video.probe(path, name=name)

    monkeypatch.setattr("vplib.data.public.videos.probe", counted)
    rows = [row(file="-AB.mp4", start=0.0, end=0.1 * n) for n in range(1, 10)]
    found = [*joining.joined(rows, Videos.below(videos))]
    assert [one.reason for one in found] == [None] * 9 and looked == ["v/-AB.mp4"]


def test_a_folder_without_videos_is_named(tmp_path, monkeypatch):
    given = put(tmp_path / "given", {"charades_sta_train.txt": STA})
    for place in (tmp_path / "gone", given):
        with pytest.raises(
            SystemExit, match=rf"^error: {place}: there (is no such folder|are no video files)"
        ):
            run(monkeypatch, "charades_sta", "--annotations", given, "--videos", place)


def test_published_counts_are_of_data_sets_that_are_read():
    with command.PUBLISHED.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {one["name"] for one in rows} <= registry.DATA_SETS.keys()
    assert all(int(one["count"]) > 0 and one["source"] for one in rows)
    assert {one["confidence"] for one in rows} == {"verified", "single"}
    unknown = registry.DATA_SETS.keys() - {one["name"] for one in rows}
    assert unknown == {"fly_vs_fly", "kabr", "video2dataset"}  # of which no count is known
    assert issubclass(files.FileError, OSError)
