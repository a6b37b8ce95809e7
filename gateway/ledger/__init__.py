"""The wallet: scripts, their client, the outbox, the embedded server. The only importer of redis."""
