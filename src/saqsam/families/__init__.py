"""One record for each family of Segment Anything models; nothing else names a family's modules."""
