"""Download: checksums, resuming, and archives that try to leave their folder."""

import hashlib
import io
import json
import tarfile
import threading
from dataclasses import replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from rr_bench.download import parts
from rr_bench.download.files import DownloadError, Ledger, fetch, git_blob_of, sha256_of
from rr_bench.download.unpack import unpack
from rr_bench.tasks.hubsets import split_files

CONTENT = bytes(range(256)) * 400


class Files(BaseHTTPRequestHandler):
    """Serves CONTENT; honours ranges unless told not to, and may stop half-way."""

    def do_GET(self):
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked[6:-1]) if asked and self.server.resumes else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = self.server.stops.pop(0) if self.server.stops else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = HTTPServer(("127.0.0.1", 0), Files)
    made.ranges, made.stops, made.resumes = [], [], True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_port}/file"
    yield made
    made.shutdown()
    made.server_close()


SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("resumes", [True, False])
def test_a_stopped_download_goes_on(server, tmp_path, resumes):
    server.stops, server.resumes = [1000], resumes
    path = tmp_path / "a" / "file"
    with pytest.raises(DownloadError, match="run this again"):
        fetch(server.url, path, sha256=SHA)
    assert not path.exists()
    fetch(server.url, path, sha256=SHA)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_whole_partial_file_is_verified_and_kept(server, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file", sha256=SHA)
    assert sha256_of(tmp_path / "file") == SHA


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError, match="checksum is wrong"):
        fetch(server.url, tmp_path / "file", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DownloadError, match="no checksum"):
        fetch(server.url, tmp_path / "file")


def test_git_blobs_verify_files_of_a_commit(server, tmp_path):
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert git_blob_of(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    fetch(server.url, tmp_path / "file", git_blob=blob)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_ledger_notices_a_changed_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("one")
    assert not Ledger(tmp_path).holds(path)
    Ledger(tmp_path).add(path)
    assert Ledger(tmp_path).holds(path)
    path.write_text("two")
    with pytest.raises(DownloadError, match="not what was downloaded"):
        Ledger(tmp_path).holds(path)


def archive(path, *members):
    with tarfile.open(path, "w:gz") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content["type"], "/etc/passwd"
                made.addfile(info)
    return path


def test_unpacking_goes_on_where_it_was(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("data/x", b"12"), ("data/y/z", b"345"))
    out = tmp_path / "out"
    assert unpack(path, out) == (2, 0)
    (out / "data" / "x").write_bytes(b"1")  # cut short
    assert unpack(path, out) == (1, 1)
    assert (out / "data" / "x").read_bytes() == b"12"
    assert (out / "data" / "y" / "z").read_bytes() == b"345"


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("data/../../evil", b"x"),
        ("/evil", b"x"),
        ("data\\..\\evil", b"x"),
        ("data/link", {"type": tarfile.SYMTYPE}),
        ("data/hard", {"type": tarfile.LNKTYPE}),
        ("data/fifo", {"type": tarfile.FIFOTYPE}),
        ("data/device", {"type": tarfile.CHRTYPE}),
    ],
)
def test_an_archive_cannot_leave_its_folder(tmp_path, member):
    path = archive(tmp_path / "a.tar.gz", ("data/good", b"1"), member)
    with pytest.raises(DownloadError, match="archive's member"):
        unpack(path, tmp_path / "out")
    found = {p.name for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()}
    assert found == {"a.tar.gz", "good"}


def test_an_older_link_does_not_lead_out(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "out" / "data").symlink_to(tmp_path / "outside")
    with pytest.raises(DownloadError, match="leads out"):
        unpack(archive(tmp_path / "a.tar.gz", ("data/x", b"1")), tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_damaged_archive_is_an_error(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("data/x", bytes(100_000)))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DownloadError, match="damaged"):
        unpack(path, tmp_path / "out")


def test_texts_come_from_one_commit_once(server, tmp_path, monkeypatch):
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    monkeypatch.setattr(parts, "_git_blobs", lambda: dict.fromkeys(parts.TEXTS, blob))
    monkeypatch.setattr(parts, "RAW", server.url)
    said = []
    parts.get_texts(tmp_path, said.append)
    parts.get_texts(tmp_path, said.append)
    assert said == ["texts: 4 fetched, 0 were there", "texts: 0 fetched, 4 were there"]
    ledger = json.loads((tmp_path / "CHECKSUMS.json").read_text())
    assert set(ledger) == set(parts.TEXTS) and set(ledger.values()) == {SHA}


def test_the_archive_is_verified_unpacked_and_removed(tmp_path, monkeypatch):
    packed = archive(tmp_path / "source.tar.gz", ("data/ruler/x", b"1"))

    class Metadata:
        etag = sha256_of(packed)

    def download(url, path, sha256):
        assert sha256 == Metadata.etag and "princeton-nlp/HELMET" in url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.read_bytes())

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: Metadata)
    monkeypatch.setattr(parts, "fetch", download)
    said = []
    folder = tmp_path / "helmet"
    parts.get_data(folder, said.append)
    parts.get_data(folder, said.append)
    assert said == ["data: 1 files unpacked, 0 were there", "data: complete"]
    assert (folder / "data" / "ruler" / "x").read_bytes() == b"1"
    assert not (folder / "data.tar.gz").exists()
    Metadata.etag = "short"
    with pytest.raises(DownloadError, match="no SHA-256"):
        parts.get_data(tmp_path / "other", said.append)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: files by name, each known by one of its two kinds of checksum."""
    files = {
        "plus/train/0000.parquet": b"train",
        "longbook_qa_eng.jsonl": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer.model": b"model",
        "special_tokens_map.json": b"[]",
    }

    def snapshot_download(repo, *, allow_patterns, local_dir, **options):
        for name, content in files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_bytes(content)

    known = dict(files)

    class Api:
        def get_paths_info(self, repo, paths, **options):
            for name in paths:
                sha = hashlib.sha256(known[name]).hexdigest()
                blob = hashlib.sha1(b"blob %d\0" % len(known[name]) + known[name]).hexdigest()
                large = not name.endswith(".json")
                lfs = SimpleNamespace(sha256=sha) if large else None
                yield SimpleNamespace(path=name, lfs=lfs, blob_id=blob)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    splits = {"clinic150": ("plus", "train"), "infinitebench": ("default", "longbook_qa_eng")}
    for name, (config, split) in splits.items():
        monkeypatch.setitem(
            parts.HUB_SETS, name, replace(parts.HUB_SETS[name], config=config, splits=(split,))
        )
    return files


def test_hub_sets_come_once_and_where_the_builders_look(hub, tmp_path):
    said = []
    names = ["clinic150", "infinitebench"]
    parts.get_hub(tmp_path, said.append, names)
    parts.get_hub(tmp_path, said.append, names)
    assert [line.rpartition(" ")[2] for line in said] == ["fetched", "fetched", "there", "there"]
    for name, split in (("clinic150", "train"), ("infinitebench", "longbook_qa_eng")):
        (file,) = split_files(name, split, tmp_path, None, False)
        assert file.read_bytes() in hub.values()
    with pytest.raises(DownloadError, match="no set 'nothing'"):
        parts.get_hub(tmp_path, said.append, ["nothing"])


@pytest.mark.parametrize("name", ["plus/train/0000.parquet", "tokenizer.json", "tokenizer.model"])
def test_what_the_hub_gave_is_compared_with_its_checksum(hub, tmp_path, name):
    parts.get_tokenizer(tmp_path / "good", str)
    assert (tmp_path / "good" / "llama2_tokenizer" / "tokenizer.model").read_bytes() == b"model"
    hub[name] = b"changed on the way"
    with pytest.raises(DownloadError, match="wrong checksum"):
        if name.startswith("plus"):
            parts.get_hub(tmp_path, str, ["clinic150"])
        else:
            parts.get_tokenizer(tmp_path, str)
    assert not [
        file
        for file in tmp_path.rglob("*")
        if file.name == name.rpartition("/")[2] and file.read_bytes() == hub[name]
    ]
