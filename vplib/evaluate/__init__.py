"""What a frozen model knows.

Read features, heads and metrics, with precision, ranking and detection for what is no mean over
clips, then tasks, which joins them, then classify and ceilings, and tokens (of a locked encoder,
which training reads). Long videos: windows. Localisation: proposals and
gtad in time, boxes in space. Words: ranking for retrieval and choices, language for their tasks.
Behaviour of animals, by all of these: science.
"""
