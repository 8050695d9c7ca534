"""Convert a function of jax to an ONNX graph: its jaxpr is walked, and each primitive becomes a few ONNX nodes.

Only what the models of jaxdino use is known (about 50 primitives); anything else is an error that names the primitive.
"""
