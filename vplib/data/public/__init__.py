"""Public corpora and benchmarks as they are distributed: official annotations, joined with videos.

Command (__main__: `python -m vplib.data.public NAME --annotations ... --videos ... --out ...`), files
as they come (annotations), what a reader yields (rows), which videos are there (videos), the skip
rules and what is written (joining), every data set by name (registry), and the readers: pretraining,
classification, localisation, retrieval, answers, science.
"""
