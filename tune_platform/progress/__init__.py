"""How a search goes, shown while it runs: on a terminal, in a notebook, as lines or as JSON.

`shown` chooses the form; `run` and `resume` of Python and of the command line use it alike. Each form is a listener of
the run: it sees read-only views, after the commit, and notes what changed. Drawing is left to a thread.
"""

#: What `progress` may be. "auto" takes "live" where something can be redrawn, else "plain".
FORMS = ("auto", "live", "plain", "json", "off")
