"""A processor for PTX: runs the very text of the package in numpy, every thread of a launch at once.

It knows the instructions of engine/inference/gpu/uint16.ptx, and no others; branches go forward only, as they do there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

TYPES = {
    "u16": np.uint16,
    "u32": np.uint32,
    "s32": np.int32,
    "b32": np.uint32,
    "u64": np.uint64,
    "s64": np.int64,
    "b64": np.uint64,
    "f32": np.float32,
}
ENTRY = re.compile(r"\.entry (\w+)\((.*?)\)\s*\{(.*?)\n\}", re.DOTALL)
Bytes = Callable[[int, int], np.ndarray]  # the device memory from one address to another, uint8


class Ptx:
    """A module. `parameters` has the types of each entry's parameters, such as ["u64", "u32", "f32"]."""

    def __init__(self, text: str) -> None:
        self.parameters: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        self._lines: dict[str, list[str]] = {}
        for name, parameters, body in ENTRY.findall(re.sub(r"//[^\n]*", "", text)):
            declared = re.findall(r"\.param \.(\w+) (\w+)", parameters)
            self.parameters[name] = [kind for kind, _ in declared]
            self._names[name] = [parameter for _, parameter in declared]
            lines = [line.strip() for line in re.split(r"[;\n]", body)]
            self._lines[name] = [line for line in lines if line and not line.startswith(".")]
        if not self.parameters:
            raise ValueError("no entry in it")

    def run(self, name: str, grid: tuple[int, int], threads: int, arguments: tuple, memory: Bytes) -> None:
        """Launch a kernel of `grid` blocks (x, y)."""
        kinds = self.parameters[name]
        given = {p: TYPES[k](a) for p, k, a in zip(self._names[name], kinds, arguments, strict=True)}
        with np.errstate(all="ignore"):
            _Threads(grid, threads, given, memory).run(self._lines[name])


class _Threads:
    """All threads of one launch."""

    def __init__(self, grid: tuple[int, int], threads: int, given: dict, memory: Bytes) -> None:
        y, x, lane = (part.reshape(-1).astype(np.uint32) for part in np.indices((grid[1], grid[0], threads)))
        self.registers: dict[str, np.ndarray | np.uint32] = {
            "%tid.x": lane, "%ctaid.x": x, "%ctaid.y": y, "%ntid.x": np.uint32(threads)
        }  # fmt: skip
        self.given, self.memory = given, memory
        self.active = np.ones(lane.size, bool)
        self.waiting: dict[str, np.ndarray] = {}  # those that jumped to a label, until it is reached

    def run(self, lines: list[str]) -> None:
        for line in lines:
            if line.endswith(":"):
                self.active = self.active | self.waiting.pop(line[:-1], False)
                continue
            guard, operation, rest = re.fullmatch(r"(?:@(!?%p\d+)\s+)?([\w.]+)\s*(.*)", line).groups()  # type: ignore
            operands = [text.strip() for text in re.split(r",(?![^{]*\})", rest)] if rest else []
            if operation.startswith("bra"):
                self.jump(guard, operands[0])
            elif self.active.any():
                assert guard is None, line
                self.step(operation.split("."), operands)
        assert not self.waiting

    def jump(self, guard: str | None, label: str) -> None:
        taken = self.active.copy()
        if guard:
            taken &= self.registers[guard.lstrip("!")] ^ guard.startswith("!")
        self.waiting[label] = self.waiting.get(label, False) | taken
        self.active = self.active & ~taken

    def value(self, text: str, kind: str) -> Any:
        """An operand: a register, a float written as 0f3F800000, or an integer."""
        if text.startswith("%"):
            return np.asarray(self.registers[text]).astype(TYPES[kind], copy=False)
        if text.startswith("0f"):
            return np.uint32(int(text[2:], 16)).view(np.float32)
        return TYPES[kind](int(text))

    def set(self, register: str, value) -> None:
        before = self.registers.get(register)
        self.registers[register] = np.where(self.active, value, 0 if before is None else before)
        self.registers[register] = self.registers[register].astype(np.asarray(value).dtype)

    def cells(self, text: str, kind: str, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The memory that the active threads address, and where in it each of them does."""
        addresses = self.value(text.strip("[]"), "u64")[self.active]
        size = TYPES[kind]().nbytes
        low, high = int(addresses.min()), int(addresses.max()) + size * count
        assert not (addresses % np.uint64(size * count)).any(), "a misaligned address"
        return self.memory(low, high).view(TYPES[kind]), ((addresses - np.uint64(low)) // np.uint64(size)).astype(int)

    def step(self, operation: list[str], operands: list[str]) -> None:
        match operation:
            case ["ret"]:
                assert self.active.all()  # all have come to the end
            case ["ld", "param", _]:
                self.set(operands[0], self.given[operands[1].strip("[]")])
            case ["ld", "global", *vector, kind]:
                targets = operands[0].strip("{}").split(",")
                assert vector == ([] if len(targets) == 1 else [f"v{len(targets)}"])
                cells, at = self.cells(operands[1], kind, len(targets))
                for offset, target in enumerate(targets):
                    loaded = np.zeros(self.active.size, TYPES[kind])
                    loaded[self.active] = cells[at + offset]
                    self.set(target.strip(), loaded)
            case ["st", "global", kind]:
                cells, at = self.cells(operands[0], kind)
                value = np.broadcast_to(self.value(operands[1], kind), self.active.shape)
                cells[at] = value[self.active]
            case ["setp", how, kind]:
                a, b = (self.value(text, kind) for text in operands[1:])
                self.set(operands[0], {"ge": a >= b, "eq": a == b, "le": a <= b}[how])
            case ["cvt", "rni", "f32", "f32"]:
                self.set(operands[0], np.rint(self.value(operands[1], "f32")))
            case ["cvt", "rzi", "u32", "f32"]:
                self.set(operands[0], np.trunc(self.value(operands[1], "f32")).clip(0, 2**32 - 1).astype(np.uint32))
            case ["cvt", "rn", to, kind] | ["cvt", to, kind]:
                self.set(operands[0], self.value(operands[1], kind).astype(TYPES[to]))
            case ["mov", kind] | ["cvta", "to", "global", kind]:
                self.set(operands[0], self.value(operands[1], kind))
            case ["mad", "lo", kind]:
                a, b, c = (self.value(text, kind) for text in operands[1:])
                self.set(operands[0], a * b + c)
            case ["mul", "wide", "u32"]:
                a, b = (self.value(text, "u32").astype(np.uint64) for text in operands[1:])
                self.set(operands[0], a * b)
            case ["shl", kind]:
                self.set(operands[0], self.value(operands[1], kind) << TYPES[kind](int(operands[2])))
            case [("add" | "sub" | "mul" | "div") as name, *_, kind]:
                a, b = (self.value(text, kind) for text in operands[1:])
                function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name]
                self.set(operands[0], function(a, b))
            case [("min" | "max") as name, "f32"]:
                a, b = (self.value(text, "f32") for text in operands[1:])
                self.set(operands[0], np.fmin(a, b) if name == "min" else np.fmax(a, b))
            case [("neg" | "abs") as name, "f32"]:
                a = self.value(operands[1], "f32")
                self.set(operands[0], -a if name == "neg" else np.abs(a))
            case _:
                raise NotImplementedError(".".join(operation))
