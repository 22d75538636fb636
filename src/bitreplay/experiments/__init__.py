"""Experiments: protocol files, the runs they stand for, who does them and where, their results and the report (docs/experiments.md)."""
