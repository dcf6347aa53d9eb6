"""Help, examples and completion of every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer

from sepify.cli.app import app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def commands(group: typer.Typer = app, before: str = "") -> list[str]:
    """Every command there is, those of groups as two words."""
    found = [f"{before}{c.callback.__name__}" for c in group.registered_commands if c.callback]
    for inner in group.registered_groups:
        found += commands(inner.typer_instance, f"{before}{inner.name} ")
    return found


def test_the_commands_of_groups_are_among_them():
    assert {"convert", "device count", "device serve", "device time"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_help_has_two_examples_and_what_every_command_takes(shell, command):
    text = shell(*command.split(), "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(rf"sepify\s+{command}\b", text)) >= 2
    assert "Examples:" in text
    for option in ("--json", "--quiet", "--help"):
        assert option in text
    assert "\x1b" not in text


def test_help_names_every_command_and_each_has_two_examples(shell):
    assert shell("--help").code == 0
    commands = ("inspect", "convert", "compile", "report", "demo")
    assert all(name in shell.out for name in commands)
    for name in commands:
        text = shell(name, "--help").out
        assert len(re.findall(rf"sepify\s+{name} ", text)) >= 3  # usage and two examples


@pytest.mark.slow
def test_completion_knows_the_commands():
    environment = {
        **os.environ,
        "_SEPIFY_COMPLETE": "complete_bash",
        "COMP_WORDS": "sepify ",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv = ['sepify']; from sepify.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert {command.split()[0] for command in commands()} <= set(done.stdout.split())
