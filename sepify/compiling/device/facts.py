"""What a board says of itself: whose times they are, and whether it is a board at all."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.process.machine import EXTENSIONS

# "CPU part" of /proc/cpuinfo, as the Linux kernel's arch/arm64/include/asm/cputype.h has them
_ARM = "0x41"
_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
}


@dataclass(frozen=True)
class BoardFacts:
    """A board in words: `cpu` is model, processor and clock, by which one kind of board is told
    from another; `emulated` where a program for ARM finds itself on another processor."""

    cpu: str
    cpus: int
    extensions: tuple[str, ...]
    system: str
    governor: str | None
    emulated: bool

    @property
    def identity(self) -> str:
        """The kind of board that times were taken on. The same after a restart or an upgrade."""
        return f"board: {self.cpu}, {self.cpus} CPU{'s' * (self.cpus != 1)}"


def read_facts(text: str) -> BoardFacts:
    """From what the board's server answers: its own lines, then /proc/cpuinfo."""
    pairs = [(k.strip(), v.strip()) for k, colon, v in _split(text) if colon]
    facts: dict[str, str] = {}
    for key, value in pairs:
        facts.setdefault(key, value)
    architecture = facts.get("architecture", "")
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    emulated = architecture == "aarch64" and "CPU part" not in facts
    parts = [facts["board"]] if "board" in facts else []
    if emulated:
        parts = [f"an emulator of {architecture} on {facts.get('model name', 'another processor')}"]
    else:
        parts += _processors(pairs) or [architecture]
    if facts.get("clock", "").isdigit() and not emulated:
        parts.append(f"{int(facts['clock']) // 1000} MHz")  # given in kHz
    return BoardFacts(
        cpu=", ".join(parts),
        cpus=int(facts.get("cpus", "1")),
        extensions=tuple(name for name in EXTENSIONS if name in flags and not emulated),
        system=facts.get("system", ""),
        governor=facts.get("governor"),
        emulated=emulated,
    )


def _split(text: str) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in text.splitlines()]


def _processors(pairs: list[tuple[str, str]]) -> list[str]:
    """Each kind of processor once, in the order of /proc/cpuinfo: some boards have two."""
    found = []
    maker = ""
    for key, value in pairs:
        if key == "CPU implementer":
            maker = value
        elif key == "CPU part":
            known = _PARTS.get(value) if maker == _ARM else None
            found.append(known or f"CPU {maker} {value}")
        elif key == "model name" and not value.startswith("ARM"):
            found.append(value)
    return list(dict.fromkeys(found))
