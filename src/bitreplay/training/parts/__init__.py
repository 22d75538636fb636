"""What methods are composed of: head, tail, replay memory, steps, settings.  No part knows a method."""
