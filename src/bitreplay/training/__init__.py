"""Training off the device; the only folder that imports torch (extra ``train``)."""
