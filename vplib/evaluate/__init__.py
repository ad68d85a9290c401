"""What a frozen model knows.

Read features (kept by cache), heads and metrics, with precision, ranking and detection for what is no mean over
clips, then tasks, which joins them, then classify and ceilings, and tokens (of a locked encoder,
which training reads). A second frozen head: multilayer; several views of a clip: views; damaged
clips: perturb; long videos: windows, and over_time for one of any length. Localisation: proposals and gtad in time, boxes in space,
localise for both with detection. Words: ranking for retrieval and choices, language for their tasks;
captioning (CIDEr), answers and wups for what is generated, speech, which generates it. Cheaper than
any head: readout, a linear map to texts, and rank, which needs no labels.
Behaviour of animals, by all of these: science. Training more than a head: adapt. Public data
sets, by all of these: benchmarks, whose videos are originals; keyframes with boxes, behaviour, and
talk, which knows what is asked and said of them. Captions that do not fit are dropped by similarity;
what such scores are worth, grounding says.
"""
