"""HELMET's data: checksums, what comes once, and archives that try to leave their folder."""

import hashlib
import io
import tarfile
from dataclasses import replace
from fnmatch import fnmatch
from types import SimpleNamespace

import httpx
import pytest

from rr_bench.download import helmet
from rr_bench.download.errors import DownloadError
from rr_bench.download.unpack import unpack
from rr_bench.tasks.files.hub import split_files
from rr_bench.tasks.settings import DataSettings

unpacks = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="unpacking safely needs Python 3.11.4 or later"
)

LARGE = 10**6


def archive(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                made.addfile(info)
    return path


def files_of(folder):
    return {p.name for p in folder.rglob("*") if p.is_file() or p.is_symlink()}


def test_an_old_python_unpacks_nothing_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(DownloadError, match=r"needs a newer Python: 3\.11\.4"):
        unpack(tmp_path / "x.tar", tmp_path / "out", most=1)
    assert not (tmp_path / "out").exists()


@unpacks
def test_unpacking_goes_on_where_it_was(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("data/x", b"12"), ("data/y/z", b"345"))
    out = tmp_path / "out"
    assert unpack(path, out, LARGE) == (2, 0)
    (out / "data" / "x").write_bytes(b"1")  # cut short
    assert unpack(path, out, LARGE) == (1, 1)
    assert (out / "data" / "x").read_bytes() == b"12"
    assert (out / "data" / "y" / "z").read_bytes() == b"345"
    assert files_of(out) == {"x", "z"}


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("data/../../evil", b"x"),
        ("data/link", (tarfile.SYMTYPE, "/etc/passwd")),
        ("data/link", (tarfile.SYMTYPE, "../../a.tar.gz")),
        ("data/link", (tarfile.SYMTYPE, "good")),
        ("data/hard", (tarfile.LNKTYPE, "/etc/passwd")),
        ("data/fifo", (tarfile.FIFOTYPE, "")),
        ("data/device", (tarfile.CHRTYPE, "")),
    ],
)
@unpacks
def test_an_archive_cannot_leave_its_folder(tmp_path, member):
    path = archive(tmp_path / "a.tar.gz", ("data/good", b"1"), member)
    with pytest.raises(DownloadError, match="refused"):
        unpack(path, tmp_path / "out", LARGE)
    assert files_of(tmp_path) == {"a.tar.gz", "good"}


@unpacks
def test_an_absolute_name_lands_inside(tmp_path):
    path = archive(tmp_path / "a.tar.gz", (f"{tmp_path}/evil", b"x"))
    unpack(path, tmp_path / "out", LARGE)
    assert not (tmp_path / "evil").exists() and files_of(tmp_path / "out") == {"evil"}


@unpacks
def test_an_older_link_does_not_lead_out(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "out" / "data").symlink_to(tmp_path / "outside")
    with pytest.raises(DownloadError, match="outside"):
        unpack(archive(tmp_path / "a.tar.gz", ("data/x", b"1")), tmp_path / "out", LARGE)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["x", "x.partial"])
@unpacks
def test_a_link_in_place_of_a_file_is_not_followed(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/inside").write_bytes(b"mine")
    (tmp_path / f"out/{name}").symlink_to("inside")
    unpack(archive(tmp_path / "a.tar.gz", ("x", b"1")), tmp_path / "out", LARGE)
    assert (tmp_path / "out/inside").read_bytes() == b"mine"
    assert (tmp_path / "out/x").read_bytes() == b"1" and not (tmp_path / "out/x").is_symlink()


@unpacks
def test_what_unpacks_is_limited(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("x", bytes(600)), ("y", bytes(600)))
    with pytest.raises(DownloadError, match="more than"):
        unpack(path, tmp_path / "out", 1000)
    assert files_of(tmp_path / "out") == {"x"}


@unpacks
def test_a_damaged_archive_is_an_error(tmp_path):
    path = archive(tmp_path / "a.tar.gz", ("data/x", bytes(100_000)))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DownloadError, match="not unpacked"):
        unpack(path, tmp_path / "out", LARGE)
    assert "x" not in files_of(tmp_path / "out")


@pytest.fixture
def texts(monkeypatch):
    """A stand-in for GitHub: the texts by name, and how often each address was asked."""
    contents = {name: name.encode() for name in helmet.TEXTS}
    known = {
        name: hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        for name, data in contents.items()
    }
    tree = {"tree": [{"path": name, "sha": sha} for name, sha in known.items()]}

    def get(url, **options):
        request = httpx.Request("GET", url)
        if url.startswith(helmet.TREE):
            return httpx.Response(200, json=tree, request=request)
        name = url.partition(f"{helmet.COMMIT}/")[2]
        status = 200 if name in contents else 404
        return httpx.Response(status, content=contents.get(name, b""), request=request)

    monkeypatch.setattr("httpx.get", get)
    return contents


def test_texts_come_from_one_commit_once(texts, tmp_path):
    said = []
    helmet.get_texts(tmp_path, said.append)
    texts.clear()
    helmet.get_texts(tmp_path, said.append)
    assert said == ["texts: 4 fetched, 0 were there", "texts: 0 fetched, 4 were there"]
    assert (tmp_path / helmet.TEXTS[0]).read_text() == helmet.TEXTS[0]


def test_a_text_of_another_commit_is_refused(texts, tmp_path):
    texts[helmet.TEXTS[1]] = b"changed on the way"
    with pytest.raises(DownloadError, match="is not HELMET's"):
        helmet.get_texts(tmp_path, str)
    assert files_of(tmp_path) == {helmet.TEXTS[0].partition("/")[2]}
    del texts[helmet.TEXTS[1]]
    with pytest.raises(DownloadError, match="404"):
        helmet.get_texts(tmp_path, str)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: files by name, and those it knows a checksum of."""
    files = {
        "plus/train/0000.parquet": b"train",
        "longbook_qa_eng.jsonl": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer.model": b"model",
        "special_tokens_map.json": b"[]",
        "data.tar.gz": archive(tmp_path / "a.tar.gz", ("data/ruler/x", b"1")).read_bytes(),
    }
    known = dict(files)

    def snapshot_download(repo, *, allow_patterns, local_dir, **options):
        for name, content in files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_bytes(content)

    class Api:
        def verify_repo_checksums(self, repo, *, local_dir, **options):
            present = {name for name in files if (local_dir / name).is_file()}
            wrong = {n for n in present & set(known) if (local_dir / n).read_bytes() != known[n]}
            return SimpleNamespace(
                mismatches=[{"path": name} for name in wrong], extra_paths=list(present - set(known))
            )

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    splits = {"clinic150": ("plus", "train"), "infinitebench": ("default", "longbook_qa_eng")}
    for name, (config, split) in splits.items():
        monkeypatch.setitem(
            helmet.HUB_SETS, name, replace(helmet.HUB_SETS[name], config=config, splits=(split,))
        )
    return SimpleNamespace(files=files, known=known)


@unpacks
def test_the_archive_is_unpacked_and_removed(hub, tmp_path):
    said = []
    folder = tmp_path / "helmet"
    helmet.get_data(folder, said.append)
    helmet.get_data(folder, said.append)
    assert said == ["data: 1 files unpacked, 0 were there", "data: complete"]
    assert (folder / "data" / "ruler" / "x").read_bytes() == b"1"
    assert files_of(folder) == {"x", ".complete"}
    helmet.get_data(tmp_path / "kept", str, keep_archive=True)
    assert (tmp_path / "kept" / "data.tar.gz").is_file()


def test_hub_sets_come_once_and_where_the_builders_look(hub, tmp_path):
    said = []
    names = ["clinic150", "infinitebench"]
    helmet.get_hub(tmp_path, said.append, names)
    helmet.get_hub(tmp_path, said.append, names)
    assert [line.rpartition(" ")[2] for line in said] == ["fetched", "fetched", "there", "there"]
    for name, split in (("clinic150", "train"), ("infinitebench", "longbook_qa_eng")):
        (file,) = split_files(name, split, DataSettings(helmet_dir=str(tmp_path)))
        assert file.read_bytes() in hub.files.values()
    with pytest.raises(DownloadError, match="no set 'nothing'"):
        helmet.get_hub(tmp_path, said.append, ["nothing"])


@pytest.mark.parametrize("name", ["plus/train/0000.parquet", "tokenizer.json", "data.tar.gz"])
def test_what_the_hub_gave_is_compared_with_its_checksum(hub, tmp_path, name):
    get = {
        "plus/train/0000.parquet": lambda: helmet.get_hub(tmp_path, str, ["clinic150"]),
        "tokenizer.json": lambda: helmet.get_tokenizer(tmp_path, str),
        "data.tar.gz": lambda: helmet.get_data(tmp_path, str),
    }[name]
    hub.files[name], right = b"changed on the way", hub.files[name]
    with pytest.raises(DownloadError, match="wrong checksum"):
        get()
    assert name.rpartition("/")[2] not in files_of(tmp_path)
    hub.files[name] = right
    del hub.known[name]
    with pytest.raises(DownloadError, match="no checksum"):
        get()


def test_a_hub_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise httpx.ConnectError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(DownloadError, match=r"princeton-nlp/HELMET: no route; run this again"):
        helmet.get_data(tmp_path, str)
