"""Searches that other programs run, or have run, written as experiments of ours: by importers, and by a Recorder."""

from tune_platform.recording.recording import Recording, open_recording

__all__ = ["Recording", "open_recording"]
