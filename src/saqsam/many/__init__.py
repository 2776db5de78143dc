"""Folders of any size: work in shards, on this process or on many, and one merged answer."""
