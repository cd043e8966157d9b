"""From YAML to one frozen, validated value, and from grids to many."""
