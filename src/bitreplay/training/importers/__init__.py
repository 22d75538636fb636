"""Networks that were trained elsewhere, as model files: read, folded, calibrated, rounded (docs/import.md)."""
