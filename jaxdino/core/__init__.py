"""The base of all other packages: flat parameters, rules over paths, sharding, errors."""
