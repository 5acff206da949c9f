"""`--build-on`: what the inventory may say, a builder over a real sshd, and a real Dask cluster."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from support import nets
from support.sshd import Sshd

from models.build import build, find_cached
from models.errors import BuilderLost, BuilderUnfit
from models.store import Artifact, ArtifactStore, Manifest
from orchestrator import inventory
from orchestrator.builders import choice
from orchestrator.builders.entry import BuilderEntry, check_scheduler
from orchestrator.errors import InventoryError, UnknownName
from orchestrator.inventory import Inventory

BOARDS = "boards:\n  here: {local: true}\n"


def read(folder: Path, builders: str) -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(BOARDS + builders)
    return inventory.load(path)


def silent(_line: str) -> None:
    pass


def run_cli(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in a folder with an inventory."""
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- the inventory


def test_builders_stand_beside_boards(tmp_path: Path) -> None:
    """A builder is a host for ssh or a scheduler's address; files are found from the inventory."""
    known = read(
        tmp_path,
        "builders:\n"
        "  gpubox: {host: me@gpu.lan, python: /opt/v/bin/python, paths: {/data/voc: /mnt/voc}}\n"
        "  farm: {dask: 'tls://10.0.0.5:8786', ca: ca.pem, cert: me.pem, key: me.key}\n",
    )
    gpubox, farm = known.builders["gpubox"], known.builders["farm"]
    assert (gpubox.kind, gpubox.address, gpubox.paths) == (
        "ssh", "me@gpu.lan", {"/data/voc": "/mnt/voc"},
    )  # fmt: skip
    assert (farm.kind, farm.ca) == ("dask", tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "either 'host"),
        ("{host: a, dask: 'tls://a:1'}", "either 'host"),
        ("{host: '-oProxyCommand=x'}", "a host or an ssh alias"),
        ("{dask: 'tcp://10.0.0.5:8786'}", "not encrypted"),
        ("{dask: 'http://a:1'}", "expected tls://"),
        ("{host: a, python: 'python3; rm'}", "python: expected a path"),
        ("{host: a, workers: 0}", "workers"),
    ],
)
def test_wrong_builders_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """What is no builder, or could be taken for an option of ssh, is refused with its place."""
    with pytest.raises(InventoryError, match=words):
        read(tmp_path, f"builders:\n  one: {text}\n")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1"])
def test_plain_tcp_is_for_loopback(address: str) -> None:
    """A scheduler on this machine may do without TLS."""
    check_scheduler(address)


@pytest.mark.parametrize(
    ("name", "words"), [("gpubx", "gpubox"), ("tcp://192.168.0.9:8786", "not encrypted")]
)
def test_an_unknown_builder_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """A name that no builder has names the nearest; an address in the clear is refused."""
    known = read(tmp_path, "builders:\n  gpubox: {host: gpu}\n")
    with pytest.raises(UnknownName, match=words):
        choice.find(name, known)


def test_what_is_built_already_needs_no_builder(tmp_path: Path) -> None:
    """A builder that cannot be reached does not matter where all is in the store."""
    known = read(tmp_path, "builders:\n  gone: {host: no-such-host.invalid}\n")
    store, request = ArtifactStore(tmp_path / "store"), nets.request(tmp_path)
    made = build(request, store, silent)
    assert choice.builder(known.builders["gone"], known)([request], store, 1, silent) == [made]


def test_an_unreachable_builder_is_an_error_of_each_variant(tmp_path: Path) -> None:
    """What should have been built there has the builder's error, by name; the rest goes on."""
    known = read(tmp_path, "builders:\n  gone: {host: no-such-host.invalid}\n")
    store, request = ArtifactStore(tmp_path / "store"), nets.request(tmp_path)
    made = build(nets.request(tmp_path, "fp32"), store, silent)
    work = choice.builder(known.builders["gone"], known)
    error, found = work([request, nets.request(tmp_path, "fp32")], store, 1, silent)
    assert isinstance(error, BuilderLost)
    assert "builder gone" in str(error)
    assert found == made


# ---------------------------------------------------------------- over ssh


def write_loop(folder: Path, sshd: Sshd, more: str = "") -> Path:
    """An inventory with this machine as the builder `loop`, over ssh; the builder's home."""
    hosts = folder / "known_hosts"
    hosts.write_text(sshd.known_hosts_line(f"[127.0.0.1]:{sshd.port}"))
    config = folder / "ssh_config"
    config.write_text(f"{sshd.ssh_config.read_text()}  UserKnownHostsFile {hosts}\n")
    home = folder / "builder"
    (folder / "inventory.yaml").write_text(
        f"{BOARDS}ssh_config: {config}\n"
        f"builders:\n  loop: {{host: loop, python: {sys.executable}, home: {home}{more}}}\n"
    )
    return home


@pytest.mark.slow
@pytest.mark.ssh
def test_a_builder_over_ssh(tmp_path: Path, sshd: Sshd) -> None:
    """Code and files go over ssh, artifacts come back whole, and only its home is written to."""
    before = set(sshd.login.rglob("*"))
    home = write_loop(tmp_path, sshd)
    nets.detector(tmp_path / "net.onnx")
    folder = nets.tensors(tmp_path / "calibration")[0].parent
    words = ["build", "--model", "net.onnx", "--recipes", "fp32,int8_ptq"]
    words += ["--calibration", str(folder), "--isa", "aarch64", "--build-on", "loop"]
    done = run_cli(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "loop: " in done.stderr
    theirs = {path.name for path in (home / "models/artifacts").glob("*/*.onnx")}
    ours = {path.name for path in (tmp_path / ".orchestrator/models/artifacts").glob("*/*.onnx")}
    assert len(ours) == 2
    assert ours <= theirs
    assert [path.name for path in (home / "code").glob(".new-*")] == []
    again = run_cli(words, tmp_path)
    assert "step" not in again.stderr
    assert set(sshd.login.rglob("*")) == before


TRAINING = """
models:
  - model: unet
    imgsz: 32
    options: {{width: 0.25}}
    steps: [{{step: train, epochs: {epochs}, batch: 4}}]
recipes: [fp32]
training: {{source: {source}, split: train, val_split: null}}
"""


def masked(folder: Path, count: int = 8) -> Path:
    """Images of noise with the mask of a rectangle each."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[4:20, 4:20] = 255
        for kind, pixels in (("images", noise), ("masks", mask)):
            (folder / "train" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "train" / kind / f"{number}.png")
    return folder


@pytest.mark.slow
@pytest.mark.ssh
@pytest.mark.torch
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (extra 'models')"
)
def test_a_training_over_ssh_reads_the_builders_own_images(tmp_path: Path, sshd: Sshd) -> None:
    """`paths:` says where they are there; the trained file comes back, other images are refused."""
    ours, theirs = masked(tmp_path / "ours"), tmp_path / "theirs"
    shutil.copytree(ours, theirs)
    words = ["build", "mine.yaml", "--isa", "aarch64", "--build-on", "loop"]
    (tmp_path / "mine.yaml").write_text(TRAINING.format(source=ours, epochs=1))
    write_loop(tmp_path, sshd)
    refused = run_cli(words, tmp_path)
    assert refused.returncode == BuilderUnfit.exit_code
    assert f"where it has {ours}" in refused.stderr
    home = write_loop(tmp_path, sshd, f", paths: {{{ours}: {theirs}}}")
    done = run_cli(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "loop: unet/fp32 for aarch64: step train" in done.stderr
    (made,) = (tmp_path / ".orchestrator/models/artifacts").glob("*/*.json")
    manifest = msgspec.json.decode(made.read_bytes(), type=Manifest)
    assert [step.name for step in manifest.steps] == ["create", "train", "export_net"]
    assert manifest.metadata["trained"] == "1"
    assert (home / "models/artifacts" / made.parent.name / made.name).is_file()
    (theirs / "train/images/0.png").write_bytes((theirs / "train/masks/0.png").read_bytes())
    (tmp_path / "mine.yaml").write_text(TRAINING.format(source=ours, epochs=2))
    other = run_cli(words, tmp_path)
    assert other.returncode == BuilderUnfit.exit_code
    assert "not those of the host" in other.stderr


@pytest.mark.slow
@pytest.mark.ssh
def test_a_builder_whose_host_key_is_unknown(tmp_path: Path, sshd: Sshd) -> None:
    """A builder that ssh does not know is never sent anything."""
    config = tmp_path / "ssh_config"
    config.write_text(f"{sshd.ssh_config.read_text()}  UserKnownHostsFile {tmp_path / 'none'}\n")
    known = replace(read(tmp_path, "builders:\n  loop: {host: loop}\n"), ssh_config=config)
    request, store = nets.request(tmp_path), ArtifactStore(tmp_path / "store")
    (error,) = choice.builder(known.builders["loop"], known)([request], store, 1, silent)
    assert isinstance(error, BuilderLost)
    assert "Host key verification failed" in str(error)


# ---------------------------------------------------------------- on Dask


@dataclass(frozen=True)
class Keys:
    """A certificate authority of the cluster's own, and one key for all of its members."""

    ca: Path
    cert: Path
    key: Path


def make_keys(folder: Path) -> Keys:
    from cryptography import x509  # noqa: PLC0415 - paramiko brings it
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    keys = Keys(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    keys.ca.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    shutil.copy(keys.ca, keys.cert)
    keys.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return keys


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Keys]]:
    """A scheduler with TLS and one worker, on loopback; its address and keys."""
    distributed = pytest.importorskip("distributed", reason="Dask needs the extra 'dask'")
    keys = make_keys(tmp_path_factory.mktemp("keys"))
    files = {"tls_ca_file": str(keys.ca)}
    for role in ("client", "scheduler", "worker"):
        files |= {f"tls_{role}_cert": str(keys.cert), f"tls_{role}_key": str(keys.key)}
    security = distributed.Security(require_encryption=True, **files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            host="127.0.0.1",
            protocol="tls://",
            security=security,
            dashboard_address=None,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as running:
            yield running.scheduler_address, keys


def entry(cluster: tuple[str, Keys], home: Path) -> BuilderEntry:
    address, keys = cluster
    return BuilderEntry(
        "farm", "dask", address, home=str(home), ca=keys.ca, cert=keys.cert, key=keys.key
    )


@pytest.mark.slow
def test_a_builder_on_dask(tmp_path: Path, cluster: tuple[str, Keys]) -> None:
    """A worker of a TLS cluster builds, its lines arrive, and the file is the one built here."""
    known = read(tmp_path, "")
    store, request = ArtifactStore(tmp_path / "store"), nets.request(tmp_path)
    said: list[str] = []
    work = choice.builder(entry(cluster, tmp_path / "there"), known)
    first, second = work([request, nets.request(tmp_path, "fp32")], store, 1, said.append)
    assert isinstance(first, Artifact)
    assert isinstance(second, Artifact)
    assert first.sha256 == build(request, ArtifactStore(tmp_path / "here"), silent).sha256
    assert find_cached(request, store) == first
    assert any("int8_ptq" in line for line in said)


@pytest.mark.slow
def test_a_cluster_with_other_keys_is_refused(tmp_path: Path, cluster: tuple[str, Keys]) -> None:
    """A scheduler whose certificate is not of the named authority gets nothing."""
    address, _ = cluster
    known = read(tmp_path, "")
    wrong = entry((address, make_keys(tmp_path)), tmp_path / "there")
    request, store = nets.request(tmp_path), ArtifactStore(tmp_path / "store")
    (error,) = choice.builder(wrong, known)([request], store, 1, silent)
    assert isinstance(error, BuilderLost)
    assert address in str(error)
    assert not (tmp_path / "there").exists()
