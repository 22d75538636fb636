"""The page and the JSON API through which a person teaches a device: ``bitreplay serve STATE``."""
