"""Model cards in the form of the Hugging Face hub: a YAML header, then sections.

`vplib.shipped` writes `reports/weights/README.md`, the card of the shipped files, and `vplib.export`
puts a card into every folder that it writes. Measured numbers come from `reports/tables/`, none is
typed.
"""

import hashlib
import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from vplib import paths, scores
from vplib.model import checkpoints
from vplib.model.sizes import Sizes

CARD = "README.md"  # the name that the hub knows
SECTIONS = {
    "details": "Model details",
    "use": "Intended use",
    "misuse": "Misuse and use out of scope",
    "limits": "Biases, risks and limits",
    "data": "Training data",
    "procedure": "Training procedure",
    "evaluation": "Evaluation",
    "compute": "Compute and environment",
    "code": "How to use",
    "upload": "Upload",
    "citation": "Citation",
}

CITATION = """\
```bibtex
@inproceedings{zhao2024videoprism,
  title = {VideoPrism: A Foundational Visual Encoder for Video Understanding},
  author = {Zhao, Long and others},
  booktitle = {ICML},
  year = {2024},
  note = {arXiv:2402.13217}
}
```
"""
LIMITS = """\
- **They know nothing of real video.** All training clips were drawn by a program: a few coloured shapes that move rigidly over drawn
  backgrounds, in frames that wrap around; no people, animals, hands, depth, cuts, speech or writing. Scores compare with nothing outside
  this world, and a frame of a camera is unlike anything they saw.
- **Language.** English sentences of a small grammar, some of them wrong on purpose. Other words are cut into pieces without a meaning.
  Most captions name appearance and few name motion: compare motion that is named without labels with guessing, in the table,
  before you trust a text about motion.
- **Length.** Short clips of a few frames at a low resolution; longer videos are only looked at in windows.
- **People.** None were in the training data, so nothing was learnt about any group of them; that is ignorance, not fairness. How such
  encoders treat people was not measured.
- **Seeds.** Training again with another seed changes some scores by many points: see the intervals.
"""
MISUSE = """\
Do not use these weights to watch, identify, count or judge people; to decide anything in medicine, law, work, insurance or safety; or
to moderate what people publish: they cannot, and their answers look as sure as right ones. Do not cite scores on drawn animals
as results about animals. Do not report them as results of Google's VideoPrism: they are thousands of times smaller and
trained on another thing.
"""
DATA = """\
The **embedded world** (`data_cards/embedded_world.md` of the repository): procedural videos with captions that imitate how eight corpora of the
paper were harvested, drawn anew on your machine by `vplib.world`; nothing is downloaded, and it is no data set of the hub. Its test
clips are other streams than its training clips. It contains no personal data.
"""


# --- the card of the shipped files ---------------------------------------------------------------


def shipped(place: Path) -> str:
    """The card of the weights in the folder `place`, from its manifest and the tables beside it;
    the lines of Python in it load the files of the last scale.

    Raises CheckpointError where there is no manifest.
    """
    entries = manifest(place)
    if not entries:
        raise checkpoints.CheckpointError(
            f"no weights are shipped in {paths.short(place)}: type python -m vplib.shipped ship lesson 1"
        )
    scales = sorted({entry["scale"] for entry in entries.values()})
    leading = {
        name: entry
        for name, entry in entries.items()
        if (entry["scale"], entry["seed"]) == (scales[-1], 0)
    }
    sections = {
        "details": f"{_DETAILS}\n{_files(place, entries)}",
        "use": _USE,
        "misuse": MISUSE,
        "limits": LIMITS,
        "data": DATA,
        "procedure": f"{_PROCEDURE}\n{_made(entries, place.parent)}",
        "evaluation": scores.evaluation(place.parent, scales),
        "compute": scores.durations(place.parent, scales),
        "code": _CODE.format(scale=scales[-1], length=_length(scales[-1])),
        "upload": _UPLOAD,
        "citation": CITATION,
    }
    data = ModelCardData(
        license="apache-2.0",
        library_name="vplib",
        pipeline_tag="feature-extraction",
        language="en",
        tags=["video", "video-text", "videoprism", "jax", "flax", "procedural-data"],
        datasets=[scores.DATASET],
        model_name="vplib",
        eval_results=scores.model_index(place.parent, leading) or None,
    )
    return _card(data, "VideoPrism, rebuilt: small encoders of a procedural world", sections)


def manifest(place: Path) -> dict[str, dict]:
    """What `manifest.json` says of each shipped file; nothing where there is none."""
    file = place / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


_DETAILS = """\
Weights of an open re-implementation of *VideoPrism* ([arXiv:2402.13217](https://arxiv.org/abs/2402.13217)) in JAX and Flax NNX, by `vplib`.
Independent of Google, and none of Google's weights are in them. Stage 1 is a video encoder and a text encoder, trained together on noisy captions; stage 2 is a video
encoder that learnt to predict what stage 1 sees of hidden tokens, with a text tower and a pooler tuned on it afterwards while it
stayed locked (LiT). Arrays in half precision, as `.npz` under the names of the released checkpoints. Licence: Apache-2.0.
"""
_USE = """\
To learn with: to look at tokens, retrieval and probes in the lessons without training first; to check that an
installation computes what it should; as small subjects of experiments on video encoders, whose training data is known completely. For videos of a camera take
Google's released weights, which the same code loads.
"""
_PROCEDURE = """\
Two stages as in the paper, with deviations that small runs need; the README of the repository lists them (start from random weights, AdamW,
fewer layers, standardised token targets, shuffling that grows, one-layer decoders). Every setting is in `conf/`, resolved in
`runs/<notebook>/<tag>/config.yaml`. Each file comes from a command at a commit:
"""
_CODE = """\
With the repository installed (`pip install -e .` in a clone), in this folder:

```python
from pathlib import Path

import jax.numpy as jnp

from vplib.data import pipeline, text
from vplib.evaluate import classify, features

tokenizer = text.Tokenizer(Path("{scale}-vocabulary.model"), {length})  # pieces, as in training
model = features.video_text(Path("{scale}-stage2.npz"), tokenizer)
encoder = model.vision_encoder
clip = pipeline.read_clip(Path("clip.mp4"), name="clip.mp4", **classify.view(encoder))[None]
tokens = encoder(jnp.asarray(clip) / 255)  # one clip, frames x patches, width
videos = features.embeddings_of(model)(clip)
texts = features.embed_texts(model, tokenizer, ["a red star moves to the left", "a blue ring"])
print(videos @ texts.T)  # cosine similarities
```

For PyTorch's transformers, `python -m vplib.export {scale}-stage2.npz FOLDER` writes a folder with a card of its own.
"""
_UPLOAD = """\
In this folder, once you are logged in (`hf auth login`):

```bash
hf upload OWNER/NAME .
```
"""


def _length(scale: str) -> int:
    """Pieces of a text in the training of a scale; a longer one is cut."""
    from vplib import config  # only the card of shipped files needs Hydra

    return config.check("31_lit_tuning", f"scale={scale}").model.text_length


def _files(place: Path, entries: dict[str, dict]) -> str:
    lines = []
    for name, entry in entries.items():
        count = pieces = ""
        if name.endswith(".npz"):
            weights = checkpoints.read(place / name)
            count = f"{sum(value.size for value in weights.values()):,}"
            pieces = shape(checkpoints.infer(weights, name=name))
        lines.append([f"`{name}`", entry["stage"], str(entry["seed"]), count, pieces])
    return scores.table(["file", "stage", "training seed", "parameters", "input and layers"], lines)


def _made(entries: dict[str, dict], place: Path) -> str:
    record = scores.record_of(place)
    lines = [
        [
            f"`{name}`",
            f"`{one['command']}`",
            f"`{one['commit'][:12]}`",
            f"`{one['sha256']}`",
            scores.scored(record, one),
        ]
        for name, one in entries.items()
    ]
    return scores.table(["file", "command", "commit", "sha256", "scores are of"], lines)


def shape(sizes: Sizes) -> str:
    """Sizes in words."""
    layers = f"{sizes.spatial_layers} layers over space and {sizes.temporal_layers} over time"
    if sizes.joint:
        layers = f"{sizes.layers} layers over space and time at once"
    told = (
        f"{sizes.frames} frames of {sizes.size} x {sizes.size} pixels, patches of {sizes.patch}; width "
        f"{sizes.width}, {layers}"
    )
    if sizes.vocabulary:
        told += f"; {sizes.text_layers} of text, {sizes.vocabulary:,} pieces"
    return told + (f"; {sizes.classes} classes" if sizes.classes else "")


# --- the card of an exported folder --------------------------------------------------------------


def exported(name: str | Path, weights: dict, sizes: Sizes, place: Path) -> str:
    """The card of what `vplib.export` writes of the weights `name`.

    Of a file that is shipped in `place` it says what is known; of released weights it points to
    Google's card and claims nothing; of others it says what is missing.
    """
    file, count = Path(name), sum(value.size for value in weights.values())
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    ours = {one: told for one, told in manifest(place).items() if told["sha256"] == digest}
    google = _google(name, count)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification" if sizes.classes else "feature-extraction",
        tags=["video", "videoprism"],
    )
    if google:
        origin, sections = _of_google(google, data)
        title = f"{google} for transformers"
    elif ours:
        origin, sections = _of_shipped(ours, place, data)
        title = f"{file.stem}: a small encoder of a procedural world"
    else:
        origin, title, data.license = "of which nothing more is known here", file.stem, "unknown"
        sections = {key: f"{_MISSING} {question}\n" for key, question in _QUESTIONS.items()}
    named = (
        f"[{google}](https://huggingface.co/{google})"
        if google
        else f"`{file.name}` (sha256 `{digest}`)"
    )
    words = shape(sizes)
    sections["details"] = (
        f"{_EXPORTED}Converted from {named}, {origin}.\n\n{words[0].upper()}{words[1:]}; "
        f"{count:,} parameters.\n"
    )
    told = {"code": _transformers(sizes), "upload": _UPLOAD, "citation": CITATION}
    return _card(data, title, sections | told)


def _google(name: str | Path, count: int) -> str | None:
    """The repository of Google's that `name` is, or is the file of: called so, with as many
    parameters.
    """
    for key, one in checkpoints.RELEASED.items():
        if one.repository and str(name) in (key, one.repository):
            return one.repository
        if Path(name).name == one.file and count == one.parameters:
            return one.repository
    return None


def _of_google(google: str, data: ModelCardData) -> tuple[str, dict[str, str]]:
    """Whose weights these are, and sections that claim nothing of them."""
    page = f"https://huggingface.co/{google}"
    data.base_model, data.license = google, "other"
    data.license_name, data.license_link = "as-the-base-model", page
    pointer = f"See [the card of {google}]({page})."
    sections = dict.fromkeys(SECTIONS, f"{pointer}\n") | {
        "misuse": f"Whatever Google's card and licence exclude. {pointer}\n",
        "limits": f"Those of the original. {pointer}\n",
        "evaluation": f"None of ours: what is measured of the original stands there. {pointer}\n",
    }
    return "made and released by Google, whose card and licence hold", sections


def _of_shipped(ours: dict[str, dict], place: Path, data: ModelCardData) -> tuple[str, dict]:
    """Whose weights these are, and what is known of them."""
    data.license, data.language, data.datasets = "apache-2.0", "en", [scores.DATASET]
    if found := scores.model_index(place.parent, ours):
        data.model_name, data.eval_results = Path(next(iter(ours))).stem, found
    scales = sorted({one["scale"] for one in ours.values()})
    sections = {
        "use": _USE,
        "misuse": MISUSE,
        "limits": LIMITS,
        "data": DATA,
        "procedure": f"{_PROCEDURE}\n{_made(ours, place.parent)}",
        "evaluation": f"{_ORIGINAL}\n{scores.evaluation(place.parent, scales)}",
        "compute": scores.durations(place.parent, scales),
    }
    return "one of the files that the repository ships; licence: Apache-2.0", sections


_ORIGINAL = """\
Measured on the original file with `vplib`, not on this folder, whose outputs agree with it to 1e-4 in the tests of the repository.
"""
_MISSING = "**Not stated: fill this in before you upload.**"
_EXPORTED = """\
Weights of a VideoPrism model ([arXiv:2402.13217](https://arxiv.org/abs/2402.13217)) as a folder of PyTorch's transformers, written by `python -m vplib.export`.
"""
_QUESTIONS = {
    "use": "What is the model for, and for whom?",
    "misuse": "What should nobody do with it? Watching or judging people, and decisions about them, are the first to name.",
    "limits": "Whom and what do the training videos show, and whom and what not? Where is it wrong?",
    "data": "Which videos and texts, from where, with whose consent, under which licence?",
    "procedure": "Which command, which settings, which commit?",
    "evaluation": "Nothing was measured of this file. Which scores, with which intervals, by which commands?",
    "compute": "Which machine, for how long?",
}


def _transformers(sizes: Sizes) -> str:
    """Lines of Python for a folder of this kind."""
    more, after = [], ""
    if sizes.vocabulary:
        name = "VideoPrismClipModel"
        more = [
            f"ids = torch.randint(3, {sizes.vocabulary}, (1, 6))  # yours: pieces of the vocabulary",
            "keep = torch.ones_like(ids)  # 0 where a text is padded",
        ]
        last = [
            "    videos = model.get_video_features(pixel_values_videos=video).pooler_output[:, 0]",
            "    texts = model.get_text_features(ids, keep).pooler_output",
        ]
        after = _PIECES
    elif sizes.classes:
        name = "VideoPrismForVideoClassification"
        last = ["    logits = model(pixel_values_videos=video).logits[:, 0]"]
    else:
        name = "VideoPrismVisionModel"
        last = ["    tokens = model(pixel_values_videos=video).last_hidden_state"]
    size = f"1, {sizes.frames}, 3, {sizes.size}, {sizes.size}"
    lines = [
        "import torch",
        f"from transformers import {name}",
        "",
        f'model = {name}.from_pretrained(".").eval()',
        "# Yours: clips, frames, channels, rows, columns, from 0 to 1.",
        f"video = torch.rand({size})",
        *more,
        "with torch.inference_mode():",
        *last,
    ]
    block = "\n".join(lines)
    return f"In this folder, after `pip install torch transformers`:\n\n```python\n{block}\n```\n{after}"


_PIECES = """
The SentencePiece vocabulary is not in this folder: it is that of the original weights. Texts are cleaned first, as by
`vplib.data.text.canonical`.
"""


# --- the form ------------------------------------------------------------------------------------


def _card(data: ModelCardData, title: str, sections: dict[str, str]) -> str:
    """The whole page; every section has its place."""
    told = "\n".join(f"## {words}\n\n{sections[key]}" for key, words in SECTIONS.items())
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{told}"))
