"""Every public data set by its name: who reads it, and what else its files say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vplib.data.public import (
    answers,
    classification,
    localisation,
    pretraining,
    retrieval,
    science,
)
from vplib.data.public.annotations import AnnotationError, Annotations
from vplib.data.public.rows import Row
from vplib.data.public.videos import Videos


@dataclass(frozen=True)
class DataSet:
    """How a data set is read.

    `read` yields rows from annotations; if `asks` it is given the index of videos, too, for what
    only that can tell. `beside` finds what belongs to no single entry: classes in their order,
    further splits. `one_label`: every clip is of one class. `pictures`: a video is a folder of them.
    `shards`: what is read holds the videos, too.
    """

    read: Callable[..., Iterator[Row]]
    beside: Callable[[Annotations], dict] | None = None
    asks: bool = False
    one_label: bool = False
    pictures: bool = False
    shards: bool = False


DATA_SETS = {
    "activitynet13": DataSet(
        localisation.activitynet13, localisation.activitynet13_classes, one_label=True
    ),
    "activitynet_captions": DataSet(
        retrieval.activitynet_captions, retrieval.activitynet_paragraphs
    ),
    "ava22": DataSet(localisation.ava22, localisation.ava_60_classes, asks=True),
    "ava_kinetics": DataSet(localisation.ava_kinetics, localisation.ava_60_classes, asks=True),
    "calms21": DataSet(science.calms21),
    "charades": DataSet(classification.charades, classification.charades_classes),
    "charades_sta": DataSet(localisation.charades_sta),
    "chimpact": DataSet(science.chimpact, science.chimpact_classes),
    "crim13": DataSet(science.crim13, one_label=True),
    "diving48": DataSet(classification.diving48, classification.diving48_classes, one_label=True),
    "fly_vs_fly": DataSet(science.fly_vs_fly, science.fly_arrays, one_label=True),
    "howto100m": DataSet(pretraining.howto100m),
    "internvid": DataSet(pretraining.internvid),
    "kabr": DataSet(science.kabr, science.kabr_classes, pictures=True),
    "kinetics400": DataSet(
        classification.kinetics, classification.kinetics_classes, one_label=True
    ),
    "kinetics600": DataSet(
        classification.kinetics, classification.kinetics_classes, one_label=True
    ),
    "moments_in_time": DataSet(
        classification.moments_in_time, classification.moments_classes, one_label=True
    ),
    "msrvtt": DataSet(retrieval.msrvtt, retrieval.msrvtt_1k_a),
    "msrvtt_qa": DataSet(answers.msrvtt_qa, answers.answers_by_count),
    "msvd": DataSet(retrieval.msvd),
    "msvd_qa": DataSet(answers.msvd_qa, answers.answers_by_count),
    "nextqa": DataSet(answers.nextqa, answers.atp_hard),
    "ssv2": DataSet(classification.ssv2, classification.ssv2_classes, one_label=True),
    "thumos14": DataSet(localisation.thumos14, localisation.thumos14_classes, one_label=True),
    "vatex": DataSet(retrieval.vatex),
    "video2dataset": DataSet(pretraining.video2dataset, shards=True),
    "videocc": DataSet(pretraining.videocc),
    "webvid": DataSet(pretraining.webvid),
    "youcook2": DataSet(retrieval.youcook2),
    "yt_temporal_180m": DataSet(pretraining.yt_temporal_180m, asks=True),
}


def rows(name: str, paths: Sequence[str | Path], videos: Videos | None = None) -> Iterator[Row]:
    """The entries of a data set in the order of its files; nothing is joined with videos yet.

    Raises AnnotationError for annotations of another data set or form, with file and line.
    """
    notes = Annotations(name, paths)
    known = DATA_SETS[name]
    with_videos = (videos,) if known.asks else ()
    return _told(notes, known.read(notes, *with_videos))


def beside(name: str, paths: Sequence[str | Path]) -> dict:
    """What the annotations say beside their entries. Raises AnnotationError as `rows` does."""
    notes = Annotations(name, paths)
    find = DATA_SETS[name].beside
    return next(_told(notes, (find(notes) for _ in "1"))) if find else {}


def _told(notes: Annotations, found: Iterator) -> Iterator:
    try:
        yield from found
    except AnnotationError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise AnnotationError(
            f"{notes.place or notes.paths[0]}: this is not the form of {notes.name} "
            f"({type(error).__name__}: {error}); give its official annotation files."
        ) from error
