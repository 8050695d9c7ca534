"""What every other room stands on: flat parameters, rules over paths, sharding, errors."""
