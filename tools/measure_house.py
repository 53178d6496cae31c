"""Measures of how `src/aftermix` reads: its folders, names, paragraphs, docstrings and untyped records.

    python tools/measure_house.py [FOLDER] [--json] [--list MEASURE]

FOLDER is a checkout, by default the one that this script lies in. `--list` prints the places behind one measure: what
is too full, too long, named twice, or without a verb or a paragraph.
"""

from house.table import main

if __name__ == "__main__":
    main()
