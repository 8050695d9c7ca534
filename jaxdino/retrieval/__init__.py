"""One embedding for each image of a folder, and what it is good for: search, near-duplicates, clusters."""
