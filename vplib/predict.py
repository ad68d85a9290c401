"""Classify videos as 45_own_classifier learned: `python -m vplib.predict RUN_FOLDER VIDEO ...`.

The encoder is the one that 45_own_classifier chose (`weights=`, one's own, or the shipped one).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from vplib import environment, files
from vplib.data.video import VideoError
from vplib.evaluate import classify, features
from vplib.model.checkpoints import CheckpointError

TOP = 3  # classes shown


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.predict", description="The most probable classes of videos."
    )
    parser.add_argument(
        "run_folder", metavar="RUN_FOLDER", type=Path, help="run folder of 45_own_classifier"
    )
    parser.add_argument("videos", metavar="VIDEO", nargs="+", type=Path)
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: bfloat16 where this machine multiplies it by itself, as in hardware.dtype",
    )
    args = parser.parse_args()
    environment.write_any_letter()
    try:
        classifier, classes, encoder = classify.restore(args.run_folder)
    except CheckpointError as error:
        sys.exit(f"error: {files.printable(error)}")
    dtype = features.precision(args.dtype, own=True)
    print(files.printable(f"encoder: {encoder}, in {dtype}"), file=sys.stderr, flush=True)
    classify_video, failed = classify.probabilities_of(classifier, dtype), False
    for path in args.videos:
        try:
            p = classify_video(path)
        except (VideoError, CheckpointError) as error:
            problem = str(error)
        except Exception as error:  # whatever one file does, the others can still be classified
            problem = (
                f"{path}: cannot be classified ({type(error).__name__}: {error}); leave it out"
            )
        else:
            best = ", ".join(f"{classes[k]} {p[k]:.1%}" for k in np.argsort(-p)[:TOP])
            print(files.printable(f"{path}: {best}"), flush=True)
            continue
        print(f"error: {files.printable(problem)}", file=sys.stderr, flush=True)
        failed = True
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
