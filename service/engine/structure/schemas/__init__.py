"""What the library's reading of schemas lacks.

``circles`` puts schemas together that lead back to themselves, ``unique`` finds the arrays whose
items must differ, and ``differing`` holds an answer to that.
"""
