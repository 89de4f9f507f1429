"""Dual-adapter training: arrays and objects in, weights out."""
