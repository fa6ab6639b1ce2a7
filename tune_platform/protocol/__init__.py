"""The vocabulary that all parts share: reports, verdicts, events, and what a scheduler, a searcher, a backend is.

Nothing here decides or does anything, and nothing here imports a part that does.
"""
