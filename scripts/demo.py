"""The main job with nothing but Python: python scripts/demo.py [EPOCHS]

Sets .venv up, renders signs in class folders, trains the ready-made model further on them, exports it to models/demo,
evaluates it, and predicts one image.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import ROOT, prepare

END = """
Made in {seconds:.0f} s:
  models/demo                    the model folder; the card is its README.md
  models/demo/model.onnx         the network, for any ONNX Runtime
  models/demo/model.safetensors  its weights, for signsclf.load_learner
  models/demo/run                history, figures, per-class table and plots
Look at: {report}
Next: {python} -m signsclf predict --model models/demo YOUR-IMAGE.png"""


def main() -> None:
    """Run the commands one after the other; the first that fails ends the demo."""
    epochs = sys.argv[1] if len(sys.argv) > 1 else "2"
    python = prepare("train")
    began = time.monotonic()

    def signsclf(*words: str) -> None:
        print(f"\n$ signsclf {' '.join(map(shlex.quote, words))}", flush=True)
        code = subprocess.run([str(python), "-m", "signsclf", *words], cwd=ROOT, check=False).returncode
        if code:
            sys.exit(code)

    with tempfile.TemporaryDirectory() as scratch:
        photos, unseen = Path(scratch, "photos"), Path(scratch, "unseen")
        # Any folder with a folder of images for each class will do in their place.
        signsclf("data", "render", str(photos), "--per-class", "16", "--size", "32:64")
        signsclf(
            "train", str(photos), "--weights", "models/gtsrb-signnet", "--epochs", epochs, "--out", "models/demo",
            "--overwrite", "--cache", "off",
        )  # fmt: skip
        # Signs of another seed, so none that it has seen.
        signsclf("data", "render", str(unseen), "--per-class", "4", "--size", "32:64", "--seed", "2024")
        signsclf("evaluate", "models/demo", str(unseen), "--report", "models/demo-report", "--cache", "off")
        signsclf("predict", "--model", "models/demo", str(unseen / "00014" / "00000_00000.png"))
    print(
        END.format(
            seconds=time.monotonic() - began, report=ROOT / "models" / "demo-report" / "report.html", python=python
        )
    )


if __name__ == "__main__":
    main()
