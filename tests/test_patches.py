"""One vector a place: what encoders say of patches, equal to the networks' own tokens, to other libraries' programs, and to loops."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import encoder as encoders
from jaxssl.errors import UserError
from jaxssl.models import dense
from tests.test_interop_vit import made, saved, theirs
from tests.test_tuning import small



@pytest.fixture(autouse=True)
def exact():
    """Random weights of this size tell bf16 products from f32 ones, which processors may take for each other."""
    with jax.default_matmul_precision("highest"):
        yield


RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def normalised(encoder):
    return np.asarray(encoder.view({"image": PICTURES, "size": np.full((3, 2), 16, np.int32)}))


@pytest.mark.parametrize("scan", [True, False])
def test_patches_are_the_tokens_of_the_network(scan):
    encoder = made(registers=3, scan=scan)
    x = normalised(encoder)
    own = encoder.module.apply({"params": encoder.variables["params"]["encoder"]}, x, train=False).tokens
    found = encoder.patches(PICTURES)
    assert found.shape == (3, 2, 2, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(3, 4, 32), own, atol=2e-5)
    both = encoder.patches(list(PICTURES), blocks=(0, -1))
    assert both.shape == (3, 2, 2, 64) and np.array_equal(both[..., 32:], found)
    shallow = encoders.Encoder("one", encoder.config, "student", 0, encoder.module.clone(depth=1), {}, {})      # the same network cut behind its first block
    params = dict(encoder.variables["params"]["encoder"])
    params |= {"blocks": jax.tree.map(lambda a: a[:1], params["blocks"])} if scan else {}
    first = shallow.module.apply({"params": params}, x, train=False).tokens
    np.testing.assert_allclose(both[..., :32].reshape(3, 4, 32), first, atol=2e-5)
    with pytest.raises(UserError, match="block 2 is not one of the 2"):
        encoder.patches(PICTURES, blocks=(2,))


def test_attention_is_that_of_a_loop():
    """Softmax of the last block's class token and registers over all tokens, from the parameters alone."""
    encoder = made(registers=1, depth=1)
    params, x = encoder.variables["params"]["encoder"], normalised(encoder)
    found = dense.maps(encoder.module, params, {}, x, attention=True).attention
    assert found.shape == (3, 4, 2, 2, 2)
    block = jax.tree.map(lambda a: np.asarray(a[0], np.float64), params["blocks"])
    tokens = np.asarray(jnp.concatenate([  # what enters the block: cls with its position, the register, patches with theirs
        jnp.broadcast_to(params["cls"] + params["pos"][:, :1], (3, 1, 32)), jnp.broadcast_to(params["registers"], (3, 1, 32)), patches(params, x)], 1), np.float64)
    mean, var = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    h = (tokens - mean) / np.sqrt(var + encoder.module.eps) * block["norm1"]["scale"] + block["norm1"]["bias"]
    q, k, _ = np.split(h @ block["qkv"]["kernel"] + block["qkv"]["bias"], 3, -1)
    for image in range(3):
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            for token in range(2):
                scores = np.array([q[image, token, own] @ k[image, other, own] for other in range(6)]) / 8**.5
                weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                np.testing.assert_allclose(found[image, head, token].reshape(4), weights[2:], atol=1e-5)


def patches(params, x):
    cut = x.reshape(3, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, -1)
    return cut @ np.asarray(params["patch"]["kernel"]).reshape(-1, 32) + params["patch"]["bias"] + params["pos"][:, 1:]


def test_convolutional_networks_give_their_last_map():
    encoder = small()
    found = encoder.patches(PICTURES)
    assert found.shape == (3, 2, 2, encoder.width)
    np.testing.assert_allclose(found.mean((1, 2)), encoder(PICTURES), atol=1e-5)
    with pytest.raises(UserError, match="no transformer blocks"):
        encoder.patches(PICTURES, blocks=(-2, -1))


@pytest.mark.parametrize("height, width", [(32, 48), (33, 65), (7, 224)])
def test_grid_of_a_map_is_found_from_its_size(height, width):
    for stride in (4, 8, 16, 32):
        h, w = -(-height // stride), -(-width // stride)
        assert dense.grid(object(), (height, width), h * w) == (h, w)


def test_blocks_are_spread_as_published():
    assert [dense.spread(depth) for depth in (12, 24, 40, 2)] == [(2, 5, 8, 11), (4, 11, 17, 23), (9, 19, 29, 39), (0, 1)]


def test_patches_equal_timms():
    """What timm's forward_features and get_intermediate_layers give of the tensors that an export writes."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("timm")
    encoder = made(registers=3, layer_scale=.1)
    model = library.models.vision_transformer.VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, reg_tokens=3, init_values=.1)
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in theirs(encoder).items()})
    x = torch.from_numpy(np.moveaxis(normalised(encoder), -1, 1).copy())
    with torch.inference_mode():
        own = model.eval().get_intermediate_layers(x, n=2, reshape=True, norm=True)
        last = model.forward_features(x)[:, 4:].numpy()
    found = encoder.patches(PICTURES, blocks=(-2, -1))
    for place, y in enumerate(own):
        np.testing.assert_allclose(found[..., 32 * place:32 * place + 32], np.moveaxis(y.numpy(), 1, -1), atol=2e-5)
    np.testing.assert_allclose(encoder.patches(PICTURES).reshape(3, 4, 32), last, atol=2e-5)


def test_patches_and_attention_equal_transformers(tmp_path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    encoder = made(registers=3, layer_scale=.1, mask_token=True)
    library.Dinov2WithRegistersConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8, num_register_tokens=3).save_pretrained(tmp_path)
    saved(tmp_path / "model.safetensors", theirs(encoder, "transformers"))
    model = library.Dinov2WithRegistersModel.from_pretrained(tmp_path, attn_implementation="eager")         # which knows the names of every version
    x = normalised(encoder)
    with torch.inference_mode():
        out = model.eval()(torch.from_numpy(np.moveaxis(x, -1, 1).copy()), output_attentions=True)
    np.testing.assert_allclose(encoder.patches(PICTURES).reshape(3, 4, 32), out.last_hidden_state[:, 4:].numpy(), atol=2e-5)
    found = encoder.maps(encoder.variables, x, attention=True).attention
    np.testing.assert_allclose(found.reshape(3, 4, 4, 4), out.attentions[-1][:, :, :4, 4:].numpy(), atol=1e-5)
