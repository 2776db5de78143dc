"""Files of weights, of any origin, opened without trust."""
