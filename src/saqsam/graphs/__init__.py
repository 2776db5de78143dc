"""A packed model as computation graphs, and sessions that run them."""
