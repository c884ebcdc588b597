"""Files that are written and later believed: whatever step of writing fails, what was there is there, and whole."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from certify import Certificate, GaussianNoise, _files, mse_bound
from certify.adaptive import FrozenSmoother

Y = torch.zeros(6)
STEPS = ("open", "fsync", "replace", "close")


class Killed(BaseException):
    """What nothing cleans up after."""


def certificate(seed: int) -> Certificate:
    return Certificate.of(mse_bound(torch.sin, Y, GaussianNoise(1.0), rho=0.5, n=400, seed=seed))


class Failing:
    """Makes the n-th step of writing fail, and after a kill everything that would clean up."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.at, self.error, self.done, self.failed = at, error, 0, False
        for name in (*STEPS, "unlink"):
            patch.setattr(os, name, self.failing(name, getattr(os, name)))

    def failing(self, name, plain):
        def call(*arguments, **options):
            if name == "unlink" and not (self.failed and isinstance(self.error, Killed)):
                return plain(*arguments, **options)
            if not self.failed:
                self.done += 1
                if self.done == self.at:
                    self.failed = True
                    if name == "close":
                        plain(*arguments, **options)
            if self.failed and (isinstance(self.error, Killed) or self.done == self.at):
                self.done += 1
                raise self.error
            return plain(*arguments, **options)

        return call


ERRORS = [lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Killed]


@pytest.mark.parametrize("error", ERRORS)
def test_at_every_moment_there_is_a_certificate(tmp_path, error):
    """Writing over one: each single step of it fails in turn, and after each the folder loads, as the old one or the new."""
    old, new = certificate(0), certificate(1)
    seen = set()
    for at in range(1, 60):
        folder = old.save(tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, at, error())
            with contextlib.suppress(OSError, Killed):
                new.save(folder, overwrite=True)
        found = Certificate.load(folder)
        assert found.claims in (old.claims, new.claims)
        seen.add(found.claims == new.claims)
        if not failing.failed:
            assert found.claims == new.claims
            assert sorted(os.listdir(folder)) == ["certificate.json", "tensors.safetensors"]
            break
        assert Certificate.load(new.save(folder, overwrite=True)).claims == new.claims
    assert at > 8
    assert seen == {True, False}


def test_a_first_certificate_is_there_or_not(tmp_path):
    for at in range(1, 60):
        folder = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, at, Killed())
            with contextlib.suppress(Killed):
                certificate(0).save(folder)
        if (folder / "certificate.json").exists():
            assert Certificate.load(folder).claims == certificate(0).claims
        else:
            certificate(0).save(folder)
        if not failing.failed:
            break
    assert at > 8


def test_tensors_of_somebody_else_are_not_written_over(tmp_path):
    (tmp_path / "tensors.safetensors").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"foreign tensors\.safetensors: choose another"):
            certificate(0).save(tmp_path, overwrite=overwrite)
    assert (tmp_path / "tensors.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["text", "tensors"])
def test_a_file_is_the_old_one_or_the_new(tmp_path, error, kind):
    def put(content: str) -> None:
        if kind == "text":
            _files.write(tmp_path / "a", content)
        else:
            _files.write_tensors(tmp_path / "a", {content: torch.ones(3)})

    put("old")
    old = (tmp_path / "a").read_bytes()
    put("new")
    new = (tmp_path / "a").read_bytes()
    for at in range(1, 40):
        put("old")
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, at, error())
            with contextlib.suppress(OSError, Killed):
                put("new")
        assert (tmp_path / "a").read_bytes() in (old, new)
        for left in _files.temporaries(tmp_path / "a"):
            assert isinstance(failing.error, Killed)
            left.unlink()
        if not failing.failed:
            break
    assert at > 4
    assert os.listdir(tmp_path) == ["a"]


def test_files_and_their_folders_are_synced(tmp_path, monkeypatch):
    """After a power cut only what was synced is there: the file before its name, and then the folder that has the name."""
    done, plain = [], {"fsync": os.fsync, "replace": os.replace}

    def fsync(place):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{place}")))
        return plain["fsync"](place)

    def replace(old, new):
        done.append(("replace", str(new)))
        return plain["replace"](old, new)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no names of open files on this system")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    _files.make_folder(tmp_path / "a" / "b")
    assert done == [("fsync", str(tmp_path)), ("fsync", str(tmp_path / "a"))]
    for put in (lambda path: _files.write(path, "x"), lambda path: _files.write_tensors(path, {"x": Y})):
        done.clear()
        put(tmp_path / "a" / "b" / "c")
        (first, name), second, third = done
        assert first == "fsync"
        assert Path(name).name.startswith(".c.")
        assert (second, third) == (("replace", str(tmp_path / "a/b/c")), ("fsync", str(tmp_path / "a/b")))


def test_what_the_owner_alone_may_read(tmp_path):
    _files.make_folder(tmp_path / "a", owner_only=True)
    _files.write(tmp_path / "a" / "text", "x", owner_only=True)
    _files.write_tensors(tmp_path / "a" / "tensors", {"x": Y}, owner_only=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", *(tmp_path / "a").iterdir())}
    assert modes == {"a": 0o700, "text": 0o600, "tensors": 0o600}


FULL = """
import resource, sys
from pathlib import Path
import torch
from certify import _files
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for put in (lambda p: _files.write(p, bytes(9000)), lambda p: _files.write_tensors(p, {"x": torch.ones(9000)})):
    try:
        put(Path(sys.argv[1]))
    except OSError as error:
        print(error)
"""


def test_where_there_is_no_room_the_error_has_the_path(tmp_path):
    """A limit on the size of files is the full disk that a test can have."""
    (tmp_path / "a").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a")], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines() == [f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{tmp_path / 'a'}'"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_tensors_that_share_memory(tmp_path):
    x = torch.arange(6.0)
    _files.write_tensors(tmp_path / "a", {"x": x, "part": x[2:4], "turned": x.reshape(2, 3).t()})
    found, _ = _files.read_tensors(tmp_path / "a")
    assert torch.equal(found["part"], x[2:4])
    assert torch.equal(found["turned"], x.reshape(2, 3).t())


def test_a_smoother_is_replaced_as_one(tmp_path, monkeypatch):
    """Its record and its tensors belong together: one with the other's tensors was accepted."""
    from certify.models import load_text_encoder

    encoder = load_text_encoder()
    from certify.adaptive import AdaptiveMedianSmoother

    adaptive = AdaptiveMedianSmoother.from_encoder(encoder, ["circle"], sigma0=0.1, k=2.0, n=3)
    one, other = adaptive.freeze("a red circle"), adaptive.freeze("a photo of a blue circle")
    one.save(tmp_path)
    with monkeypatch.context() as patch:
        Failing(patch, 9, Killed())
        with pytest.raises(Killed):
            other.save(tmp_path)
    FrozenSmoother.load(tmp_path, encoder)
    other.save(tmp_path)
    tensors = (tmp_path / "smoother.safetensors").read_bytes()
    one.save(tmp_path)
    (tmp_path / "smoother.safetensors").write_bytes(tensors)
    with pytest.raises(ValueError, match="the two do not belong together"):
        FrozenSmoother.load(tmp_path, encoder)
