"""From images to ranges: mergeable histograms, and the searches that read a range from them."""
