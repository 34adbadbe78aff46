"""Prefect over DVC's graph: order, retries, logs; no mathematics."""

import os

# Prefect reads them when it is imported.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
# A busy machine needs longer than Prefect's 20 s to start its own temporary server.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
