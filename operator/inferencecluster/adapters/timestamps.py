"""Kubernetes' timestamps (RFC 3339, UTC) and Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime


def unix_seconds(timestamp: str) -> float:
    """Unix seconds of `2026-11-21T08:30:00Z`, with or without a fraction. Raises `ValueError`."""
    return datetime.fromisoformat(timestamp).timestamp()


def timestamp(seconds: float) -> str:
    """Whole seconds, as metav1.Time writes them."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(seconds: float) -> str:
    """Microseconds, as metav1.MicroTime writes them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
