"""The examples for training code, on the real libraries: the snapshot is cold at first and warmed by the example."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess
from tests.acceptance.examples import begin, cloud, cool, finish, need, noise, run, tiers_of
from tests.seaweed import Seaweed
from tests.world import digest_tree, s3_settings

_SIDE, _CLASSES, _PER_CLASS = 16, 3, 8


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path)
    yield daemon
    daemon.close()


def make_images(root: Path) -> float:
    """One folder per class, with images that need no library to be made; returns their mean brightness."""
    total = count = 0
    for label in range(_CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(_PER_CLASS):
            pixels = noise(_SIDE * _SIDE * 3)
            total, count = total + sum(pixels), count + len(pixels)
            (root / f"class{label}" / f"{number}.ppm").write_bytes(b"P6 %d %d 255\n" % (_SIDE, _SIDE) + pixels)
    return total / count / 255


def test_a_data_loader_trains_on_a_snapshot_that_it_warmed_and_holds_it(daemon: DaemonProcess) -> None:
    need("torch", "PIL")
    mean = make_images(daemon.dataset / "v1")
    before = digest_tree(daemon.dataset / "v1")
    daemon.start()
    cool(daemon, "ds/v1")
    epochs = 20  # so that it surely still trains when it is looked at
    process = begin(daemon, "pytorch_imagefolder.py", "ds/v1", "--epochs", str(epochs))

    def is_training() -> bool:
        assert process.poll() is None, process.communicate()
        held = daemon.get("/v1/leases").json()["items"]
        return any("pytorch_imagefolder.py" in lease["holder"] for lease in held) and "flash" in tiers_of(
            daemon, "ds/v1"
        )

    daemon.wait_until(is_training, "the example trains, and holds the snapshot")
    refused = daemon.post("/v1/snapshots/ds/v1/release", check=False)
    lines = [line for line in finish(process).splitlines() if line.startswith("epoch")]
    assert refused.status_code == 409
    assert len(lines) == epochs
    assert all(f"{_CLASSES * _PER_CLASS} images, mean {mean:.6f}" in line for line in lines)
    assert daemon.get("/v1/leases").json()["items"] == []
    assert digest_tree(daemon.dataset / "v1") == before
    assert not (daemon.dataset / "v1").is_symlink()


def test_a_saved_dataset_is_mapped_from_flash(daemon: DaemonProcess) -> None:
    need("datasets")
    texts = [f"row {number} " + "x" * (number % 50) for number in range(500)]
    source = daemon.base / "texts.json"
    source.write_text(json.dumps(texts))
    save = (
        "import datasets, json, sys; texts = json.load(open(sys.argv[1])); "
        "datasets.Dataset.from_dict({'text': texts}).save_to_disk(sys.argv[2], num_shards=3)"
    )
    subprocess.run(
        [sys.executable, "-c", save, str(source), str(daemon.dataset / "v1")], check=True, capture_output=True
    )
    before = digest_tree(daemon.dataset / "v1")
    daemon.start()
    cool(daemon, "ds/v1")
    printed = run(daemon, "hf_datasets.py", "ds/v1", "--by", "2h")
    assert "half of ds/v1 is on flash" in printed
    assert f"500 rows, {sum(map(len, texts))} characters" in printed
    assert not (daemon.dataset / "v1").is_symlink()
    assert digest_tree(daemon.dataset / "v1") == before  # reading left nothing behind, no cache either


def _make_shards(root: Path, shards: int) -> int:
    root.mkdir()
    total = 0
    for shard in range(shards):
        with tarfile.open(root / f"shard-{shard:06}.tar", "w") as archive:
            for number in range(10):
                text = "t" * (100 * shard + number)
                for suffix, content in (("txt", text.encode()), ("cls", b"%d" % (number + 1))):
                    member = tarfile.TarInfo(f"{shard:03}{number:03}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                total += len(text) * (number + 1)
    return total


def test_shards_are_read_from_hdd_while_they_come_to_flash(daemon: DaemonProcess) -> None:
    need("torch", "webdataset")
    total = _make_shards(daemon.dataset / "v1", 4)
    daemon.start()
    cool(daemon, "ds/v1")
    printed = run(daemon, "webdataset_shards.py", "ds/v1", "--shards", "4")
    assert f"first pass: 40 samples, sum {total}" in printed
    assert "second pass: 40 samples" in printed
    assert not (daemon.dataset / "v1").is_symlink()


def test_shards_come_from_a_bucket(tmp_path: Path, seaweed: Seaweed) -> None:
    need("torch", "webdataset")
    daemon = DaemonProcess(
        tmp_path,
        hdd_extra=cloud(s3_settings(tmp_path, seaweed.endpoint)),
    )
    daemon.config.write_text(
        daemon.config.read_text()
        .replace('migrate_after = "never"', 'migrate_after = { cloud = "0s" }')
        .replace('release_after = "never"', 'release_after = { flash = "1s" }')
    )
    total = _make_shards(daemon.dataset / "v1", 12)
    try:
        daemon.start()
        daemon.wait_until(lambda: tiers_of(daemon, "ds/v1") == {"cloud"}, "it is only in the bucket")
        printed = run(daemon, "webdataset_shards.py", "ds/v1", "--shards", "12")
        assert f"first pass: 120 samples, sum {total}" in printed
        assert "second pass: 120 samples" in printed
    finally:
        daemon.close()


# -- moves beneath a reader -------------------------------------------------------------------------------------------

_READER = """
import hashlib, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset

class Files(Dataset):
    def __init__(self, root):
        self.files = sorted(str(file) for file in root.rglob("*") if file.is_file())
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        content = Path(self.files[index]).read_bytes()
        return self.files[index], hashlib.sha256(content).hexdigest()

if __name__ == "__main__":
    root, stop, start = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    loader = DataLoader(Files(root), 4, num_workers=2, multiprocessing_context=start, persistent_workers=True)
    digests, epochs = {}, 0
    while not (epochs and stop.exists()):
        for files, found in loader:
            for file, digest in zip(files, found):
                assert digests.setdefault(file, digest) == digest, file
        epochs += 1
        print(epochs, flush=True)
    print(hashlib.sha256("".join(digests[file] for file in sorted(digests)).encode()).hexdigest())
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_workers_of_a_data_loader_read_on_while_the_snapshot_moves(daemon: DaemonProcess, start: str) -> None:
    need("torch")
    make_images(daemon.dataset / "v1")
    digests = "".join(f[-1] for _, f in sorted(digest_tree(daemon.dataset / "v1").items()) if len(f) > 5)  # type: ignore[misc]
    reader, stop = daemon.base / "reader.py", daemon.base / "stop"
    reader.write_text(_READER)
    daemon.start()
    daemon.wait_until(lambda: tiers_of(daemon, "ds/v1") == {"flash"}, "it is found")
    with (daemon.base / "reader.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, str(reader), str(daemon.dataset / "v1"), str(stop), start],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def reads_on(after: int) -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            return len(Path(log.name).read_text().split()) > after

        try:
            daemon.wait_until(partial(reads_on, 0), "the first epoch is over", timeout=120)
            for _ in range(2 if start == "fork" else 1):
                cool(daemon, "ds/v1")
                daemon.wait_until(partial(reads_on, len(Path(log.name).read_text().split()) + 1), "it reads from HDD")
                warmed = daemon.cli("warm", "ds/v1", "--wait", "--lease", "1s")
                assert warmed.returncode == 0, warmed.stderr
                daemon.wait_until(partial(reads_on, len(Path(log.name).read_text().split()) + 1), "it reads from flash")
                daemon.wait_until(lambda: not daemon.get("/v1/leases").json()["items"], "the lease is over")
        finally:
            stop.touch()
            process.wait(60)
        assert process.returncode == 0, Path(log.name).read_text()
        assert Path(log.name).read_text().split()[-1] == hashlib.sha256(digests.encode()).hexdigest()
