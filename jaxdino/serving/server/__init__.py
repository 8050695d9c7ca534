"""`jaxdino serve`: models behind HTTP, in batches, with limits."""
