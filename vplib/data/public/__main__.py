"""Read a public data set: `python -m vplib.data.public NAME --annotations ... --videos ... --out ...`.

What one has, official annotation files and a folder of videos, becomes a folder for `data=folder`.
Nothing is copied or downloaded, and with `--dry-run` nothing is written.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from vplib import environment, files, paths
from vplib.data.public import joining
from vplib.data.public.annotations import AnnotationError
from vplib.data.public.registry import DATA_SETS, beside, rows
from vplib.data.public.rows import Row
from vplib.data.public.videos import Videos
from vplib.progress import Line

PUBLISHED = paths.ROOT / "reports" / "published" / "annotations.csv"


def main() -> None:
    args = _arguments()
    environment.write_any_letter()
    try:
        for line in _run(args):
            print(files.printable(line), flush=True)
    except (AnnotationError, files.FileError) as error:
        sys.exit(f"error: {files.printable(error)}")


def _run(args: argparse.Namespace) -> list[str]:
    known, videos = DATA_SETS[args.name], None
    if not known.shards:
        if not args.videos or not args.videos.is_dir():
            place = f"{args.videos}: there is no such folder" if args.videos else "none is named"
            raise AnnotationError(f"{place}; say --videos FOLDER, where the videos are.")
        videos = Videos.below(args.videos, pictures=known.pictures)
    found = _shown(joining.joined(rows(args.name, args.annotations, videos), videos))
    if args.dry_run:
        counts = joining.counted(found)
    elif known.shards:
        counts = joining.write_asked(found, args.out)
    else:
        more = {"one_label": known.one_label, "beside": beside(args.name, args.annotations)}
        counts = joining.write(found, args.videos, args.out, **more)
    return [*_table(counts), *_published(args.name)]


def _shown(found: Iterator[Row]) -> Iterator[Row]:
    """The same rows, counted on the last line of the terminal."""
    line = Line(sys.stderr)
    for number, row in enumerate(found, 1):
        if number % 1000 == 0:
            line.show(f"{number} entries")
        yield row
    line.clear()


def _table(counts: dict[str, joining.Counts]) -> list[str]:
    lines = [f"{'split':8} {'entries':>9} {'records':>9} {'videos':>9} {'skipped':>9}"]
    for split, of_split in counts.items():
        skipped = of_split.skipped.total()
        numbers = (of_split.records + skipped, of_split.records, len(of_split.videos), skipped)
        told = ", ".join(f"{reason} {n}" for reason, n in of_split.skipped.most_common())
        shown = " ".join(f"{number:9}" for number in numbers)
        lines.append(f"{split:8} {shown}  {told}".rstrip())
    return lines


def _published(name: str) -> list[str]:
    if not PUBLISHED.is_file():  # of an installed package
        return []
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == name]
    if not rows:
        return ["published: no count is known"]
    return [
        f"published: {row['split']} {int(row['count']):,} {row['unit']} ({row['confidence']}; {row['source']})"
        for row in rows
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.data.public",
        description="Join official annotations with the videos that are there.",
    )
    parser.add_argument(
        "name", choices=sorted(DATA_SETS), metavar="NAME", help=", ".join(DATA_SETS)
    )
    parser.add_argument(
        "--annotations",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="files or folders",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="FOLDER",
        help="of all but video2dataset, whose shards are both",
    )
    parser.add_argument(
        "--out", type=Path, metavar="data/NAME", help="a folder that is not there yet"
    )
    parser.add_argument("--dry-run", action="store_true", help="count only, write nothing")
    args = parser.parse_args()
    args.out = args.out or paths.DATA / args.name
    return args


if __name__ == "__main__":
    main()
