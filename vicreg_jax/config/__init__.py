"""The fields of an experiment: defaults, rules, help."""
