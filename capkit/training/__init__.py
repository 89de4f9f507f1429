"""Dual-adapter training: the module, the streams, the skorch net and what is around it."""
