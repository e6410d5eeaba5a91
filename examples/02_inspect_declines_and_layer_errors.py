"""See what was not quantized and why, which layers lose most, and give those more bits.

A ResNet-18 whose last layer is a softmax, which has no integer form, with weights of 4 bits.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

import qpc
from qpc.assets import load_demo_images, load_demo_model
from qpc.quant.config import LayerConfig, Override, WeightConfig

FOUR_BITS = LayerConfig(weight=WeightConfig(bits=4))
EIGHT_BITS = LayerConfig()


def main() -> None:
    """Quantize to 4 bits, look at the errors, and quantize more wisely."""
    resnet, _ = load_demo_model()
    images = load_demo_images()
    batches, shown = images.calibration[:128].split(64), images.test[:32]
    model = nn.Sequential(OrderedDict(resnet=resnet, softmax=nn.Softmax(1)))
    gm = qpc.trace(model, images.test[:1])

    # An operator that stays in float is declined: no error, but it is on record.
    ctx = qpc.PassContext()
    plain = qpc.quantize(gm, batches, qpc.QuantConfig(default=FOUR_BITS), ctx)
    for remark in ctx.declined:
        print(f"left alone: {remark}")

    # Where does the error come in? Signal-to-noise ratio in decibels, the worst values first.
    errors = qpc.compare(gm, plain, shown)
    print(f"\nall weights in 4 bits, worst values:\n{errors.table(5)}\n")

    # Overrides are exceptions from the default, by module, pattern, operator or position.
    early = tuple(Override(module=f"resnet.{name}", use=EIGHT_BITS) for name in ("conv1", "layer1"))
    last = Override(op="linear", use="float")
    for name, overrides in {
        "4 bits, early layers 8 bits": early,
        "the same, linear layer in float": (*early, last),
    }.items():
        config = qpc.QuantConfig(default=FOUR_BITS, overrides=overrides)
        errors = qpc.compare(gm, qpc.quantize(gm, batches, config), shown)
        print(f"{name:31} {errors.outputs[0].sqnr_db:5.1f} dB at the output")


if __name__ == "__main__":
    main()
