"""Shared readers of provider answers: tolerant JSON, server-sent events, numbers, usage."""
