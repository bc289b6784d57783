"""Judges: a local endpoint, resuming, and judged cells; citations: test_judge_citations.py."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rr_bench.judge import gpt
from rr_bench.judge.cache import ReplyCache
from rr_bench.judge.cells import judge_cell, write_judged
from rr_bench.judge.gpt import (
    Endpoint,
    answer_score,
    numbers_in,
    prompt_constants,
    summary_f1,
)
from rr_bench.judge.nli import Entailment
from rr_bench.store.cells import CellInfo
from rr_bench.store.jsonl import read_json
from rr_bench.store.records import SampleRecord
from rr_bench.store.stored import StoredCell
from rr_bench.tasks.datasets import multi_lexsum
from rr_bench.tasks.datasets.niah import split_sentences
from rr_bench.tasks.files.keypoints import Expert
from rr_bench.tasks.settings import DataSettings
from tests import helmet_layout as layout
from tests.fabricate import FULL
from tests.fabricate import settings as cell_settings


class Judge(BaseHTTPRequestHandler):
    """Fails once with 503, then answers; what it was asked is kept on the server."""

    status = 200

    def wrap(self, content):
        return json.dumps({"choices": [{"message": {"content": content}}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers["Authorization"]))
        if len(self.server.asked) == 1:
            self.send_response(503)
            self.send_header("retry-after-ms", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.reply(body["messages"][0]["content"])
        data = self.wrap(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = HTTPServer(("127.0.0.1", 0), Judge)
    made.asked, made.reply = [], lambda prompt: 'So {"fluency": 9} {"fluency": 1, "correctness": 2}'
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def endpoint(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    cache = ReplyCache(tmp_path / "gpt.jsonl", "gpt 0.1")
    return Endpoint(url, "gpt", cache, key_variable="TEST_KEY")


def test_endpoint_retries_caches_and_sends_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "abc")
    fields = ("fluency", "correctness")
    assert endpoint(server, tmp_path).ask("p", fields) == {"fluency": 1, "correctness": 2}
    body, key = server.asked[-1]
    assert (body["model"], body["temperature"], key) == ("gpt", 0.1, "Bearer abc")
    assert len(server.asked) == 2
    assert endpoint(server, tmp_path).ask("p", fields)["correctness"] == 2
    assert len(server.asked) == 2  # from the cache
    server.reply = lambda prompt: "no idea"
    assert endpoint(server, tmp_path).ask("q", fields) is None
    assert endpoint(server, tmp_path).ask("q", fields) is None
    assert len(server.asked) == 4  # an unusable reply is asked again
    with pytest.raises(ValueError, match="http"):
        Endpoint("file:///etc", "m", ReplyCache(tmp_path / "x", "j"))


def test_another_key_is_never_sent(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not for this endpoint")
    monkeypatch.delenv("TEST_KEY", raising=False)
    endpoint(server, tmp_path).ask("p", ("fluency",))
    assert [key for _, key in server.asked] == ["Bearer none"] * 2


def test_what_the_endpoint_does_wrong_is_one_line(server, tmp_path, monkeypatch):
    judge = endpoint(server, tmp_path)
    server.asked.append(None)
    server.reply = lambda prompt: None
    assert judge.ask("refused", ("fluency",)) is None
    for foreign in ('{"answer": "?"}', "no JSON", "[]", '{"choices": []}'):
        monkeypatch.setattr(Judge, "wrap", lambda self, content, foreign=foreign: foreign)
        with pytest.raises(ValueError, match="does not speak OpenAI's format"):
            judge.ask("p", ("fluency",))
    monkeypatch.setattr(Judge, "status", 401)
    with pytest.raises(ValueError, match="says 401 Unauthorized"):
        judge.ask("p", ("fluency",))
    monkeypatch.setattr(gpt, "RETRIES", 0)
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="cannot be reached"):
        endpoint(server, tmp_path).ask("p", ("fluency",))


def test_without_openai_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'rr-bench\[judge\]'"):
        Endpoint("http://localhost", "m", ReplyCache(tmp_path / "x", "j"))


def test_scores_of_replies():
    assert numbers_in('{"a": 1} then {"a": 2, "b": 0.5}', ["a", "b"]) == {"a": 2, "b": 0.5}
    for unusable in ('{"a": "x"}', "{]}", "", '{"a": true}', '{"a": NaN}', '{"b": 1}', "```json 3 ```"):
        assert numbers_in(unusable, ["a"]) is None
    nested = 'So ```json\n{"a": 1, "why": {"b": [{}, {"c": 2}]}, "d": {}}\n``` in all'
    assert numbers_in(nested.replace('"d": {}', '"d": {"e": {"f": 1}}'), ["a"]) == {"a": 1}
    assert answer_score({"fluency": 1, "correctness": 2}) == pytest.approx(2 / 3)
    one = {"fluency": 1}, {"recall": 2}, {"precision": 3, "sentence_count": 4}
    assert summary_f1(*one, keypoints=4) == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert summary_f1({"fluency": 0}, *one[1:], keypoints=4) == 0
    assert summary_f1(one[0], {"recall": 0}, {"precision": 0, "sentence_count": 0}, 0) == 0


def test_prompts_are_read_from_source_without_running_it(tmp_path):
    path = tmp_path / "script.py"
    path.write_text('import nothing_like_this\nprompt = """a {{"x": 1}} {text}"""\nn = 1\n')
    assert prompt_constants(path, ["prompt"]) == {"prompt": 'a {{"x": 1}} {text}'}
    with pytest.raises(ValueError, match="has no other"):
        prompt_constants(path, ["other"])
    with pytest.raises(ValueError, match="is missing"):
        prompt_constants(tmp_path / "no.py", ["prompt"])


def test_a_torn_reply_is_dropped(tmp_path):
    cache = ReplyCache(tmp_path / "c.jsonl", "j")
    cache.put("a", "1")
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write('{"key": "torn')
    again = ReplyCache(tmp_path / "c.jsonl", "j")
    assert again.get("a") == "1"
    again.put("b", "2")
    assert ReplyCache(tmp_path / "c.jsonl", "j").get("b") == "2"


def stored(task, output, golds, *, chat, thinking=False):
    info = CellInfo(
        key="k",
        label=task,
        model={"name": "m", "path": "m"},
        method=FULL,
        settings=cell_settings(task=task, length=8192, data={"source": "helmet", "files": {}}),
    )
    sample = SampleRecord(
        uid=f"{task}-8192-helmet-00000",
        task=task,
        length=8192,
        prompt_sha="",
        input_tokens=1,
        budget=1,
        score=0.0,
        golds=golds,
        kernels=[],
        output=output,
    )
    return StoredCell(info, {}, [sample], [], 1, False, {"chat": chat, "thinking": thinking})


def test_citations_of_a_cell_use_all_retrieved_documents(tmp_path):
    docs = [{"title": f"T{i}", "text": f"x{i}"} for i in range(50)]
    rows = [{"question": "Who?", "docs": docs, "answers": [["Ann"]]}]
    layout.write_json(layout.test_file(tmp_path, "alce_qampari", 8192), rows)
    cache = ReplyCache(tmp_path / "nli.jsonl", "j")
    for claim in ("Who? Ann", "Who? Answer:Ann"):
        cache.put(f"premise: Title: T44\nx44 hypothesis: {claim}", "1")
    for chat in (True, False):
        cell = stored("alce_qampari", "Ann [45]", ["Ann"], chat=chat)
        values = judge_cell(
            cell,
            DataSettings(helmet_dir=str(tmp_path)),
            Entailment("/nowhere", cache),
            None,
            split_sentences,
        )
        assert list(values["citation_rec"].values()) == [1.0]
    assert judge_cell(cell, DataSettings(helmet_dir=str(tmp_path)), None, None, split_sentences) is None


def test_answers_and_summaries_of_a_cell(server, tmp_path):
    layout.write_jsonl(
        layout.hub_file(tmp_path, "narrativeqa", "test"),
        [{"question": {"text": "who?"}, "answers": [{"text": "Ann"}]}],
    )
    book = {"id": 7, "context": "c", "input": "", "answer": ["Expert."], "options": []}
    layout.write_jsonl(layout.hub_file(tmp_path, "infinitebench", "longbook_sum_eng"), [book])
    points = [{"id": 7, "keypoints": ["one", "two"]}]
    layout.write_jsonl(tmp_path / "data" / "infbench" / "longbook_sum_eng_keypoints.jsonl", points)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "eval_gpt4_longqa.py").write_text(
        'judge_prompt = """Q {question} G {correct_answers} A {parsed_output}"""\n'
    )
    (scripts / "eval_gpt4_summ.py").write_text(
        'fluency_prompt_book = "F {text}"\nrecall_prompt_book = "R {keypoints} S {summary}"\n'
        'precision_prompt_book = "P {expert_summary} S {summary}"\n'
    )
    judge = endpoint(server, tmp_path)
    cell = stored("narrativeqa", "Bob? </think>It is\nAnn", ["Ann"], chat=False, thinking=True)
    values = judge_cell(cell, DataSettings(helmet_dir=str(tmp_path)), None, judge, split_sentences)
    assert values == {"gpt-4-score": {cell.samples[0].uid: pytest.approx(2 / 3)}}
    assert server.asked[-1][0]["messages"][0]["content"] == "Q who? G ['Ann'] A It is Ann"
    server.reply = lambda prompt: "no idea"
    cell.samples[0] = replace(cell.samples[0], output="Eve")
    values = judge_cell(cell, DataSettings(helmet_dir=str(tmp_path)), None, judge, split_sentences)
    assert values == {"gpt-4-score": {cell.samples[0].uid: None}}  # covered, out of the mean
    server.reply = lambda prompt: '{"fluency": 1, "recall": 1, "precision": 2, "sentence_count": 2}'
    cell = stored("infbench_sum", " Text. ", ["Expert."], chat=True)
    values = judge_cell(cell, DataSettings(helmet_dir=str(tmp_path)), None, judge, split_sentences)
    assert values["gpt-4-f1"][cell.samples[0].uid] == pytest.approx(2 / 3)
    asked = [body["messages"][0]["content"] for body, _ in server.asked[-3:]]
    assert asked == ["F Text.", "R 1. one\n2. two S Text.", "P Expert. S Text."]


def test_judged_values_are_merged_into_the_cell(tmp_path):
    write_judged(tmp_path, {"citation_rec": {"a": 1.0, "b": None, "c": 0.0}}, "nli x")
    means = write_judged(tmp_path, {"gpt-4-f1": {"a": None}}, "gpt")
    assert means == {"gpt-4-f1": None}
    found = read_json(tmp_path / "judged.json")
    assert list(found) == ["citation_rec"] and found["citation_rec"]["value"] == 0.5
    assert found["citation_rec"]["uids"] == ["a", "b", "c"]


def test_the_command_says_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "rr_bench.judge", str(tmp_path), "--helmet-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--nli, --endpoint" in done.stderr
    nowhere = subprocess.run(
        [*command, "--nli", "/nowhere", "--sentences", "rule"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert nowhere.returncode == 1 and "does not exist" in nowhere.stderr


def test_summaries_are_compared_with_the_long_one_and_its_key_points(tmp_path):
    data = DataSettings(helmet_dir=str(tmp_path))
    cases = [{"id": uid, "summary/long": f"long {uid}", "summary/tiny": None} for uid in ("a", "b")]
    layout.write_jsonl(layout.hub_file(tmp_path, "multi_lexsum", "validation"), cases)
    with pytest.raises(ValueError, match="key points are missing"):
        multi_lexsum.experts([1], data)
    points = [{"id": "b", "summary/short_keypoints": ["one"]}]
    layout.write_jsonl(tmp_path / "data" / "multi_lexsum" / "multi_lexsum_val.jsonl", points)
    assert multi_lexsum.experts([1], data) == {1: Expert("long b", ["one"])}
    with pytest.raises(ValueError, match="no key points of 'a'"):
        multi_lexsum.experts([0, 1], data)
