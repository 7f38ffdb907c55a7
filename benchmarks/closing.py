"""How each script ends: the date and the device, how it was measured, one table; raw results go to ``$OUT``, if that is set."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nas.measure.device import fingerprint


def show(device: torch.device, told: str, table: Table, width: int) -> None:
    """Print one table below what it was measured on and how."""
    console = Console(width=width, highlight=False)
    console.print(f"\n{time.strftime('%Y-%m-%d')}  {json.dumps(fingerprint(device).identity())}", soft_wrap=True)
    console.print(told)
    console.print(table)


def keep(name: str, raw: Any) -> None:
    """Write raw results as JSON to ``$OUT/<name>``; the folder is made."""
    if "OUT" in os.environ:
        folder = Path(os.environ["OUT"])
        folder.mkdir(parents=True, exist_ok=True)  # not to lose an hour's work over a folder
        (folder / name).write_text(json.dumps(raw, indent=1), encoding="utf-8")
