"""Networks that others wrote: torchvision's 2D ResNets on a static clip, pytorchvideo's slow_r50."""

import pytest
import torch
import torchvision
from pytorchvideo.models.resnet import create_resnet
from torch import nn

from v4d.errors import V4DError
from v4d.models import create_model, load_imagenet


def randomised(network: nn.Module) -> nn.Module:
    """Batch norm with statistics and weights that matter."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
@pytest.mark.parametrize("kind", ["i3ds", "v4d"])
def test_a_static_clip_is_the_2d_network_on_its_frame(depth, kind, tmp_path):
    """At frames that no kernel over time sees the padding from: 17 frames, the middle one."""
    flat = randomised(torchvision.models.get_model(depth))
    torch.save(flat.state_dict(), tmp_path / "weights.pth")
    model = create_model(f"{kind}_{depth}", num_classes=5, units=2, frames=17, preset="paper").eval()
    model.before_freezing("blocks4d_zero")  # with 4D kernels at zero a V4D network is its backbone
    load_imagenet(model, tmp_path / "weights.pth")
    frame = torch.randn(1, 3, 32, 32)
    clip = frame[:, None, :, None].expand(1, 2, 3, 17, 32, 32)
    with torch.inference_mode():
        features = model.forward_features(clip).unflatten(0, (2, 17))
        body = nn.Sequential(*list(flat.children())[:-2])
        expected = body(frame)[0]
    scale = expected.abs().max()
    assert (features[:, 8] - expected).abs().max() <= 1e-5 * scale
    assert (features[:, 0] - expected).abs().max() > 1e-2 * scale  # the ends see the padding


def test_weights_by_name_come_from_torchvision_s_cache(tmp_path, monkeypatch):
    """No network is touched where the file is in the cache already."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    flat = torchvision.models.resnet18()
    torch.save(flat.state_dict(), cached)
    model = create_model("i3ds_resnet18", num_classes=5, units=1, frames=2)
    load_imagenet(model, "imagenet")
    assert torch.equal(model.stem.conv.weight, flat.conv1.weight)
    assert torch.equal(model.res5.blocks[0].conv1.weight[:, :, 1], flat.layer4[0].conv1.weight / 3)
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(V4DError, match=r"put a good file at .*resnet18-f37072fd\.pth"):
        load_imagenet(model)


def test_a_download_that_fails_says_where_the_file_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    model = create_model("i3ds_resnet18", num_classes=5, units=1, frames=2)
    with pytest.raises(V4DError, match=r"cannot get https://.*resnet18.*put a good file at"):
        load_imagenet(model)
    with pytest.raises(V4DError, match="no ImageNet weights for v4d_tiny"):
        load_imagenet(create_model("v4d_tiny", num_classes=5, units=1, frames=2))


def test_weights_of_another_depth_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pth")
    model = create_model("i3ds_resnet50", num_classes=5, units=1, frames=2)
    with pytest.raises(V4DError, match=r"weights\.pth"):
        load_imagenet(model, tmp_path / "weights.pth")
    with pytest.raises(V4DError, match="no such"):
        load_imagenet(model, tmp_path / "nowhere.pth")


def slow_r50(classes: int) -> nn.Module:
    """The slow pathway of SlowFast as pytorchvideo builds it, with random weights."""
    network = create_resnet(
        model_depth=50,
        model_num_class=classes,
        stem_conv_kernel_size=(1, 7, 7),
        stage_conv_a_kernel_size=((1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1)),
        head_pool=nn.AdaptiveAvgPool3d,
        head_output_size=(1, 1, 1),
        dropout_rate=0.0,
        head_activation=None,
    )
    network.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
    return network


def copied(theirs: nn.Module, classes: int) -> nn.Module:
    """Our I3D-S ResNet-50 with the same tensors, which lie in the same order of computation."""
    ours = create_model("i3ds_resnet50", num_classes=classes, units=1, frames=4, dropout=0.0)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (ours.stem.conv, theirs.blocks[0].conv),
        (ours.stem.bn, theirs.blocks[0].norm),
        (ours.fc, theirs.blocks[-1].proj),
    ]
    for stage, name in enumerate(("res2", "res3", "res4", "res5"), 1):
        for own, other in zip(getattr(ours, name).blocks, theirs.blocks[stage].res_blocks, strict=True):
            branch = other.branch2
            pairs += [(own.conv1, branch.conv_a), (own.bn1, branch.norm_a), (own.conv2, branch.conv_b)]
            pairs += [(own.bn2, branch.norm_b), (own.conv3, branch.conv_c), (own.bn3, branch.norm_c)]
            if own.downsample is not None:
                pairs += [(own.downsample[0], other.branch1_conv), (own.downsample[1], other.branch1_norm)]
    with torch.no_grad():
        for own, other in pairs:
            for (name, value), (other_name, given) in zip(
                own.state_dict().items(), other.state_dict().items(), strict=True
            ):
                assert name == other_name
                value.copy_(given.reshape(value.shape))
    return ours


@pytest.mark.slow
def test_i3ds_resnet50_is_slow_r50_before_and_after_a_step():
    torch.manual_seed(0)
    theirs = randomised(slow_r50(7))
    ours = copied(theirs, 7).eval()
    x = torch.randn(2, 3, 4, 32, 32)
    labels = torch.tensor([1, 5])
    with torch.inference_mode():
        expected = theirs(x)
        assert (ours(x[:, None]) - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())
    # Batch norm over few values multiplies rounding: the step is taken in float64, where equal is equal.
    theirs, ours, x = theirs.double(), ours.double(), x.double()
    results = []
    for network, view in ((theirs, x), (ours, x[:, None])):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        loss = nn.functional.cross_entropy(network(view), labels)
        loss.backward()
        optimizer.step()
        network.eval()
        with torch.inference_mode():
            results.append((loss.item(), network(view)))
    (their_loss, after), (our_loss, found) = results
    assert our_loss == pytest.approx(their_loss, abs=1e-8)
    assert (found - after).abs().max() <= 1e-8 * max(1.0, after.abs().max().item())
    assert (after - expected).abs().max() > 1e-3  # the step has changed something
