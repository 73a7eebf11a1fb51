"""Flows in the formats of other tools, and those formats as flows."""
