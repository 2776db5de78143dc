"""A page on which a model segments photographs in the browser: its files, graphs, and the folder of both."""
