"""Features of a whole data set on disk: written once by `jaxdino extract`, read by `jaxdino probe` and by numpy."""
