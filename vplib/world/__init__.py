"""The embedded world, a procedural corpus whose truth is known.

Read corpora, then scenes, drawing and captions.
"""
