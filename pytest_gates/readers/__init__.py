"""Readers: bytes that a run or a stranger wrote become telemetry and samples. One format a file."""
