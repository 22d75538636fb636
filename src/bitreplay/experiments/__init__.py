"""Experiments: protocol files, the runner that carries them out, their results and the report (docs/experiments.md)."""
