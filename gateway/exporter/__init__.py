"""Deliver events: outbox → batch → sink → acknowledge. Sinks are one file each in `sinks/`."""
