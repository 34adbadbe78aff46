"""Prefect's REST interface, as its UI uses it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Prefect:
    """A server and the deployment that is tested."""

    url: str
    deployment: str = "adapt/adapt"

    def call(self, method: str, path: str, **body: Any) -> Any:
        for _ in range(20):
            answer = httpx.request(method, f"{self.url}/{path}", json=body or None, timeout=30)
            # Its database was locked for a moment; Prefect's own client tries again as well.
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.2)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def start(self, **parameters: Any) -> str:
        """A new run of the deployment; its id."""
        deployment = self.call("GET", f"deployments/name/{self.deployment}")
        run = self.call("POST", f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)
        return str(run["id"])

    def retry(self, run: str) -> None:
        """What the button Retry does."""
        self._set(run, {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"})

    def cancel(self, run: str) -> None:
        """What the button Cancel does."""
        self._set(run, {"type": "CANCELLING", "name": "Cancelling"})

    def _set(self, run: str, state: dict[str, str]) -> None:
        self.call("POST", f"flow_runs/{run}/set_state", state=state)

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"flow_runs/{run}")
        return found

    def runs(self) -> set[str]:
        """Ids of all runs."""
        return {run["id"] for run in self.call("POST", "flow_runs/filter", limit=200)}

    def ended(self, run: str, seconds: float = 600) -> dict[str, Any]:
        """Wait until the run has ended; its state."""
        self.until(lambda: self.run(run)["state"]["type"] in FINAL, seconds, f"run {run} to end")
        state: dict[str, Any] = self.run(run)["state"]
        return state

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            time.sleep(0.2)

    def tasks(self, run: str) -> dict[str, str]:
        """Name and state of each task that has one by now, in the order in which they were made."""
        found = self.call("POST", "task_runs/filter", flow_runs={"id": {"any_": [run]}}, sort="EXPECTED_START_TIME_ASC")
        return {task["name"]: task["state"]["name"] for task in found if task["state"]}

    def lines(self, run: str) -> list[str]:
        """What the run and its tasks logged."""
        found, offset = [], 0
        while page := self.call(
            "POST", "logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC", offset=offset
        ):
            found += [entry["message"] for entry in page]
            offset += len(page)
        return found

    def artifacts(self, run: str) -> dict[str, Any]:
        """Data by key."""
        found = self.call("POST", "artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}
