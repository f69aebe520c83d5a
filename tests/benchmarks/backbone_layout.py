# Copyright (C) 2026 the anomalib-grad authors
# SPDX-License-Identifier: Apache-2.0
"""What the memory layout of a frozen backbone costs: channels last, as the package has it, beside torch's own.

python tests/benchmarks/backbone_layout.py [--backbones mobilenetv2_100 resnet18] [--side 320] [--threads 1]

Both compute the same images in turns, in one process; weights are random, as they change no time.
"""

import argparse

import torch
from measure import in_turns, machine, markdown

from anomalib_grad.backbone import FrozenBackbone

BACKBONES = ("mobilenetv2_100", "tf_efficientnet_lite2", "grad_tiny", "resnet18", "tf_efficientnet_b4")


@torch.no_grad()
def main() -> None:
    """Measure all backbones and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="timm names")
    parser.add_argument("--side", type=int, default=320, help="of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = torch.rand(args.batch_size, 3, args.side, args.side)
    rows = []
    for name in args.backbones:
        size = (args.side, args.side)
        own = FrozenBackbone(name, "coarsest", pre_trained=False, image_size=size)
        ways = {"last": lambda own=own: own(images), "first": lambda own=own: own.network(images)[0]}
        apart = ((ways["last"]() - ways["first"]()).abs().max() / own(images).abs().max()).item()
        timings = {way: 1e3 * time.cpu / args.batch_size for way, time in in_turns(ways, args.rounds).items()}
        ratio = timings["first"] / timings["last"]
        rows.append([name, f"{timings['first']:.0f}", f"{timings['last']:.0f}", f"{ratio:.2f}", f"{apart:.0e}"])
    columns = ["backbone", "channels first, CPU ms an image", "channels last", "times as fast", "largest difference"]
    print(markdown(columns, rows))
    print(f"\n{args.side} pixels, batch {args.batch_size}, {args.threads} threads; {machine()}")


if __name__ == "__main__":
    main()
