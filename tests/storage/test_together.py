import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from nets import Plain, seeded

from sepify.errors import FileError, SepifyError
from sepify.formats.input_note import InputRequest
from sepify.formats.torchscript_write import save_torchscript
from sepify.jobs.convert import ConversionRequest, convert_file
from sepify.process.progress import silent
from sepify.storage import write_text, written_together


def state(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: contents of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def old(tmp_path):
    """Two files that are there; a third path where there is none."""
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("old")
    return tmp_path


def write_three(folder: Path) -> None:
    with written_together() as stage:
        for name in ("a.json", "b.json", "c.json"):
            write_text(stage(folder / name), "new")
        assert (folder / "a.json").read_text() == "old"  # nothing moves before the end


def test_all_of_them_move_together_and_nothing_else_is_left(old):
    write_three(old)
    assert state(old) == dict.fromkeys(("a.json", "b.json", "c.json"), b"new")


def test_a_folder_may_be_among_them(old):
    (old / "bundle").mkdir()
    (old / "bundle" / "gone").touch()
    with written_together() as stage:
        stage(old / "bundle").mkdir()
        (stage(old / "bundle") / "net.so").write_bytes(b"code")
        write_text(stage(old / "a.json"), "new")
    expected = {"a.json": b"new", "b.json": b"old", "bundle": None, "bundle/net.so": b"code"}
    assert state(old) == expected


def test_a_link_stays_a_link_and_what_it_leads_to_is_put_back(old):
    (old / "link").symlink_to("a.json")
    (old / "nowhere").symlink_to("new.json")
    (old / "c.json").mkdir()
    (old / "c.json" / "full").touch()
    before = state(old)
    with pytest.raises(FileError, match=r"c\.json"), written_together() as stage:
        for name in ("link", "nowhere", "c.json"):
            write_text(stage(old / name), "new")
    assert (old / "link").is_symlink()
    assert (old / "nowhere").is_symlink()
    assert state(old) == before


@pytest.mark.parametrize("raised", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_is_raised_before_the_end_leaves_the_old_ones(old, raised):
    before = state(old)
    with pytest.raises(type(raised)), written_together() as stage:
        write_text(stage(old / "a.json"), "new")
        write_text(stage(old / "c.json"), "new")
        raise raised
    assert state(old) == before


def test_an_error_of_a_writer_names_the_file_that_was_asked_for(old):
    with pytest.raises(FileError) as caught, written_together() as stage:
        target = stage(old / "a.json")
        target.mkdir()
        write_text(target, "new")
    assert f"cannot write {old / 'a.json'}: " in str(caught.value)


def test_a_move_that_fails_takes_those_before_it_back(old):
    (old / "c.json").mkdir()
    (old / "c.json" / "full").touch()
    before = state(old)
    with pytest.raises(FileError, match=r"c\.json"):
        write_three(old)
    assert state(old) == before


@pytest.mark.parametrize("failing", ["a.json", "b.json", "c.json"])
def test_any_move_may_fail(old, failing, monkeypatch):
    replace = os.replace

    def replacing(source, target, **options):
        if str(target) == str(old / failing) and Path(source).name != "old":
            raise OSError(errno.ENOSPC, "full")
        return replace(source, target, **options)

    monkeypatch.setattr(os, "replace", replacing)
    before = state(old)
    with pytest.raises(FileError, match=failing):
        write_three(old)
    assert state(old) == before


def test_without_hard_links_the_old_ones_are_copied(old, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuse)
    (old / "c.json").mkdir()
    (old / "c.json" / "full").touch()
    before = state(old)
    with pytest.raises(FileError):
        write_three(old)
    assert state(old) == before


def test_ctrl_c_while_they_move_waits_until_all_have_moved(old, monkeypatch):
    replace = os.replace

    def interrupted(source, target, **options):
        if Path(target).parent == old:
            os.kill(os.getpid(), signal.SIGINT)
        return replace(source, target, **options)

    monkeypatch.setattr(os, "replace", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    with pytest.raises(KeyboardInterrupt):
        write_three(old)
    signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert state(old) == dict.fromkeys(("a.json", "b.json", "c.json"), b"new")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    x = torch.zeros(1, 3, 12, 12)
    save_torchscript(torch.jit.trace(seeded(Plain()), x), path, [(1, 3, 12, 12)], ["float32"])
    return path


def full_disk(*_args):
    raise OSError(errno.ENOSPC, "full")


def bug(*_args, **_options):
    raise ZeroDivisionError


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


FAILURES = {  # what is replaced, by what, and what comes out
    "the page cannot be rendered": ("report.html.render_page", bug, ZeroDivisionError),
    "Ctrl-C in the last file": ("report.html.render_page", interrupt, KeyboardInterrupt),
    "a full disk at the plan": ("jobs.convert.save_plan", full_disk, SepifyError),
    "a bug while measuring": ("jobs.convert.compare", bug, ZeroDivisionError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_convert_writes_all_its_files_or_none(model, tmp_path, monkeypatch, failure):
    place, raising, kind = FAILURES[failure]
    for name in ("small.pt", "small.plan.json"):
        (tmp_path / name).write_text("old")
    before = state(tmp_path)
    monkeypatch.setattr(f"sepify.{place}", raising)
    inputs = InputRequest(((1, 3, 12, 12),))
    request = ConversionRequest(str(model), tmp_path / "small.pt", inputs, method="svd")
    with pytest.raises(kind):
        convert_file(request, silent)
    assert state(tmp_path) == before


def test_a_report_that_is_a_folder_leaves_the_model_unwritten(model, tmp_path):
    (tmp_path / "small.report.html").mkdir()
    before = state(tmp_path)
    request = ConversionRequest(str(model), tmp_path / "small.pt", method="svd")
    with pytest.raises(FileError, match=r"small\.report\.html"):
        convert_file(request, silent)
    assert state(tmp_path) == before


def test_reports_are_saved_as_all_outputs_or_as_none(tmp_path):
    from sepify.jobs.report import save_all

    class Unrenderable:
        def to_dict(self):
            return {}

    with pytest.raises(AttributeError):
        save_all(Unrenderable(), [tmp_path / "a.json", tmp_path / "a.html"])
    assert state(tmp_path) == {}
