"""What the kernels were designed to reach, beside what cuda_model counts; a miss is said.

A step is InfoNCE forward with both gradients, in bfloat16. Its floors: the time of three products at the tensor cores'
peak or of two exponentials a score, whichever is longer; and the lanes that a loop of mma.sync cannot do without, see
tests/cuda/test_machine_code.py. At d = 64 and 256 a step may take as many times its floor as at d = 128.
"""

from .cuda_model_counts import SIZE, SPECS

STEP = "mi_ext InfoNCE, forward and gradients"
FLOOR_LANES = {64: 6.2 + 5.3, 128: 8.9 + 8, 256: 2 * (11.9 + 11)}
STEP_LANES, STEP_MILLISECONDS = 25, 1.6  # at d = 128, the time on an H100
GATHERED = 1.1  # times the compulsory bytes
JOINT = 1.15  # times the issue slots of two instructions


def floor_milliseconds(d: int) -> float:
    spec = SPECS["H100"]
    tensor = 6 * d / spec["tensor"]["bf16"]
    exponentials = 2 / (spec["sms"] * spec["clock"] * spec["mufu"])
    return 1e3 * SIZE**2 * max(tensor, exponentials)


def targets(rows: list[dict], gathered: list[dict[str, str]], joint: dict[str, float]) -> list[dict[str, str]]:
    """`joint`: walk → instructions of a hidden unit and pair."""
    found = []
    for row in (row for row in rows if (row["kernel"], row["dtype"]) == (STEP, "bfloat16")):
        d = int(row["width"].removeprefix("d = "))
        name = f"InfoNCE step, bfloat16, d = {d}"
        most = STEP_LANES * FLOOR_LANES[d] / FLOOR_LANES[128]
        found.append(judged(f"{name}, lanes in {row['code']} code", row["lanes"], most))
        if "H100" in row["least"]:
            most = STEP_MILLISECONDS * floor_milliseconds(d) / floor_milliseconds(128)
            found.append(judged(f"{name}, ms on an H100", row["least"]["H100"][0] / 1e3, most))
    for row in gathered:
        times = float(row["bytes"]) / float(row["compulsory"])
        found.append(judged(f"gathered, {row['dtype']}, d = {row['d']}: times the compulsory bytes", times, GATHERED))
    for walk, instructions in joint.items():
        found.append(judged(f"joint critic, {walk}: times two instructions a unit", instructions / 2, JOINT))
    return found


def judged(name: str, value: float, most: float) -> dict[str, str]:
    return {
        "counted": name,
        "value": f"{value:.3g}",
        "target, at most": f"{most:.3g}",
        "": "met" if value <= most else "MISSED",
    }
