"""A stand-in for ``vpns fit``: does what its run folder's plan says, in milliseconds.

The plan is the folder's ``plan.json`` or the variable ``FAKE_PLAN``: JSON, a part of a run folder's
name (or ``*``) to a list with one action for each attempt; the last one repeats. ``ok`` finishes,
``crash`` prints and ends with 1, ``wrong`` with 2, ``kill`` by SIGKILL, ``nothing`` with 0 and no
result, ``wait`` finishes when the file ``go`` appears beside the run folders. SIGTERM leaves
``saved`` and ends with 143; ``deaf`` waits and ignores it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

RESULT = {
    **{"method": "OMP", "backbone": "resnet18", "dataset": "Digits", "seed": 7},
    **{"sparsity_requested": 0.5, "sparsity": 0.5, "test_accuracy": 0.5, "stages": {}},
}


def main() -> None:
    option = next(a for a in sys.argv if a.startswith("--trainer.default_root_dir="))
    folder = Path(option.partition("=")[2])
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: save_and_leave(folder))
    starts = folder / "starts"
    attempt = len(starts.read_text().splitlines()) if starts.exists() else 0
    with starts.open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    own = folder / "plan.json"
    plan = json.loads(own.read_text() if own.exists() else os.environ.get("FAKE_PLAN", "{}"))
    key = next((key for key in plan if key != "*" and key in folder.name), "*")
    actions = plan.get(key, ["ok"])
    action = actions[min(attempt, len(actions) - 1)]
    if action == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"attempt {attempt}: {action}", flush=True)
    if action in {"wait", "deaf"}:
        while not (folder.parent / "go").exists():
            time.sleep(0.02)
    elif action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in {"crash", "wrong"}:
        print("vpns: error: the reason", flush=True)
        sys.exit(1 if action == "crash" else 2)
    elif action == "nothing":
        return
    result = RESULT | {"grid": json.loads(os.environ["VPNS_GRID"])}
    (folder / "result.json").write_text(json.dumps(result))


def save_and_leave(folder: Path) -> None:
    (folder / "saved").touch()
    sys.exit(143)


if __name__ == "__main__":
    main()
