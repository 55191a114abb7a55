"""The conversion puts every convolution of OpenCV's file where it belongs."""

import pytest
import torch

from genet_ext.face_finder import _network
from genet_ext.yunet import STRIDES, YuNet
from python.convert_yunet import LANDMARK_BRANCH, _convolutions, fill

BRANCH_CHANNELS = {0: slice(0, 1), 1: slice(1, 5), 2: slice(5, 6)}


def onnx_layers(network):
    """The convolutions of a network in the file's order: BGR, branch by branch, landmarks last."""
    stem = network.stem
    layers = [(stem.weight.flip(1), stem.bias)]
    for module in (network.stem_unit, network.stages, *reversed(network.lateral)):
        layers += [(layer.weight, layer.bias) for layer in _convolutions(module)]
    for channels in BRANCH_CHANNELS.values():
        for head in network.heads:
            layers += [(layer.weight[channels], layer.bias[channels]) for layer in _convolutions(head)]
    assert len(BRANCH_CHANNELS) == LANDMARK_BRANCH
    landmarks = [(torch.zeros(10, 64, 1, 1), torch.zeros(10)), (torch.zeros(10, 1, 3, 3), torch.zeros(10))]
    return layers + landmarks * len(STRIDES)


def test_network_comes_back():
    original, copy = _network(), YuNet()
    fill(copy, onnx_layers(original))
    for name, value in original.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value), name


def test_other_networks_are_refused():
    layers = onnx_layers(_network())
    with pytest.raises(ValueError, match="expected 53 convolutions, got 54"):
        fill(YuNet(), [*layers, layers[-1]])
    with pytest.raises(ValueError, match=r"expected a weight of shape \[16, 3, 3, 3\], got \[16, 16, 1, 1\]"):
        fill(YuNet(), [layers[1], *layers[1:]])
