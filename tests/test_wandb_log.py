"""W&B logging: off by default, refused early, one run per store, and nothing of the machine in it."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import rr_bench.report.__main__ as command
import rr_bench.report.wandb_log
from rr_bench import ROOT
from rr_bench.config.schema import ModelSettings, RunSettings, WandbSettings
from rr_bench.report import Report, write_report
from rr_bench.report.render import to_csv
from rr_bench.report.tables import summarise
from rr_bench.report.wandb_log import cell_metrics, length_metrics, log_report
from rr_bench.run.run import _note_wandb, run
from rr_bench.store.environment import _run
from rr_bench.store.wandb_note import ask_for_wandb, read_wandb
from tests.fabricate import FULL, RR, cells_of, write_cell
from tests.runs import errors
from tests.wandb_files import offline_runs


def settings(out: Path, mode: str) -> RunSettings:
    return RunSettings(
        out=str(out),
        model=ModelSettings(path="/no/such/model"),
        methods=["full"],
        tasks=["json_kv"],
        lengths=[2048],
        samples=1,
        wandb=WandbSettings(mode=mode),
    )


def table_of(out: Path) -> Report:
    """A report of ``summary.csv`` alone: figures are what takes time."""
    frame = summarise(cells_of(out)).frame
    (out / "summary.csv").write_text(to_csv(frame))
    return Report([out / "summary.csv"], "", [], frame)


def test_without_the_package_the_run_stops_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rr_bench.report.wandb_log, "find_spec", lambda name: None)
    assert run(settings(tmp_path, "offline")) == 1
    (line,) = errors(capsys)
    assert "wandb.mode=offline" in line and ".[wandb]" in line
    assert not any(tmp_path.iterdir())


class Refusing(BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "user is not logged in"}]}')

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("fault", ["no key", "bad key", "no network"])
def test_online_finds_out_before_any_work(
    tmp_path, wandb_package, refusing, monkeypatch, capsys, fault
):
    monkeypatch.setenv("WANDB_BASE_URL", refusing if fault == "bad key" else "http://127.0.0.1:9")
    if fault != "no key":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert run(settings(tmp_path / "out", "online")) == 1
    (line,) = errors(capsys)
    assert "wandb.mode=online" in line and "key" in line and "wandb=offline" in line
    assert ("not logged in" in line) == (fault == "bad key")
    assert not (tmp_path / "out").exists()


def test_settings_name_no_place_of_this_machine(tmp_path):
    asked = settings(tmp_path / "out", "offline")
    asked.data.helmet_dir = "/mnt/someone/helmet"
    asked.model.path = "~/models/llama"
    asked.methods = [{"name": "minference", "patterns": ["/home/someone/patterns.json"]}]
    _note_wandb(asked)
    text = (tmp_path / "out" / "wandb.json").read_text()
    assert "helmet" in text and "llama" in text and "patterns.json" in text
    assert "someone" not in text and str(tmp_path) not in text


def test_off_means_that_nothing_is_imported_or_noted(tmp_path, monkeypatch):
    write_cell(tmp_path, FULL, [1.0])
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    _note_wandb(settings(tmp_path, "disabled"))
    assert log_report(tmp_path, table_of(tmp_path)) is None
    assert read_wandb(tmp_path) is None


def test_metrics_leave_undefined_values_out(tmp_path):
    write_cell(tmp_path, FULL, [1.0, 0.5])
    write_cell(tmp_path, RR, [1.0, 0.25], density=0.4)
    metrics = cell_metrics(summarise(cells_of(tmp_path)).frame)
    assert metrics["json_kv/4096/rr(tau=0.95)/recovery"] == pytest.approx(100 * 1.25 / 1.5)
    assert metrics["json_kv/4096/rr(tau=0.95)/density"] == pytest.approx(40)
    assert metrics["json_kv/4096/full/n"] == 2
    assert "json_kv/4096/full/recovery" not in metrics


@pytest.mark.parametrize("change", [{"seed": 7}, {"keep": {"sink": False}}, {"dense_below": 8192}])
def test_no_row_of_one_label_hides_another(tmp_path, change):
    for other in ({}, change):
        if not other or "seed" in other:
            write_cell(tmp_path, FULL, [1.0, 0.5], **other)
        write_cell(tmp_path, RR, [1.0, 0.25], **other)
    frame = summarise(cells_of(tmp_path)).frame
    assert frame["recovery"].notna().sum() == 2
    assert len([name for name in cell_metrics(frame) if name.endswith("/recovery")]) == 2
    (step,) = length_metrics(frame)
    assert len([name for name in step if "/recovery/" in name]) == 2


def test_an_offline_run_can_be_read_back(wandb_store, wandb_package, tmp_path):
    whole = write_report(wandb_store)
    report = Report(whole.paths, "", [], whole.frame.iloc[:1])  # as of a run that shares its store
    assert str(wandb_store / "wandb" / "offline-run-") in (log_report(wandb_store, report) or "")
    (logged,) = offline_runs(wandb_store)
    note = read_wandb(wandb_store)
    assert note is not None and (logged.run.run_id, logged.run.project) == (note.id, "tests")
    assert logged.config["samples"] == 2

    table = logged.table("summary")
    assert len(table["data"]) == len(whole.frame) == 4
    recovery = [row[table["columns"].index("recovery")] for row in table["data"]]
    assert [round(value, 1) for value in recovery if value is not None] == [83.3, 83.3]
    figures = {path.stem for path in report.paths if path.suffix == ".png"}
    for name in figures:
        image = logged.folder / "files" / logged.summary[f"figures/{name}.path"]
        assert image.read_bytes().startswith(b"\x89PNG")

    lines = [step for step in logged.history if "length" in step]
    name = "by_length/json_kv/density/rr(tau=0.95)"
    assert [(step["length"], step[name]) for step in lines] == [(4096, 40), (8192, 40)]
    assert logged.summary["json_kv/8192/rr(tau=0.95)/n"] == 2

    thawed = tmp_path / "thawed"
    thawed.mkdir()
    for entry in logged.artifacts["store"].manifest.contents:
        (thawed / entry.path).write_bytes(Path(entry.local_path).read_bytes())
    keys = [{cell.info.key for cell in cells_of(out)} for out in (thawed, wandb_store)]
    assert keys[0] == keys[1]


def test_nothing_of_the_machine_is_logged(wandb_store, wandb_package, tmp_path):
    log_report(wandb_store, write_report(wandb_store))
    (logged,) = offline_runs(wandb_store)
    for artifact in logged.artifacts.values():
        for entry in artifact.manifest.contents:
            assert Path(entry.local_path).is_relative_to(wandb_store)
    (stored,) = logged.folder.glob("*.wandb")
    waiting = str(wandb_store / "wandb" / "data")  # where `wandb sync` finds the artifact's files
    contents = [stored.read_bytes().replace(waiting.encode(), b"")]
    contents += [path.read_bytes() for path in logged.folder.glob("files/**/*") if path.is_file()]
    contents += [path.read_bytes() for path in Path(waiting).rglob("*") if path.is_file()]
    remote = _run(["git", "-C", str(ROOT), "remote", "get-url", "origin"])
    secrets = [str(tmp_path), str(ROOT), str(Path.home()), sys.executable, remote]
    host = socket.gethostname()
    # A short name may stand in anything; then the field that would hold it is what can be told.
    secrets += [host] if len(host) > 8 else []
    for secret in filter(None, secrets):
        assert not [content for content in contents if secret.encode() in content], secret
    assert logged.run.host == "-" and not logged.run.git.remote_url


def test_a_store_is_one_run_however_often_it_is_logged(wandb_store, wandb_package):
    log_report(wandb_store, table_of(wandb_store))
    (first,) = offline_runs(wandb_store)
    ask_for_wandb(wandb_store, "offline", "tests", {"samples": 2})
    assert "has these results already" in (log_report(wandb_store, table_of(wandb_store)) or "")
    assert [one.path for one in offline_runs(wandb_store)] == [first.path]
    write_cell(wandb_store, RR, [1.0, 0.25], task="recall_prefill")
    write_cell(wandb_store, FULL, [1.0, 0.5], task="recall_prefill")
    log_report(wandb_store, table_of(wandb_store))
    (second,) = offline_runs(wandb_store)
    assert second.run.run_id == first.run.run_id
    assert "recall_prefill/4096/full/n" in second.summary


def test_slices_are_one_run_that_the_report_logs(make, wandb_package, monkeypatch, capsys):
    for part in ("1/2", "2/2"):
        sliced = make(methods=["full", "xattention"], samples=1)
        sliced.slice, sliced.wandb = part, WandbSettings(mode="offline")
        assert run(sliced) == 0
    out = Path(sliced.out)
    assert not (out / "wandb").exists()
    monkeypatch.setattr(sys, "argv", ["report", "--wandb", str(out)])
    for words in ("logged to wandb", "has these results already"):
        assert command.main() == 0
        assert words in capsys.readouterr().out
    (logged,) = offline_runs(out)
    assert len(logged.table("summary")["data"]) == 2
    assert logged.config["slice"] is None


def test_a_log_that_fails_costs_no_result(wandb_store, wandb_package, monkeypatch, capsys):
    import wandb

    def init(**options: object) -> None:
        raise wandb.errors.CommError("the server is away")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(sys, "argv", ["report", "--wandb", str(wandb_store)])
    assert command.main() == 1
    (line,) = errors(capsys)
    assert "the server is away" in line and f"--wandb {wandb_store}" in line
    assert (wandb_store / "summary.csv").is_file()
    assert json.loads((wandb_store / "wandb.json").read_text())["logged"] == ""
