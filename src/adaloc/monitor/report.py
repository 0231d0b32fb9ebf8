"""The report of a run: a text and a self-contained web page."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adaloc.data.finding import Finding as IntegrityFinding
from adaloc.data.integrity_text import describe as describe_integrity
from adaloc.files import write_text
from adaloc.monitor.advice import advise, findings
from adaloc.monitor.analysis import Analysis, analyse, captured_percent, plain_number
from adaloc.monitor.facts import (
    Fact,
    config_differences,
    convergence_facts,
    describe_adjustment,
    describe_counts,
    environment_facts,
    key_facts,
    metric_facts,
    promise_facts,
)
from adaloc.monitor.log import Run, load_run
from adaloc.monitor.page import Live, drawn, page, render
from adaloc.monitor.panels import (
    channel_chart,
    channel_words,
    gradient_chart,
    loss_chart,
    metric_charts,
    rate_chart,
    throughput_chart,
    waiting_chart,
)
from adaloc.monitor.say import Say, speaker
from adaloc.monitor.validation_file import Validation, read_validation
from adaloc.monitor.validation_panels import camera_chart, gallery, psf_pairs, sub_pixel_charts, uncertainty_charts
from adaloc.monitor.verdict import learned_nothing, verdict
from adaloc.training.diagnosis_text import CAUSES, describe_evidence
from adaloc.words import Language

REPORT_FILE = "report.html"
TEXT_REPORT_FILE = "report.txt"
EXAMPLES_FILE = "validation_frames.png"
_ADJUSTMENTS_SHOWN = 100
_LEAST_SCORE = 0.2  # a cause below that is no news


def write_report(folder: Path, language: Language = "en") -> Path:
    """Writes report.html into a run folder.

    Raises:
        DataError: when there is no run in the folder.
        AdalocError: when it cannot be written.
    """
    path = folder / REPORT_FILE
    write_text(path, html_report(load_run(folder), language))
    return path


def write_text_report(folder: Path, language: Language = "en") -> Path:
    """Writes report.txt into a run folder; raises as `write_report`."""
    path = folder / TEXT_REPORT_FILE
    write_text(path, text_report(load_run(folder), language))
    return path


def html_report(run: Run, language: Language = "en", live: Live | None = None) -> str:
    """The web page; everything that it shows is escaped, and nothing is loaded from elsewhere.

    Args:
        run: with the files of its folder.
        language: of the words.
        live: for a page that is served while the run goes on.
    """
    return page(run.folder.absolute().name, report_body(run, language), speaker(language), live)


def report_body(run: Run, language: Language = "en") -> Markup:
    """The page's content, without the style and the script around it."""
    analysis, say = analyse(run), speaker(language)
    validation, problem = read_validation(run.folder)
    charts = {
        "learning": drawn([loss_chart(run, analysis, say), channel_chart(run, say)]),
        "rate": drawn([rate_chart(run, say), gradient_chart(run, say)]),
        "machine": drawn([c for c in (throughput_chart(run, say), waiting_chart(run, say)) if c is not None]),
        "metric_charts": drawn(metric_charts(run, say)),
    }
    return render(
        "report_body.html",
        say=say,
        name=run.folder.absolute().name,
        verdict=verdict(run, language),
        advice=advise(run, language),
        mood=_mood(run, analysis),
        gauge=_gauge(run, analysis, say),
        key_facts=key_facts(run, analysis, language),
        sections=_sections(say, validation is not None or run.integrity is not None),
        has_epochs=bool(len(run.epochs)),
        channels=_channels(run, say),
        promises=promise_facts(analysis, language),
        convergence=convergence_facts(run, analysis, language),
        counts=describe_counts(analysis.adjustments, language),
        adjustments=[describe_adjustment(a, language) for a in run.adjustments[-_ADJUSTMENTS_SHOWN:]],
        num_adjustments=len(run.adjustments),
        metrics=metric_facts(run, language),
        diagnosis=_diagnosis(run, language),
        integrity=_integrity(run, say),
        alerts=[_alert(event, say) for event in run.alerts],
        differences=None if run.config is None else config_differences(run.config),
        config=None if run.config is None else json.dumps(run.config, indent=2, ensure_ascii=False),
        environment=environment_facts(run, language),
        **charts,
        **_validation_parts(run, validation, problem, say),
    )


def text_report(run: Run, language: Language = "en") -> str:
    """The same facts as plain text, without the pictures."""
    analysis, say = analyse(run), speaker(language)
    advice = [f"  - {item.text}\n    ({item.evidence})" for item in advise(run, language)]
    changes = ["  {:>6}  {:<12} {:<22} {}".format(*describe_adjustment(a, language)) for a in run.adjustments[-10:]]
    if run.config is None:
        differences = ["  " + say("Unknown: there is no readable config.json in the folder.")]
    else:
        differences = [
            "  " + say("{name} = {value} (default {default})", name=name, value=value, default=default)
            for name, value, default in config_differences(run.config)
        ]
    none = ["  " + say("none")]
    counts = describe_counts(analysis.adjustments, language)
    sections = [
        (say("Figures"), _lines(key_facts(run, analysis, language))),
        (say("Promised levels of the validation loss"), _lines(promise_facts(analysis, language))),
        (say("Detection metrics"), _lines(metric_facts(run, language)) or ["  " + say("not measured yet")]),
        (say("Advice"), advice or none),
        (say("Convergence"), _lines(convergence_facts(run, analysis, language))),
        (say("Adjustments of the learning rate: {counts}", counts=counts), changes),
        (say("Differences from the default config"), differences or none),
        (say("Environment"), _lines(environment_facts(run, language))),
    ]
    body = "\n\n".join("\n".join([title, *lines]) for title, lines in sections)
    return f"{verdict(run, language)}\n\n{body}\n"


@dataclass(frozen=True)
class _Channel:
    name: str
    loss: str
    floor: str
    captured: str
    width: float


def _channels(run: Run, say: Say) -> list[_Channel]:
    """How much of what can be known each channel has, where the floor is known."""
    rows = []
    for name, values in run.epochs.val_channels.items():
        floor, known = run.floor_channels.get(name, math.nan), values[values == values]
        share = captured_percent(float(known[-1]) if len(known) else math.nan, 1.0, floor)
        if run.channel_weights.get(name) == 0 or not (run.in_information_units and math.isfinite(share)):
            continue
        width = min(max(share, 0.0), 100.0)
        rows.append(
            _Channel(channel_words(name, say), plain_number(float(known[-1])), f"{floor:.3g}", f"{share:.0f} %", width)
        )
    return rows


def _gauge(run: Run, analysis: Analysis, say: Say) -> dict[str, Any] | None:
    if not math.isfinite(analysis.captured_percent):
        return None
    return {
        "width": round(min(max(analysis.captured_percent, 0.0), 100.0), 1),
        "words": say("{share:.1f} % of the information captured", share=analysis.captured_percent),
        "left": say("knowing nothing: {loss}", loss=plain_number(run.no_information_loss)),
        "right": say("physics allows: {loss}", loss=plain_number(run.floor)),
    }


def _mood(run: Run, analysis: Analysis) -> str:
    """Whether the first advice is alarming."""
    if learned_nothing(run, analysis) or analysis.bad_since is not None:
        return "bad"
    return "" if run.end is None and analysis.trend == "falling" else "warn"


def _sections(say: Say, has_data: bool) -> list[tuple[str, str]]:
    return [
        ("learning", say("Learning")),
        ("rate", say("Learning rate and gradients")),
        ("result", say("What it finds")),
        *([("data", say("Data"))] if has_data else []),
        ("machine", say("Machine")),
        ("diagnosis", say("Diagnosis")),
        ("config", say("Config and environment")),
    ]


def _diagnosis(run: Run, language: Language) -> dict[str, Any]:
    say, at = speaker(language), 0 if language == "en" else 1
    if run.diagnosis is None:
        words = say(
            "The run saw no reason to diagnose itself: it never stalled. Ask it with: adaloc diagnose {folder}",
            folder=run.folder,
        )  # fmt: skip
        return {"words": words, "causes": []}
    causes = [
        {
            "name": finding.cause, "share": f"{100 * finding.score:.0f} %", "what": CAUSES[finding.cause].what[at],
            "remedy": CAUSES[finding.cause].remedy[at], "evidence": describe_evidence(finding, language),
        }
        for finding in findings(run) if finding.score >= _LEAST_SCORE
    ]  # fmt: skip
    return {"words": say("After epoch {epoch}:", epoch=run.diagnosis.get("epoch", -1) + 1), "causes": causes}


def _integrity(run: Run, say: Say) -> list[str]:
    if run.integrity is None:
        return []
    listed = run.integrity.get("findings")
    found = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    if not found:
        return [say("Yes: the check of inputs and targets found nothing wrong.")]
    lines = []
    for item in found:
        cause, severity, evidence = item.get("cause", "?"), item.get("severity", "warn"), item.get("evidence", {})
        try:
            lines.append(describe_integrity(IntegrityFinding(cause, severity, evidence), say.language))
        except (KeyError, TypeError, AttributeError):  # a log of another version, whose causes have no words here
            lines.append(str(cause))
    return lines


def _alert(event: dict[str, Any], say: Say) -> str:
    return say("epoch {epoch}: {kind}", epoch=event.get("epoch"), kind=event.get("message", event.get("kind")))


def _validation_parts(run: Run, validation: Validation | None, problem: str, say: Say) -> dict[str, Any]:
    if validation is None:
        examples = run.folder / EXAMPLES_FILE
        words = problem
        if problem == "missing":
            words = say("Frames, positions within the pixel, PSF and camera come at the end of the training.")
        return {
            "gallery": {}, "gallery_words": "", "sub_pixel": [], "uncertainty": [], "psf": None, "camera": [],
            "examples": base64.b64encode(examples.read_bytes()).decode("ascii") if examples.is_file() else None,
            "validation_words": words,
        }  # fmt: skip
    psf = None
    if validation.psf is not None:
        words, pairs = psf_pairs(validation.psf, say)
        psf = {"words": words, "pairs": pairs}
    names = {"psf": say("PSF"), "camera": say("camera"), "crlb": say("RMSE over CRLB")}
    unknown = [f"{names.get(name, name)}: {why}" for name, why in validation.unknown_because.items()]
    return {
        "gallery": gallery(validation, say),
        "gallery_words": say(
            "Of {frames} validation frames, the highest and the lowest Jaccard index. {emitters} emitters were asked "
            "for, {found} localizations made.",
            frames=validation.num_frames, emitters=validation.num_emitters, found=validation.num_localizations,
        ),
        "sub_pixel": drawn(sub_pixel_charts(validation, say)),
        "uncertainty": drawn(uncertainty_charts(validation, say)),
        "psf": psf,
        "camera": [] if validation.camera is None else drawn([camera_chart(validation.camera, say)]),
        "examples": None,
        "validation_words": say("Not known: {what}", what="; ".join(unknown)) if unknown else "",
    }  # fmt: skip


def _lines(facts: list[Fact]) -> list[str]:
    width = max((len(label) for label, _ in facts), default=0)
    return [f"  {label:<{width}}  {value}" for label, value in facts]
