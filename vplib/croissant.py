"""`python -m vplib.croissant data/shards/world-lesson`: Croissant metadata of the embedded world.

Croissant (mlcommons.org/croissant) is the JSON-LD by which data sets are described for search and for
loaders. Everything in it comes from the code, the data card and the shards that are there. Source: the
Croissant 1.1 specification.
"""

import argparse
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import yaml

from vplib import files, paths
from vplib.data.shards import ShardError, Shards
from vplib.world import corpora

CARD = paths.ROOT / "data_cards" / "embedded_world.md"
CONTEXT = {  # as the specification prints it
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
    key: f"cr:{key}"
    for key in (
        "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format "
        "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex "
        "repeated replace samplingRate separator source subField transform"
    ).split()
}
LAYOUT = (
    "ArrayRecord shards, one msgpack object a record: `video` (bytes of an H.264 MP4), `text`, and "
    "`meta` with corpus, index and seed, which say which clip it is, and fps, frames and duration in "
    "seconds. All else that is true of a clip, vplib.world computes from these three."
)
COLUMNS = {  # of the table of corpora
    "name": ("sc:Text", "folder of the corpus or family"),
    "part": ("sc:Text", "pretraining, or a part of an evaluation family"),
    "stands_for": ("sc:Text", "corpus of the VideoPrism paper; empty for evaluation"),
    "text_source": ("sc:Text", "how the text comes about"),
    "about": ("sc:Text", "what the text is like"),
    "clips": ("sc:Integer", "number of clips"),
    "seconds": ("sc:Float", "length of all clips together"),
}


def metadata(folder: Path, url: str) -> dict:
    """The description of all corpora in `folder`, which 10_prepare_corpus wrote for `data=world`.

    `url` is where they are to be found. Raises ShardError where there is no corpus of the world, and
    for an incomplete one.
    """
    found = [Shards(place.parent, whole=True) for place in sorted(folder.glob("*/manifest.json"))]
    if not found:
        raise ShardError(f"{folder}: there is no corpus; run 10_prepare_corpus first.")
    for corpus in found:
        if not {"corpus", "index", "seed"} <= corpus[0].meta.keys():
            raise ShardError(f"{corpus.folder}: this is no corpus of the world; name its shards.")
    _, header, body = CARD.read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    sections = dict(part.split("\n\n", 1) for part in body.split("\n## ")[1:])
    shards = [corpus.folder / one["file"] for corpus in found for one in corpus.manifest["shards"]]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": card["pretty_name"],
        "description": " ".join(sections["Description"].split("\n\n")[0].split()),
        "license": "https://www.apache.org/licenses/LICENSE-2.0",
        "url": url,
        "version": version("vplib"),
        "inLanguage": card["language"],
        "keywords": ["video", "video-text", "procedural", *card["used_in"]],
        "citeAs": " ".join(sections["Citation"].split()),
        "distribution": [
            *(_file(folder, path) for path in shards),
            {
                "@type": "cr:FileSet",
                "@id": "shards",
                "name": "shards",
                "description": LAYOUT,
                "encodingFormat": "application/x-arrayrecord",
                "includes": "*/*.array_record",
            },
        ],
        "recordSet": [_corpora(found)],
    }


def _id(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _file(folder: Path, path: Path) -> dict:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": _id(folder, path),
        "name": path.name,
        "contentUrl": _id(folder, path),
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-arrayrecord",
        "sha256": digest,
    }


def _corpora(found: list[Shards]) -> dict:
    """A table, with its rows in place, of what is there."""
    rows = []
    for corpus in found:
        name, totals = corpus[0].meta["corpus"], corpus.manifest["statistics"]["totals"]
        rules = corpora.CORPORA.get(name, corpora.ACCURATE)
        told = {
            "name": corpus.folder.name,
            "part": name.partition("/")[2] or "pretraining",
            "stands_for": rules.stands_for,
            "text_source": rules.text_source,
            "about": rules.description,
            "clips": totals["clips"],
            "seconds": round(totals["seconds"], 3),
        }
        rows.append({f"corpora/{key}": value for key, value in told.items()})
    return {
        "@type": "cr:RecordSet",
        "@id": "corpora",
        "name": "corpora",
        "description": "Pretraining corpora and evaluation families.",
        "key": {"@id": "corpora/name"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"corpora/{name}",
                "name": name,
                "description": about,
                "dataType": kind,
            }
            for name, (kind, about) in COLUMNS.items()
        ],
        "data": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.croissant", description=__doc__.splitlines()[0].partition(": ")[2]
    )
    parser.add_argument(
        "folder", type=Path, help="of all corpora, such as data/shards/world-lesson"
    )
    parser.add_argument("--url", required=True, help="where they are to be found")
    given = parser.parse_args()
    try:
        made = metadata(given.folder, given.url)
        files.write(given.folder / "croissant.json", json.dumps(made, indent=1) + "\n")
    except (ShardError, files.FileError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{given.folder / 'croissant.json'}: {len(made['recordSet'][0]['data'])} corpora")


if __name__ == "__main__":
    main()
