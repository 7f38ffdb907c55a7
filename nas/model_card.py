"""The model card beside a shipped network: what it is, how it was found and trained, what was measured, and how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nas.files import write_text
from nas.metrics import METRICS, show
from nas.shipped import Description

_SHOWN = (
    *("latency_ms", "latency_iqr_ms", "latency_graph_ms", "latency_enqueue_ms", "images_per_s", "flops_per_s"),
    *("energy_j", "energy_net_j", "power_w", "peak_memory_mb", "params", "mult_adds", "flops", "mem_access"),
)


def write_card(folder: Path, description: Description, metrics: Mapping[str, Any]) -> None:
    """Write ``README.md``, the name under which model hubs look for a card."""
    write_text(folder / "README.md", card(folder, description, metrics))


def card(folder: Path, description: Description, metrics: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        folder: Where the network is, for the lines that load it.
        description: What it is.
        metrics: What ``metrics.json`` holds.
    """
    shape = "×".join(map(str, description.input_shape))
    family = description.architecture.get("family")
    return "\n".join(
        [
            f"# {description.name}",
            "",
            f"An image classifier of the family `{family}` for {shape} images of {len(description.classes)} classes.",
            f"{metrics['why']}",
            "",
            "![Its blocks](diagram.svg)",
            "",
            "## Accuracy",
            "",
            *_accuracy(metrics),
            "",
            "## Measured",
            "",
            *_measured(metrics),
            "",
            "## How it was trained",
            "",
            *_training(metrics),
            "",
            "![Training loss](curves.svg)",
            "",
            "## How to use it",
            "",
            "```python",
            "from nas import load_model",
            "",
            f'model = load_model("{folder}", normalise=True)  # takes pixels scaled to 0..1: (N, {shape.replace("×", ", ")})',
            "```",
            "",
            f"The classes, in the order of the logits: {', '.join(description.classes)}.",
            "",
            "## Limits",
            "",
            *_limits(metrics),
            "",
        ]
    )


def _accuracy(metrics: Mapping[str, Any]) -> Iterator[str]:
    top1, error = 100 * metrics["test_top1"], 100 * metrics["test_top1_standard_error"]
    yield f"- **{top1:.2f} % top-1** on {metrics['test_images']} test images, which were looked at this once."
    yield f"  Standard error from their number: {error:.2f} points; another seed's training would differ on top of it."
    yield f"- {100 * metrics['test_top5']:.2f} % top-5, cross-entropy {metrics['test_loss']:.4f}."
    if metrics["brief_validation_top1"] is not None:
        stopped_at = metrics.get("brief_stopped_at")
        after = "the search's brief training" if stopped_at is None else f"{_epochs(stopped_at)}, at which the search stopped it"
        yield f"- After {after}: {100 * metrics['brief_validation_top1']:.2f} % on the validation part."


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _measured(metrics: Mapping[str, Any]) -> Iterator[str]:
    conditions, device = metrics["conditions"], metrics["device"]["agreed"]
    threads = f", {conditions['threads']} threads" if conditions["threads"] else ""
    yield f"On {device['name']}{threads}: batches of {conditions['batch_size']} in {conditions['precision']},"
    yield f"{conditions['memory_format']}."
    if metrics["search_device"] is not None:
        yield f"**This is not the search's device** ({metrics['search_device']}): these figures do not compare with the front's."
    yield ""
    yield "| metric | value | what it is |"
    yield "|---|---|---|"
    for name in _SHOWN:
        if metrics.get(name) is not None:
            yield f"| `{name}` | {show(METRICS[name], metrics[name])} | {METRICS[name].meaning} |"
    for name in ("latency_ms", "energy_j", "peak_memory_mb"):
        if metrics.get(name) is None:
            yield f"| `{name}` | not measured | {metrics.get(f'{name}_reason', 'no reason was recorded')} |"
    if metrics.get("measure_flags"):
        yield ""
        yield f"In doubt: {'; '.join(metrics['measure_flags'])}."


def _training(metrics: Mapping[str, Any]) -> Iterator[str]:
    recipe = {key: value for key, value in metrics["recipe"].items() if value not in (None, 0, 0.0)}
    yield f"- {metrics['epochs']} epochs on {metrics['train_images']} images (training and validation part) in"
    yield f"  {metrics['train_seconds']:.0f} s, seed {metrics['seed']}, {metrics['numeric']['precision']}"
    yield f"  {metrics['numeric']['memory_format']}."
    yield f"- Recipe: {', '.join(f'{key} {value}' for key, value in recipe.items())}."
    yield f"- Versions: {', '.join(f'{name} {number}' for name, number in metrics['versions'].items())}."


def _limits(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "- One training with one seed; the accuracy holds for images like the test part's."
    yield "- A latency holds for its batch size and device; absolute joules carry the sensor's bias of 5 to 10 %."
    if metrics["recipe"]["devices"] > 1:
        yield f"- Trained on {metrics['recipe']['devices']} devices, each with batch statistics of its own."
