"""Words for the procedural world: captions, harvested text, class prompts, questions.

Everything takes a `vplib.world.scenes.Scene`; nothing here draws or moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vplib.world.drawing import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

if TYPE_CHECKING:
    from vplib.world.scenes import Object, Scene

PLACES = {
    "desert": "a desert",
    "sea": "the sea",
    "forest": "a forest",
    "night": "the night sky",
    "snow": "the snow",
    "bricks": "a brick wall",
    "meadow": "a meadow",
    "city": "a city",
}
_WHERE = {
    "desert": ("in a desert", "over the desert sand"),
    "sea": ("over the sea", "on the sea"),
    "forest": ("in a forest", "among the trees of a forest"),
    "night": ("in the night sky", "in a starry night sky"),
    "snow": ("in the snow", "in falling snow"),
    "bricks": ("on a brick wall", "in front of a brick wall"),
    "meadow": ("in a meadow", "over a meadow with flowers"),
    "city": ("in a city", "in front of city windows"),
}
# The first phrase of each motion is its canonical name, used in answers.
_DOES = {
    "left": ("moves left", "slides to the left", "drifts left"),
    "right": ("moves right", "slides to the right", "drifts right"),
    "up": ("moves up", "rises", "drifts upwards"),
    "down": ("moves down", "sinks", "drifts downwards"),
    "spin_clockwise": ("spins clockwise", "turns clockwise", "rotates clockwise"),
    "spin_counterclockwise": (
        "spins counterclockwise",
        "turns counterclockwise",
        "rotates counterclockwise",
    ),
    "orbit_clockwise": ("circles clockwise", "goes round in a circle clockwise"),
    "orbit_counterclockwise": (
        "circles counterclockwise",
        "goes round in a circle counterclockwise",
    ),
    "shake_sideways": ("shakes sideways", "shakes from side to side"),
    "shake_updown": ("shakes up and down", "trembles up and down"),
    "pulse": ("pulses", "grows and shrinks again and again"),
    "still": ("stays still", "does not move", "rests"),
    "zigzag": ("zigzags", "moves in a zigzag"),
    "bounce": ("bounces", "hops up and down"),
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
}
_TOGETHER = {
    "chase": ("{b} chases {a}", "{b} runs after {a}"),
    "flee": ("{a} flees from {b}", "{a} runs away from {b}"),
    "circle": ("{a} and {b} circle each other", "{a} and {b} dance around each other"),
    "collide": ("{a} and {b} collide", "{a} and {b} bump into each other"),
    "ignore": ("{a} and {b} ignore each other", "{a} and {b} go separate ways"),
    "side_by_side": ("{a} and {b} travel side by side", "{a} moves along next to {b}"),
}
_CAMERA = {
    "still": ("", ""),
    "shake": (" while the camera shakes", ", filmed with a shaking camera"),
    **{
        f"pan_{way}": (f" while the camera pans {way}", f", and the camera moves {way}")
        for way in ("left", "right", "up", "down")
    },
}
_NUMBERS = ("no", "one", "two", "three")
_SAYS_PLACE = 0.9  # probability that a harvested text names the place
_OFF_TOPIC = (
    "subscribe for more",
    "best of {n}",
    "official video",
    "episode {n}",
    "live stream part {n}",
    "my holiday vlog",
    "cooking with friends",
    "unboxing day {n}",
    "top {n} facts",
    "relaxing music",
    "lyrics",
    "trailer {n}",
    "how to fix it",
    "news at {n}",
    "funny moments {n}",
    "full match",
    "tutorial part {n}",
    "behind the scenes",
)


# --- accurate captions ---------------------------------------------------------------------------


def _noun(
    thing: Object,
    rng: np.random.Generator | None = None,
    size: float = 1.0,
    texture: float = 1.0,
    colour: float = 1.0,
) -> str:
    """'large striped red star': the shape always, the rest with the given probabilities.

    Medium size and plain texture are never said. Without a generator: everything there is to say.
    """
    # Draws are in (0, 1]: what has probability 0 is never said.
    said = (1.0, 1.0, 1.0) if rng is None else (1 - rng.random(3))
    words = [
        thing.size if thing.size in ("small", "large") and (rng is None or said[0] <= size) else "",
        thing.texture if thing.texture != "plain" and (rng is None or said[1] <= texture) else "",
        thing.colour if rng is None or said[2] <= colour else "",
        thing.shape,
    ]
    return " ".join(word for word in words if word)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _does(motion: str, rng: np.random.Generator | None = None) -> str:
    """'moves left and then spins clockwise'; the canonical words without a generator."""
    said = [
        _DOES[word][0 if rng is None else rng.integers(len(_DOES[word]))]
        for word in motion.split("_then_")
    ]
    return " and then ".join(said)


def _clause(scene: Scene, rng: np.random.Generator, **said: float) -> str:
    """Who does what."""
    nouns = [_a(_noun(thing, rng, **said)) for thing in scene.objects]
    if scene.interaction:
        phrases = _TOGETHER[scene.interaction]
        return phrases[rng.integers(len(phrases))].format(a=nouns[0], b=nouns[1])
    return _join(
        [
            f"{noun} {_does(thing.motion, rng)}"
            for noun, thing in zip(nouns, scene.objects, strict=True)
        ]
    )


def _where(scene: Scene, rng: np.random.Generator, place: float = _SAYS_PLACE) -> str:
    """'in a desert', or nothing where the place goes unsaid."""
    words = _WHERE[scene.background][rng.integers(2)]
    return words if rng.random() < place else ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def describe(
    scene: Scene,
    rng: np.random.Generator,
    *,
    motion: bool,
    place: float = _SAYS_PLACE,
    **said: float,
) -> str:
    """One accurate sentence; with `motion`, what objects and camera do. `said`: as `_noun`."""
    where = _where(scene, rng, place)
    if motion:
        clause, camera = _clause(scene, rng, **said), _CAMERA[scene.camera][rng.integers(2)]
        forms = (
            (f"{clause} {where}{camera}", f"{where}, {clause}{camera}")
            if where
            else (f"{clause}{camera}",)
        )
    else:
        things = _join([_a(_noun(thing, rng, **said)) for thing in scene.objects])
        there = f"there {'is' if len(scene.objects) == 1 else 'are'} {things}"
        forms = (
            f"{things} {where}".strip(),
            f"{where} {there}".strip(),
            f"a video of {things} {where}".strip(),
            f"{things} can be seen {where}".strip(),
        )
    return _sentence(forms[rng.integers(len(forms))])


def _seeded(scene: Scene) -> np.random.Generator:
    """Words chosen by the scene itself, so that its captions never change."""
    return np.random.default_rng(
        [int(1e9 * number) for number in (*scene.view, scene.objects[0].x)]
    )


def caption(scene: Scene) -> str:
    """The full truth in a sentence: all attributes, motions, place, camera."""
    return describe(
        scene, _seeded(scene), motion=True, size=1.0, texture=1.0, colour=1.0, place=1.0
    )


def references(scene: Scene) -> list[str]:
    """Four different accurate captions, for scoring a generated one."""
    rng, found = _seeded(scene), dict.fromkeys([caption(scene)])
    while len(found) < 4:
        found[
            describe(
                scene, rng, motion=len(found) < 3, size=0.7, texture=0.8, colour=1.0, place=1.0
            )
        ] = None
    return list(found)


# --- how text is harvested -----------------------------------------------------------------------


def hallucinate(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing wrong: shape, colour or texture of an object, or the background."""
    which = int(rng.integers(len(scene.objects)))
    field = str(rng.choice(("shape", "colour", "texture", "background")))
    if field == "texture":  # plain would go unsaid
        used = {scene.objects[which].texture, "plain"}
    else:
        used = {scene.background, *(getattr(thing, field, "") for thing in scene.objects)}
    values = {
        "shape": SHAPES,
        "colour": tuple(COLOURS),
        "texture": TEXTURES,
        "background": BACKGROUNDS,
    }[field]
    wrong = str(rng.choice([value for value in values if value not in used]))
    if field == "background":
        return replace(scene, background=wrong)
    objects = [
        replace(thing, **{field: wrong}) if k == which else thing
        for k, thing in enumerate(scene.objects)
    ]
    return replace(scene, objects=tuple(objects))


def _manual(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    return describe(scene, rng, motion=motion, size=0.5, texture=0.7)


def _model(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    said = describe(scene, rng, motion=motion, size=0.6, texture=1.0)
    number = len(scene.objects)
    opening = (
        "The video shows the following: ",
        "In this clip, ",
        f"A scene with {_NUMBERS[number]} object{'s' * (number > 1)}: ",
        "",
    )[rng.integers(4)]
    said = said.removeprefix("A video of ") if opening else said
    return opening + (said[0].lower() + said[1:] if opening else said)


def _image_caption(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    things = _join([_a(_noun(thing, rng, 0.3, 0.5)) for thing in scene.objects])
    where = _where(scene, rng)
    forms = (
        f"{things} {where}".strip(),
        f"photo of {things} {where}".strip(),
        f"{PLACES[scene.background]} with {things}",
    )
    return forms[rng.integers(3)]


def _alt_text(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    """Names the thing, seldom more: from here an encoder learns shapes first (LOG.md)."""
    things = [_noun(thing, rng, 0.1, 0.2, colour=0.3) for thing in scene.objects]
    where = _where(scene, rng, 0.3)
    place = [scene.background] if where else []
    forms = (
        ", ".join([_join(things), *place]),
        f"{'-'.join((*things[0].split(), *place))}.jpg",
        f"{_join(things)} {where}".strip(),
        f"picture of {_join([*things, *place])}",
        f"stock photo {_join(things)}",
    )
    return forms[rng.integers(len(forms))]


def _off_topic(rng: np.random.Generator, count: int) -> list[str]:
    return [
        str(tag).format(n=rng.integers(2, 100))
        for tag in rng.choice(_OFF_TOPIC, count, replace=False)
    ]


def _metadata(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    tags = [_noun(thing, rng, 0.1, 0.3) for thing in scene.objects]
    tags += [scene.background] if rng.random() < _SAYS_PLACE else []
    tags += [_does(scene.objects[scene.target].motion, rng)] if motion else []
    tags += _off_topic(rng, int(rng.integers(0, 3)))
    return (" | ", ", ", " #")[rng.integers(3)].join(tags[k] for k in rng.permutation(len(tags)))


def _speech(scene: Scene, rng: np.random.Generator, motion: bool) -> str:
    fillers = ("um", "uh", "you know", "like", "so yeah", "I mean", "right", "okay", "well")
    openings = (
        "so today we have",
        "okay look at",
        "and here you can see",
        "what I really like is",
        "there you go",
        "hey everyone this is",
        "now this one is",
    )
    closings = (
        "isn't that nice",
        "let me know in the comments",
        "and that is it",
        "we will see",
        "anyway",
        "alright",
    )
    parts = [openings[rng.integers(len(openings))]]
    for thing in scene.objects:
        parts.append(_a(_noun(thing, rng, 0.3, 0.3)))
        if motion:
            parts.append(f"and it {_does(thing.motion, rng)}")
        parts.append(fillers[rng.integers(len(fillers))])
    if where := _where(scene, rng):
        parts.append(where)
    parts.append(closings[rng.integers(len(closings))])
    if rng.random() < 0.6:
        parts.insert(int(rng.integers(len(parts))), fillers[rng.integers(len(fillers))])
    return " ".join(parts).lower()


_WRITERS = {
    "manual": _manual,
    "model": _model,
    "image caption": _image_caption,
    "alt text": _alt_text,
    "metadata": _metadata,
    "speech": _speech,
}


def write(
    source: str, scene: Scene, rng: np.random.Generator, *, motion: bool, off_topic: bool
) -> str:
    """The text that a source would give this scene.

    `source`: manual, metadata, speech, image caption, model or alt text.
    """
    if off_topic:
        return " | ".join(_off_topic(rng, int(rng.integers(2, 4))))
    return _WRITERS[source](scene, rng, motion)


# --- zero-shot prompts and questions -------------------------------------------------------------


_EXAMPLES = tuple(f"{colour} {shape}" for colour, shape in zip(COLOURS, SHAPES, strict=True))


def lexicon() -> tuple[set[str], set[str]]:
    """The nouns and the verbs of the world's captions."""
    places = {
        word for phrases in _WHERE.values() for phrase in phrases for word in phrase.split()[1:]
    }
    nouns = {*SHAPES, *places, "camera", "video", "photo", "scene", "clip"} - {
        "the",
        "a",
        "of",
        "with",
        "front",
        "falling",
    }
    verbs = {phrase.split()[0] for phrases in _DOES.values() for phrase in phrases}
    return nouns, verbs | {
        "pans",
        "chases",
        "runs",
        "flees",
        "collide",
        "bump",
        "dance",
        "travel",
        "ignore",
    } - {"does"}


def prompts(kind: str, value: str) -> list[str]:
    """Sentences to embed and average for zero-shot classification, in words of training captions.

    `kind`: object ("star"), colour ("red"), colour object ("red star"), background, motion or
    interaction. What the class leaves open (a star has some colour) varies over the sentences, as
    it does in training.
    """
    if kind == "interaction":
        pairs = zip(_EXAMPLES, _EXAMPLES[1:], strict=False)
        return [form.format(a=_a(a), b=_a(b)) for a, b in pairs for form in _TOGETHER[value]]
    if kind == "motion":
        does = [
            " and then ".join(words)
            for words in zip(*(_DOES[m][:2] for m in value.split("_then_")), strict=False)
        ]
        return [f"{_a(noun)} {words}" for noun in _EXAMPLES for words in does]
    if kind == "background":
        return [f"{_a(noun)} {where}" for noun in _EXAMPLES for where in _WHERE[value]]
    nouns = {
        "object": [f"{colour} {value}" for colour in COLOURS],
        "colour": [f"{value} {shape}" for shape in SHAPES],
        "colour object": [value],
    }[kind]
    return [
        form.format(_a(noun)) for noun in nouns for form in ("{}", "a video of {}", "there is {}")
    ]


def bound(scene: Scene) -> list[dict]:
    """Questions about what the one thing looks like that moves so, where others move otherwise."""
    things = scene.objects
    if scene.interaction or len({thing.motion for thing in things}) < max(len(things), 2):
        return []
    return [
        {"question": f"what {what} is the object that {_does(thing.motion)}?", "answer": answer}
        | {"kind": "bound"}
        for thing in things
        for what, answer in (("colour", thing.colour), ("shape", thing.shape))
    ]


def questions(scene: Scene, starts: np.ndarray) -> list[dict]:
    """Questions with one-phrase answers. `starts`: x, y of every object at first, frame sides."""
    things = scene.objects
    asked = [
        ("how many objects are there?", _NUMBERS[len(things)], "count"),
        ("where is this?", PLACES[scene.background], "appearance"),
    ]
    for thing in things:
        asked += [
            (f"what colour is the {thing.shape}?", thing.colour, "appearance"),
            (f"what shape is the {thing.colour} object?", thing.shape, "appearance"),
            (f"what pattern does the {thing.shape} have?", thing.texture, "appearance"),
        ]
        if scene.interaction:
            continue
        steps = thing.motion.split("_then_")
        if len(steps) == 1:
            asked.append((f"what does the {thing.shape} do?", _does(steps[0]), "motion"))
        else:
            asked += [
                (f"what does the {thing.shape} do first?", _does(steps[0]), "order"),
                (f"what does the {thing.shape} do last?", _does(steps[-1]), "order"),
            ]
    for first, (x, _) in zip(things, starts, strict=True):
        for second, (other, _) in zip(things, starts, strict=True):
            if abs(x - other) > 0.15:
                side = "left" if x < other else "right"
                ask = f"at the start, is the {first.shape} left or right of the {second.shape}?"
                asked.append((ask, side, "spatial"))
    if scene.interaction:
        asked.append(("what do the two do?", scene.interaction.replace("_", " "), "motion"))
    return [
        {"question": question, "answer": answer, "kind": kind} for question, answer, kind in asked
    ]
