"""What a class needs beside the lessons; the words of the course stand in `course/`.

check (what a check cell says), and the cases it tries: first, second, third, fourth and fifth, one a
session. The files that are made from one source: sheets (exercises for students, with solutions for
lecturers), quiz, slides with their drawings. For the day itself: bundle, ready, and grade for what
students hand in.
"""
