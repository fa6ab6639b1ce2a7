"""Every number in the docs comes from a script in this folder."""
