"""Instruction sets, as far as kernels and artifacts differ by them."""

from __future__ import annotations

from typing import Literal

Isa = Literal["aarch64", "aarch64-dotprod", "x86_64", "x86_64-vnni", "other"]
