"""The embedded world, a procedural corpus whose truth is known.

Read corpora, then scenes, drawing and captions. Beside them stand families for evaluation alone:
untrimmed videos, animals, whose bodies are creatures, and the arrow of time; records are how they
are stored.
families has all of evaluation under their names. choices asks about motion in words, asking has
clips whose questions need the video. grades says how right the corpora's captions are.
"""
