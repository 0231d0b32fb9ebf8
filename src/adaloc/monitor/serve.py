"""A page on this machine alone that refreshes itself while training runs. Reads run folders; writes nothing.

A request names a run, and the name must be one of those that were found in the folder: no part of a request ever
becomes a path. Only the names of this machine are answered (Host), so that a page from elsewhere cannot read along
by DNS rebinding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from markupsafe import Markup

from adaloc.errors import AdalocError
from adaloc.monitor.analysis import seconds_per_epoch
from adaloc.monitor.compare import comparison_body, find_runs, json_table
from adaloc.monitor.live import LogWatcher, seems_running
from adaloc.monitor.log import Run
from adaloc.monitor.page import Live, page
from adaloc.monitor.report import report_body
from adaloc.monitor.say import speaker
from adaloc.words import Language

ADDRESS = "127.0.0.1"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"


class Pages:
    """What is served of a folder: a run, or a folder of runs.

    Args:
        folder: where to look, again at every request.
        interval_s: between the page's looks.
        language: of the words.
    """

    def __init__(self, folder: Path, interval_s: float, language: Language) -> None:
        self._folder, self._interval_s, self._language = folder, interval_s, language
        self._watchers: dict[Path, LogWatcher] = {}
        self._made: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()  # one log is read once, however many windows are open

    def answer(self, path: str) -> tuple[str, str] | None:
        """Content type and content of a request's path; None for one that is not there."""
        with self._lock:
            runs = self._runs()
            single = len(runs) == 1 and self._folder.resolve() == next(iter(runs.values()))[0].resolve()
            if path == "/":
                source, name = ("/content/run/" + quote(next(iter(runs)), safe=""), next(iter(runs))) if single else (
                    "/content/runs", str(self._folder))  # fmt: skip
                return "text/html", self._shell(name, Live(source, self._interval_s))
            if path == "/content/runs":
                return "text/html", self._content("runs", runs, lambda: self._runs_body(runs))
            if path == "/api/runs":
                return "application/json", json_table({n: run for n, (_, run) in runs.items() if run is not None})
            for prefix, is_shell in (("/run/", True), ("/content/run/", False)):
                if not path.startswith(prefix):
                    continue
                name = unquote(path.removeprefix(prefix))
                if name not in runs:
                    return None
                if is_shell:
                    live = Live("/content/run/" + quote(name, safe=""), self._interval_s, "" if single else "/")
                    return "text/html", self._shell(name, live)
                return "text/html", self._content(name, {name: runs[name]}, partial(self._run_body, runs[name][1]))
        return None

    def _runs(self) -> dict[str, tuple[Path, Run | None]]:
        """The runs of the folder as they stand; None for one whose start is not written yet."""
        found = {}
        for name, folder in find_runs(self._folder).items():
            watcher = self._watchers.setdefault(folder, LogWatcher(folder))
            found[name] = (folder, watcher.look())
        return found

    def _shell(self, name: str, live: Live) -> str:
        say = speaker(self._language)
        return page(name, Markup("<p class='soft'>...</p>"), say, live)

    def _content(self, key: str, runs: dict[str, tuple[Path, Run | None]], make: Callable[[], str]) -> str:
        """What was made before, unless a log has changed since, or a run fell silent."""
        running = self._running(runs)
        state = "|".join(f"{name}:{id(run)}:{_stamp(folder)}:{name in running}" for name, (folder, run) in runs.items())
        if self._made.get(key, ("", ""))[0] != state:
            self._made[key] = (state, make())
        return self._made[key][1]

    def _runs_body(self, runs: dict[str, tuple[Path, Run | None]]) -> str:
        known = {name: run for name, (_, run) in runs.items() if run is not None}
        links = {name: "/run/" + quote(name, safe="") for name in known}
        return comparison_body(known, self._language, links, self._running(runs))

    def _running(self, runs: dict[str, tuple[Path, Run | None]]) -> set[str]:
        """Names of the runs that write as if they still train."""
        return {
            name
            for name, (folder, run) in runs.items()
            if run is not None
            and seems_running(run, seconds_per_epoch(run.epochs.wall_s), self._watchers[folder].quiet_seconds())
        }

    def _run_body(self, run: Run | None) -> str:
        if run is not None:
            return report_body(run, self._language)
        return Markup("<p>{}</p>").format(speaker(self._language)("No epoch is finished yet."))


def make_server(folder: Path, port: int, interval_s: float, language: Language = "en") -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is not running yet.

    Args:
        folder: a run folder, or one that holds runs.
        port: 0 takes a free one.
        interval_s: s between the page's looks.
        language: of the words.

    Raises:
        AdalocError: when the folder is not there, or the port cannot be had.
    """
    if not folder.is_dir():
        raise AdalocError(f"There is no folder {folder} to serve. Name a run folder, or one that holds runs.")
    pages = Pages(folder, interval_s, language)

    class Handler(_Handler):
        site = pages

    try:
        server = ThreadingHTTPServer((ADDRESS, port), Handler)
    except OSError as error:
        raise AdalocError(f"Port {port} cannot be had: {error.strerror}. Choose another one with --port.") from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    site: Pages
    server_version = "adaloc"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answers one request."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in (ADDRESS, "localhost"):
            self.send_error(403, "This page is for this machine alone")
            return
        answer = self.site.answer(urlsplit(self.path).path)
        if answer is None:
            self.send_error(404)
            return
        kind, text = answer
        content = text.encode()
        tag = f'"{sha256(content).hexdigest()[:20]}"'
        fresh = self.headers.get("If-None-Match") == tag
        self.send_response(304 if fresh else 200)
        for name, value in (("ETag", tag), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
                            ("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer")):  # fmt: skip
            self.send_header(name, value)
        if not fresh:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", "0" if fresh else str(len(content)))
        self.end_headers()
        if not fresh:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing: the terminal may show a training."""


def _stamp(folder: Path) -> str:
    """Changes with the files that a page is made of, beside the log."""
    stamps = []
    for name in ("config.json", "validation.json", "validation_frames.png"):
        try:
            stamps.append(str((folder / name).stat().st_mtime_ns))
        except OSError:
            stamps.append("-")
    return ",".join(stamps)
