"""Model cards: the hub's form, every file, the record's numbers, nothing of the machine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import toy
from huggingface_hub import ModelCard
from test_video import moving_square

from vplib import cards, export, paths, results, scores, shipped
from vplib.data import video
from vplib.model import checkpoints

REAL = paths.ROOT / "reports" / "weights"
CARD = (REAL / cards.CARD).read_text(encoding="utf-8")
MANIFEST = json.loads((REAL / "manifest.json").read_text(encoding="utf-8"))
TABLES = ("headline", "seeds")


@pytest.fixture
def place(tmp_path):
    """The shipped files and the tables, to change at will."""
    tables = tmp_path / "reports" / "tables"
    tables.mkdir(parents=True)
    for name in TABLES:
        shutil.copy(paths.ROOT / "reports" / "tables" / f"{name}.csv", tables)
    return Path(shutil.copytree(REAL, tmp_path / "reports" / "weights"))


def exported(name, place: Path) -> str:
    weights = checkpoints.read(name)
    return cards.exported(name, weights, checkpoints.infer(weights), place)


def rows_of(section: str) -> list[list[str]]:
    """The cells of its tables, without their heads."""
    lines = [line[2:-2] for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    heads = {i for i, line in enumerate(cells) if i + 1 < len(cells) and cells[i + 1][0] == "---"}
    return [line for i, line in enumerate(cells) if i not in heads and line[0] != "---"]


def section(card: str, key: str) -> str:
    return card.split(f"\n## {cards.SECTIONS[key]}\n")[1].split("\n## ")[0]


def wrong(card: str, place: Path) -> list[str]:
    """Numbers of a card that are not those of the tables in the folder `place`."""
    found = []
    headline = {(row["name"], row["scale"]): row for row in results.read(place=place)}
    record = scores.record_of(place)
    measures = {measure.what: measure for measure in scores.MEASURES}
    for part in section(card, "evaluation").split("### `")[1:]:
        scale = part.partition("`")[0]
        for what, guess, *values, seeds in rows_of(part):
            measure = measures[what]
            names = [measure.guessing, *(scores.row_of(measure, one) for one in scores.ENCODERS)]
            for name, said in zip(names, [guess, *values], strict=True):
                row = headline.get((name, scale))
                numbers = [row[key] for key in ("value", "low", "high") if row[key]] if row else []
                if re.findall(r"[-\d.e]+", said) != numbers:
                    found.append(name)
            if seeds != headline[(names[-1], scale)]["seeds"]:
                found.append(f"seeds of {names[-1]}")
    for one in ModelCard(card).data.eval_results or []:
        args = one.metric_args
        row = record[(args["row"], args["scale"], str(args["training_seed"]))]
        said = [one.metric_value, *args.get("interval", [])]
        if said != [float(row[key]) for key in ("value", "low", "high") if row[key]]:
            found.append(args["row"])
    return found


# --- the card of the shipped files ---------------------------------------------------------------


def test_the_card_is_not_stale(place):
    """It tells the tables as they are, or as they are committed, where somebody ran things since."""
    told = [cards.shipped(place)]
    for name in TABLES:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./reports/tables/{name}.csv"],
            cwd=paths.ROOT,
            capture_output=True,
        )
        if shown.returncode == 0:
            (place.parent / "tables" / f"{name}.csv").write_bytes(shown.stdout)
    told.append(cards.shipped(place))
    assert CARD in told, "type python -m vplib.shipped card"


def test_every_shipped_file_has_its_entry():
    details, made = rows_of(section(CARD, "details")), rows_of(section(CARD, "procedure"))
    assert [line[0] for line in details] == [line[0] for line in made]
    assert {line[0].strip("`") for line in made} == MANIFEST.keys()
    for name, command, commit, digest, whose in made:
        entry = MANIFEST[name.strip("`")]
        assert command == f"`{entry['command']}`" and digest == f"`{entry['sha256']}`"
        assert entry["commit"].startswith(commit.strip("`")) and len(commit) == 14
        assert bool(whose) == (entry["stage"] != "vocabulary")
    for name, stage, seed, count, _ in details:
        entry = MANIFEST[name.strip("`")]
        assert (stage, seed) == (entry["stage"], str(entry["seed"]))
        if count:
            weights = checkpoints.read(REAL / name.strip("`"))
            assert int(count.replace(",", "")) == sum(value.size for value in weights.values())


def test_numbers_are_the_records(place):
    card = cards.shipped(place)
    assert wrong(card, place.parent) == []
    shown = rows_of(section(card, "evaluation"))
    scales = {entry["scale"] for entry in MANIFEST.values()}
    assert len(shown) == len(scales) * len(scores.MEASURES)
    assert len(ModelCard(card).data.eval_results) == 2 * len(scores.MEASURES)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("column", ["value", "low"])
def test_a_changed_number_is_seen(place, table, column):
    old = cards.shipped(place)
    file = place.parent / "tables" / f"{table}.csv"
    names = file.read_text(encoding="utf-8").splitlines()[0].split(",")
    lines = file.read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("motion_stage2_top1,study"))
    cells = lines[at].split(",")
    cells[names.index(column)] = "0.4321"
    file.write_text("\n".join([*lines[:at], ",".join(cells), *lines[at + 1 :]]) + "\n")
    assert wrong(old, place.parent) == ["motion_stage2_top1"]
    assert wrong(cards.shipped(place), place.parent) == []


def test_the_card_says_whose_scores_it_tells(place):
    entry = MANIFEST["study-stage2.npz"]
    file = place.parent / "tables" / "seeds.csv"
    text = file.read_text(encoding="utf-8")
    record = scores.record_of(place.parent)
    scored = {row["weights"] for key, row in record.items() if key[1:] == ("study", "0")} - {""}
    for digest, said in ((entry["sha256"], "this file"), ("f" * 64, f"`{'f' * 12}`")):
        told = text
        for one in scored:
            told = told.replace(one, digest)
        file.write_text(told)
        made = rows_of(section(cards.shipped(place), "procedure"))
        assert {line[0]: line[-1] for line in made}["`study-stage2.npz`"] == said


def test_what_was_not_measured_is_not_told(place):
    for name in TABLES:
        (place.parent / "tables" / f"{name}.csv").unlink()
    card = cards.shipped(place)
    assert section(card, "evaluation").strip() == "Not measured."
    assert "minutes" not in section(card, "compute")
    assert ModelCard(card).data.eval_results is None
    (place / "manifest.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="^no weights are shipped in .*: type "):
        cards.shipped(place)


def test_the_command_writes_the_card_again(place, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "WEIGHTS", place)
    (place / cards.CARD).write_text("stale")
    shipped.main(["card"])
    assert (place / cards.CARD).read_text(encoding="utf-8") == cards.shipped(place)
    assert capsys.readouterr().out.count(cards.CARD) == 1
    (place / "manifest.json").unlink()
    with pytest.raises(SystemExit, match="^error: no weights are shipped in "):
        shipped.main(["card"])


def test_the_lines_of_python_run(place, monkeypatch):
    (lines,) = re.findall(r"^```python\n(.*?)^```", CARD, re.MULTILINE | re.DOTALL)
    (place / "clip.mp4").write_bytes(video.encode(moving_square(), 10))
    monkeypatch.chdir(place)
    scope = {}
    exec(lines, scope)
    assert scope["tokens"].ndim == 3 and (scope["videos"] @ scope["texts"].T).shape == (1, 2)


# --- the form of all -----------------------------------------------------------------------------


@pytest.fixture
def every(place, tmp_path):
    """A card of each kind, by name."""
    told = {"shipped": cards.shipped(place)}
    for kind in ("encoder", "video_text", "classifier"):
        checkpoints.save(getattr(toy, kind)(), tmp_path / f"{kind}.npz")
        told[kind] = exported(tmp_path / f"{kind}.npz", place)
    for name in ("study-stage1.npz", "lesson-stage2.npz"):
        told[name] = exported(place / name, place)
    weights = checkpoints.read(tmp_path / "encoder.npz")
    known = "google/videoprism-base-f16r288"
    told[known] = cards.exported(known, weights, checkpoints.infer(weights), place)
    return told


def test_cards_are_the_hubs(every):
    """As far as the hub's package can tell without a network."""
    kinds = {"feature-extraction", "video-classification"}
    for name, card in every.items():
        read = ModelCard(card)
        data = read.data.to_dict()
        assert ModelCard(f"---\n{read.data.to_yaml()}\n---\n{read.text}").data.to_dict() == data
        assert data["library_name"] == ("vplib" if name == "shipped" else "transformers")
        assert data["pipeline_tag"] in kinds and "videoprism" in data["tags"]
        assert (data["pipeline_tag"] == "video-classification") == (name == "classifier")
        assert ("model-index" in data) == (name == "shipped" or name.endswith(".npz"))
        assert ("datasets" in data) == ("model-index" in data)
        header = card.split("\n---\n")[0]
        assert not re.search(r"!!python|\.nan|: null|None", header), name


def test_every_card_has_all_sections(every):
    for name, card in every.items():
        titles = re.findall(r"^## (.*)$", card, re.MULTILINE)
        assert titles == list(cards.SECTIONS.values()), name
        assert all(section(card, key).strip() for key in cards.SECTIONS), name
        assert "](../" not in card and "](#" not in card  # a hub shows this page alone


def test_no_card_tells_where_it_was_made(every, tmp_path):
    for name, card in every.items():
        assert str(tmp_path) not in card and str(paths.ROOT) not in card, name
        assert not re.search(r"(?<![\w.:/])/(?:[\w.-]+/)+", card), name


def test_limits_and_misuse_are_named(every):
    for name in ("shipped", "study-stage1.npz"):
        assert "nothing of real video" in section(every[name], "limits")
        assert "judge people" in section(every[name], "misuse")


def test_of_released_weights_nothing_is_claimed(every, place, tmp_path):
    name = "google/videoprism-base-f16r288"
    card, data = every[name], ModelCard(every[name]).data
    assert (data.base_model, data.license) == (name, "other") and data.license_name
    assert data.license_link == f"https://huggingface.co/{name}"
    for key in ("use", "misuse", "limits", "data", "procedure", "evaluation", "compute"):
        assert data.license_link in section(card, key)
    assert not rows_of(card) and "apache" not in card.lower()
    # A file that is only called like Google's is none.
    other = tmp_path / checkpoints.RELEASED["videoprism_public_v1_base"].file
    shutil.copy(tmp_path / "encoder.npz", other)
    assert ModelCard(exported(other, place)).data.base_model is None


def test_of_unknown_weights_it_asks(every):
    for kind in ("encoder", "video_text", "classifier"):
        assert ModelCard(every[kind]).data.license == "unknown"
        for key in ("use", "misuse", "limits", "data", "procedure", "evaluation", "compute"):
            assert "fill this in before you upload" in section(every[kind], key)
        assert f"{kind}.npz" in section(every[kind], "details")


def test_an_exported_card_has_the_numbers_of_its_own_file(every, place):
    for name in ("study-stage1.npz", "lesson-stage2.npz"):
        found = ModelCard(every[name]).data.eval_results
        assert wrong(every[name], place.parent) == [] and len(found) == len(scores.MEASURES)
        entry = MANIFEST[name]
        for one in found:
            told = (one.metric_args["scale"], one.metric_args["training_seed"], one.metric_config)
            assert told == (entry["scale"], entry["seed"], name)


def test_a_shipped_file_is_known_by_its_bytes(every, place, tmp_path):
    shutil.copy(place / "study-stage1.npz", tmp_path / "renamed.npz")
    card = exported(tmp_path / "renamed.npz", place)
    assert wrong(card, place.parent) == [] and ModelCard(card).data.license == "apache-2.0"
    (made,) = rows_of(section(card, "procedure"))
    assert made[0] == "`study-stage1.npz`"
    rows = {one.metric_args["row"] for one in ModelCard(card).data.eval_results}
    assert rows == {scores.row_of(measure, "stage1") for measure in scores.MEASURES}
    weights = checkpoints.read(place / "study-stage1.npz")
    np.savez(tmp_path / "changed.npz", **{key: value + 1 for key, value in weights.items()})
    assert ModelCard(exported(tmp_path / "changed.npz", place)).data.license == "unknown"


def test_an_exported_folder_has_its_card(tmp_path, monkeypatch):
    """Also where safetensors is absent: what writes the arrays is not what is tested."""
    writer = types.ModuleType("safetensors.numpy")
    writer.save_file = lambda named, path, metadata: Path(path).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", writer)
    export.export(REAL / "study-stage2.npz", tmp_path / "folder")
    assert {file.name for file in (tmp_path / "folder").iterdir()} == {
        cards.CARD,
        "config.json",
        "model.safetensors",
    }
    card = ModelCard.load(tmp_path / "folder" / cards.CARD)
    assert card.data.license == "apache-2.0" and card.data.eval_results


# --- upload --------------------------------------------------------------------------------------


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^hf .*$", page, re.MULTILINE)]


def asked(words: list[str]) -> subprocess.CompletedProcess:
    """What the hub's program says to these words and a cry for help: unknown words are an error."""
    program = Path(sys.executable).with_name("hf")
    return subprocess.run(
        [program, *words[1:], "--help"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def test_commands_of_upload_are_the_hubs(every):
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    found = {tuple(words) for page in [readme, *every.values()] for words in commands(page)}
    assert all(commands(page) for page in [readme, *every.values()])
    for words in sorted(found):
        done = asked(list(words))
        assert done.returncode == 0 and f"hf {words[1]} " in done.stdout, done.stderr
        assert words[1] != "upload" or "[LOCAL_PATH]" in done.stdout
        places = [word for word in words[2:] if not word.startswith("-")]
        assert words[1] != "upload" or (len(places) == 2 and places[0] == "OWNER/NAME")
    assert asked(["hf", "upload", "OWNER/NAME", ".", "--folder"]).returncode != 0
