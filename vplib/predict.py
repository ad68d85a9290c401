"""Classify videos as 45_own_classifier learned: `python -m vplib.predict RUN_FOLDER VIDEO ...`.

The encoder is the one that 45_own_classifier chose (`weights=`, one's own, or the shipped one).
A video is seen at once, in as many frames as a clip has; with `--timeline FOLDER` window by window,
from its beginning to its end, however long it is.
"""

import argparse
import contextlib
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vplib import environment, files
from vplib.data import video
from vplib.data.video import VideoError
from vplib.evaluate import classify, features
from vplib.evaluate.over_time import Along
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import VideoClassifier
from vplib.progress import Line

TOP = 3  # classes shown
WINDOW = 2.0  # seconds
LONG = 60.0  # seconds, from which on a video's few frames say little of it


def main() -> None:
    args = _arguments()
    environment.write_any_letter()
    try:
        classifier, classes, encoder = classify.restore(args.run_folder)
        if args.timeline:
            with files.explained(args.timeline):  # now, not after hours of work
                tempfile.TemporaryFile(dir=files.folder(args.timeline)).close()
    except (CheckpointError, files.FileError) as error:
        sys.exit(f"error: {files.printable(error)}")
    dtype = features.precision(args.dtype, own=True)
    print(files.printable(f"encoder: {encoder}, in {dtype}"), file=sys.stderr, flush=True)
    say = (_over_time if args.timeline else _at_once)(classifier, classes, dtype, args)
    del classifier  # `say` has its weights, laid out anew
    failed = False
    for number, path in enumerate(args.videos):
        try:
            said = say(number)
        except (VideoError, CheckpointError, files.FileError) as error:
            problem = str(error)
        except Exception as error:  # whatever one file does, the others can still be classified
            problem = (
                f"{path}: cannot be classified ({type(error).__name__}: {error}); leave it out"
            )
        else:
            print(files.printable(f"{path}: {said}"), flush=True)
            continue
        print(f"error: {files.printable(problem)}", file=sys.stderr, flush=True)
        failed = True
    sys.exit(int(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.predict", description="The most probable classes of videos."
    )
    parser.add_argument(
        "run_folder", metavar="RUN_FOLDER", type=Path, help="run folder of 45_own_classifier"
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path)
    parser.add_argument(
        "--timeline",
        metavar="FOLDER",
        type=Path,
        help="what happens when: for each video a table (CSV) of the probabilities in each window, "
        "and a picture (PNG, PDF)",
    )
    parser.add_argument(
        "--window", metavar="SECONDS", type=_seconds, help=f"length of a window; {WINDOW:g}"
    )
    parser.add_argument(
        "--stride",
        metavar="SECONDS",
        type=_seconds,
        help="from one window to the next; as long as a window",
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: bfloat16 where this machine multiplies it by itself, as in hardware.dtype",
    )
    args = parser.parse_args()
    if (args.window or args.stride) and not args.timeline:
        parser.error("--window and --stride are of --timeline FOLDER: add it")
    args.window = args.window or WINDOW
    args.stride = args.stride or args.window
    return args


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(word)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds, more than 0")


def _at_once(
    classifier: VideoClassifier, classes: Sequence[str], dtype: str, args: argparse.Namespace
) -> Callable[[int], str]:
    """A function of a video's number: the most probable classes."""
    probabilities = classify.probabilities_of(classifier, dtype)

    def say(number: int) -> str:
        path = args.videos[number]
        found = _largest(classes, probabilities(path))
        with contextlib.suppress(VideoError):
            if (seconds := video.probe(path, name=str(path)).seconds) >= LONG:
                note = f"{path} lasts {seconds:.0f} s and few of its frames were seen; "
                note += "--timeline FOLDER looks at all of it"
                print(f"note: {files.printable(note)}", file=sys.stderr, flush=True)
        return found

    return say


def _over_time(
    classifier: VideoClassifier, classes: Sequence[str], dtype: str, args: argparse.Namespace
) -> Callable[[int], str]:
    """A function of a video's number, which writes its table and its picture: how often each of the
    commonest classes is the most probable, and where the table is.
    """
    from vplib import timelines  # noqa: F401  slow to load, and missed now, not after hours of work

    along = classify.along(classifier, dtype, length=args.window, stride=args.stride)
    names = _names(args.videos)

    def say(number: int) -> str:
        path, place = args.videos[number], args.timeline / names[number]
        table = place.with_name(f"{place.name}.csv")
        if table.exists():
            raise files.FileError(
                f"{path}: {table} is there already; remove it, or name another folder."
            )
        line = Line(sys.stderr)
        line.show(files.printable(f"{path.name}  looking for its frames"))
        try:
            found = along(path)
        finally:
            line.clear()
        _write(found, classes, place)
        won = np.bincount(found.values.argmax(1), minlength=len(classes)) / len(found.values)
        return f"{_largest(classes, won)} of {len(found.values)} windows, {table}"

    return say


def _largest(classes: Sequence[str], shares: Float[np.ndarray, " K"]) -> str:
    return ", ".join(f"{classes[k]} {shares[k]:.1%}" for k in np.argsort(-shares)[:TOP])


def _names(videos: Sequence[Path]) -> list[str]:
    """What the results of each video are called: as the file without its ending or, where that is
    not enough to tell two apart, as much of its path as is.
    """
    whole = [path.absolute() for path in videos]
    found = [path.stem for path in whole]
    for parts in range(1, max(len(path.parts) for path in whole)):
        for last in ("name", "stem"):
            seen = Counter(name.casefold() for name in found)
            found = [
                "_".join([*path.parts[-parts - (last == "stem") : -1], getattr(path, last)])
                if seen[name.casefold()] > 1
                else name
                for name, path in zip(found, whole, strict=True)
            ]
    return found


def _write(found: Along, classes: Sequence[str], place: Path) -> None:
    """The picture and, last, the table: where that is, all is there."""
    import matplotlib
    import matplotlib.pyplot as plt
    import pandas as pd

    from vplib import figures, timelines

    matplotlib.use("agg")
    best = found.values.argmax(1)
    table = pd.DataFrame(
        {
            "start": found.times[:, 0],
            "end": found.times[:, 1],
            "class": [classes[k] for k in best],
            "probability": found.values.max(1),
        }
    )
    # A column a class: what a spreadsheet draws as it is, and `pandas.wide_to_long` makes long.
    every = pd.DataFrame(found.values, columns=[f"p_{name}" for name in classes])
    figures.style()
    fig = timelines.over_time(
        found.times,
        found.values,
        classes,
        seconds=found.seconds,
        film=found.film,
        label="probability",
    )
    with contextlib.redirect_stdout(sys.stderr):  # letters that no font has
        pictures = figures.drawn(fig)
    plt.close(fig)
    for kind, picture in pictures.items():
        files.write(place.with_name(f"{place.name}.{kind}"), picture)
    text = figures.rows(pd.concat([table, every], axis=1))
    files.write(
        place.with_name(f"{place.name}.csv"), text.encode("utf-8", errors="backslashreplace")
    )


if __name__ == "__main__":
    main()
