"""What a SAM is good at: reading a data set, prompting, measuring."""
