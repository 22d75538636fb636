"""Pictures: how they are read, which public sets there are, and in which order they come."""
