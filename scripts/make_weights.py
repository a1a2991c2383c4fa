"""Make the weights that training on traffic signs starts from, of models that saw rendered signs alone.

    signsclf train synthetic --out models/signnet
    signsclf train synthetic --recipe fast --samples 1200000 --out models/signnet-fast
    python scripts/make_weights.py models/signnet models/signnet-fast

They go to signsclf/training/weights, a file for each architecture, in half precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.model.folder import read_config
from signsclf.training.architectures import create, find_architecture, load_weights

WEIGHTS = Path(__file__).parents[1] / "signsclf" / "training" / "weights"


def halved(folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Give the architecture of a model folder, and its tensors as training left them, in half precision."""
    name = read_config(folder).architecture
    arch = find_architecture(name)
    model = create(arch, len(CLASS_NAMES))
    told = load_weights(model, arch, len(CLASS_NAMES), str(folder), CLASS_NAMES)
    if "dropped" in told:
        raise SystemExit(f"{folder}: its classes are not GTSRB's; train it on synthetic signs")
    state = model.state_dict()
    return name, {n: tensor.half() if tensor.is_floating_point() else tensor for n, tensor in state.items()}


def main() -> None:
    """Write the file of each model folder named on the command line."""
    parser = argparse.ArgumentParser(description="Make the weights that training on traffic signs starts from.")
    parser.add_argument("models", type=Path, nargs="+", help="model folders, each trained on synthetic signs")
    WEIGHTS.mkdir(exist_ok=True)
    for folder in parser.parse_args().models:
        name, state = halved(folder)
        path = WEIGHTS / f"{name}.safetensors"
        save_file(state, path)
        path.chmod(0o644)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
