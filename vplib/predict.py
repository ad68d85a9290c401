"""Classify videos with a classifier of 45_own_classifier: `python -m vplib.predict RUN_FOLDER VIDEO [VIDEO ...]`."""

import argparse
import sys
from pathlib import Path

import numpy as np

from vplib.data.video import VideoError
from vplib.evaluate import classify
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
    args = parser.parse_args()
    try:
        classifier, classes = classify.restore(args.run_folder)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    failed = False
    for path in args.videos:
        try:
            p = classify.probabilities(classifier, path)
        except VideoError as error:  # the others can still be classified
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        print(
            f"{path}: " + ", ".join(f"{classes[k]} {p[k]:.1%}" for k in np.argsort(-p)[:TOP]),
            flush=True,
        )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
