from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adaloc.config import AlertsConfig
from adaloc.monitor.alerts import Alert, Alerts, tell, told_of_failure
from adaloc.monitor.log import load_run
from adaloc.training.run_log import RunLog, read_events
from monitor_runs import write_start


class Hook:
    """A local webhook that keeps what it gets."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.delay_s, self.status = 0.0, 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                time.sleep(hook.delay_s)
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_stall_is_told_once_until_the_run_recovers(tmp_path: Path) -> None:
    alerts = Alerts(AlertsConfig(), tmp_path)
    assert alerts.after_epoch(1, 5.0) is None
    first = alerts.after_decision(2, "trial", "the loss is stalled")
    assert first == Alert("stalled", 2, "the loss is stalled")
    assert alerts.after_decision(3, "trial", "the loss is stalled") is None
    assert alerts.stalled(3, "a diagnosis") is None
    assert alerts.after_epoch(4, 5.1) is None
    recovered = alerts.after_epoch(5, 4.9)
    assert recovered is not None
    assert (recovered.kind, recovered.epoch) == ("recovered", 5)
    assert alerts.after_epoch(6, 4.8) is None
    assert alerts.after_decision(7, "trial", "again") is not None


def test_going_back_and_losses_that_are_no_numbers_are_a_divergence(tmp_path: Path) -> None:
    alerts = Alerts(AlertsConfig(), tmp_path)
    alerts.catch_up([{"event": "epoch", "val_loss": 2.0}])
    assert alerts.after_decision(1, "boost", "it helped") is None
    diverged = alerts.after_epoch(2, math.nan)
    assert diverged is not None
    assert diverged.kind == "diverged"
    assert alerts.after_decision(2, "rollback", "the loss jumped") is None
    assert alerts.after_epoch(3, 2.5) is None  # not below the best that was there before
    recovered = alerts.after_epoch(4, 1.9)
    assert recovered is not None
    assert recovered.kind == "recovered"


def test_a_run_that_goes_on_knows_from_its_log_what_was_told(tmp_path: Path) -> None:
    log, said = write_start(tmp_path), list[str]()
    whole = Alerts(AlertsConfig(), tmp_path)
    tell(whole, whole.after_decision(2, "trial", "stalled"), log, 10, said.append)
    log.write("resume", epoch=2, step=10)  # right after: the alert of that step is not told again
    resumed = Alerts(AlertsConfig(), tmp_path)
    resumed.catch_up(read_events(log.path))
    assert [event["kind"] for event in load_run(tmp_path).alerts] == ["stalled"]
    assert resumed.after_decision(3, "trial", "stalled") is None
    recovered = resumed.after_epoch(4, 3.0)
    assert recovered is not None
    tell(resumed, recovered, log, 20, said.append)
    tell(resumed, resumed.ended(4, "finished", "all well"), log, 20, said.append)
    log.write("resume", epoch=4, step=20)  # killed after its last word: it is said again
    assert [event["kind"] for event in load_run(tmp_path).alerts] == ["stalled", "recovered"]


def test_an_alert_reaches_log_terminal_webhook_and_command(tmp_path: Path, hook: Hook) -> None:
    out = tmp_path / "out.json"
    program = "import sys, json; open(sys.argv[1], 'w').write(json.dumps(sys.argv[2:]))"
    config = AlertsConfig(
        webhook_url=hook.url, command=[sys.executable, "-c", program, str(out), "{kind}", "{message}", "{epoch}", "{x}"]
    )
    log, said = write_start(tmp_path), list[str]()
    alerts = Alerts(config, tmp_path)
    message = "stalled; $(touch broken) `x` {kind} é"
    tell(alerts, Alert("stalled", 7, message), log, 35, said.append)
    alerts.close(said.append)
    assert hook.bodies == [
        {"kind": "stalled", "epoch": 7, "message": message, "run": str(tmp_path),
         "text": f"adaloc {tmp_path.name}: stalled (epoch 7): {message}"}
    ]  # fmt: skip
    assert json.loads(out.read_text()) == ["stalled", message, "7", "{x}"]
    assert [(event["kind"], event["epoch"]) for event in load_run(tmp_path).alerts] == [("stalled", 7)]
    assert len(said) == 1
    assert "stalled (epoch 7)" in said[0]


def test_only_the_kinds_that_were_asked_for_are_delivered(tmp_path: Path, hook: Hook) -> None:
    alerts = Alerts(AlertsConfig(webhook_url=hook.url, kinds=["finished"]), tmp_path)
    alerts.deliver(Alert("stalled", 1, ""))
    alerts.deliver(alerts.ended(2, "finished", "all well"))
    alerts.close(pytest.fail)
    assert [body["kind"] for body in hook.bodies] == ["finished"]


def test_a_webhook_that_hangs_holds_nothing_up(tmp_path: Path, hook: Hook) -> None:
    hook.delay_s = 0.5
    alerts, said = Alerts(AlertsConfig(webhook_url=hook.url, timeout_s=0.1), tmp_path), list[str]()
    begin = time.perf_counter()
    for epoch in range(40):
        alerts.deliver(Alert("stalled", epoch, ""))
    assert time.perf_counter() - begin < 0.3
    alerts.close(said.append)
    assert any("dropped" in line for line in said)
    assert any("timed out" in line or "Timeout" in line for line in said)


@pytest.mark.parametrize("command", [["/nowhere/program"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_what_fails_is_said_and_the_training_goes_on(tmp_path: Path, hook: Hook, command: list[str]) -> None:
    hook.status = 500
    alerts, said = Alerts(AlertsConfig(webhook_url=hook.url, command=command), tmp_path), list[str]()
    alerts.deliver(Alert("diverged", 1, ""))
    alerts.close(said.append)
    assert any("500" in line for line in said)
    assert any(command[0] in line for line in said)


def test_an_error_that_ends_the_training_is_told_on_its_way(tmp_path: Path) -> None:
    write_start(tmp_path)
    said = list[str]()
    with (
        pytest.raises(ValueError, match="no more"),
        told_of_failure(
            Alerts(AlertsConfig(), tmp_path), RunLog(tmp_path / "log.jsonl"), lambda: (12, 60), said.append
        ),
    ):
        raise ValueError("no more")
    assert [(e["kind"], e["epoch"], e["message"]) for e in load_run(tmp_path).alerts] == [("failed", 12, "no more")]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "127.0.0.1"])
def test_only_http_addresses_are_taken(url: str) -> None:
    with pytest.raises(ValidationError):
        AlertsConfig(webhook_url=url)
