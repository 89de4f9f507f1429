"""Faults thrown at capkit, and what came of each: a module for each kind, one table of all."""
