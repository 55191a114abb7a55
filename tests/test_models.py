"""Shapes, seeds and errors of the networks and of the parameter space."""

import pytest
import torch
from skimage.data import astronaut

from genet_ext.extractors import Extractor
from genet_ext.models import load_models, random_models
from genet_ext.parameters import load_parameter_space, read_table


def test_a_mirror_swaps_the_sides_and_turns_the_head():
    space = load_parameter_space()
    theta = torch.arange(1.0, space.size + 1)
    mirrored = space.mirrored(torch.stack([theta, 2 * theta]))
    assert torch.equal(space.mirrored(mirrored)[1], 2 * theta)

    def at(name: str, values: torch.Tensor) -> float:
        return values[space.index(name)].item()

    for name, other in (("AU12_L", "AU12_R"), ("AU30_R", "AU30_L"), ("AU61", "AU62"), ("AU17", "AU17")):
        assert at(name, mirrored[0]) == at(other, theta)
    for name, sign in (("pitch", 1), ("yaw", -1), ("roll", -1), ("id_00", 1), ("id_09", -1)):
        assert at(name, mirrored[0]) == sign * at(name, theta)


def test_parameter_space_is_grouped_bounded_and_indexed():
    space = load_parameter_space()
    assert space.size == 96
    assert space.indices("pose") == slice(0, 3)
    assert space.indices("expression") == slice(3, 49)
    assert space.indices("identity") == slice(49, 96)
    assert bool((space.lower < space.upper).all())
    assert space.names[space.index("AU12_L")] == "AU12_L"
    with pytest.raises(KeyError, match="unknown parameter 'AU99'"):
        space.index("AU99")
    with pytest.raises(KeyError, match="unknown group 'hair'"):
        space.indices("hair")


def test_tables_refer_to_known_parameters():
    space = load_parameter_space()
    for row in read_table("parameter_shapes.csv"):
        assert row["parameter"] in space.names_of("expression")
    for row in read_table("action_units.csv"):
        assert row["parameter"] in (*space.names_of("expression"), "")


def test_networks_have_the_documented_shapes():
    models = random_models(0)
    out = models.extractor(torch.rand(2, 3, 128, 128))
    assert out.features.shape == (2, 256)
    assert out.parameters.shape == (2, 96)
    assert out.landmarks.shape == (2, 68, 2)
    assert out.appearance.shape == (2, 16)
    pixels = models.image_generator(out.parameters, out.appearance)
    assert pixels.shape == (2, 3, 128, 128)
    assert bool(((pixels >= 0) & (pixels <= 1)).all())
    assert models.feature_generator(out.parameters).shape == (2, 256)
    assert models.prior.whiten(out.features).shape == (2, 256)


def test_random_models_depend_on_the_seed_alone():
    first, again, other = random_models(3), random_models(3), random_models(4)
    weight = first.extractor.embed.weight
    assert torch.equal(weight, again.extractor.embed.weight)
    assert not torch.equal(weight, other.extractor.embed.weight)


def test_fused_extractor_computes_the_same():

    torch.manual_seed(0)
    net = Extractor(96, fused=False)
    pixels = torch.rand(4, 3, 128, 128)
    net(pixels)  # moves the running statistics away from their start
    net.eval()
    expected = net(pixels).features
    net.fuse()
    torch.testing.assert_close(net(pixels).features, expected, rtol=1e-4, atol=1e-5)
    fused = Extractor(96, fused=True)
    fused.load_state_dict(net.state_dict())
    torch.testing.assert_close(fused.eval()(pixels).features, expected, rtol=1e-4, atol=1e-5)


def test_shipped_networks_render_a_dark_picture_darker():
    """The appearance head is solved last: weights that skipped it read AUs as well, and look wrong."""
    models = load_models()
    crop = torch.from_numpy(astronaut()[60:188, 160:288].copy()).permute(2, 0, 1)[None].float() / 255
    cheeks = []
    for light in (1.0, 0.4):
        found = models.extractor(crop * light)
        rendering = models.image_generator(found.parameters, found.appearance)
        cheeks.append(float(rendering[:, :, 40:90, 40:90].mean()))
    assert cheeks[1] < 0.85 * cheeks[0]


def test_missing_weights_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"extractor\.safetensors"):
        load_models(folder=tmp_path)


def test_the_extractor_is_compiled_on_demand_only(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module)))
    load_models()
    assert not compiled
    load_models(compile=True)
    assert compiled == [Extractor]
