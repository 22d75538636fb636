"""The networks, one file a family; `network.py` is what they share, `names.py` the presets."""
