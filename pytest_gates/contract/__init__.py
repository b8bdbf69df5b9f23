"""Contracts: guarded YAML into frozen typed models, each thing with its line and column."""
