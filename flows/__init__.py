"""Prefect over DVC's graph: order, retries, logs; no mathematics."""

import os

# Prefect reads these on import.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Prefect's default of 20 s for its temporary server is too short on a busy machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
