"""Servers, workers and supervisors on this machine."""
