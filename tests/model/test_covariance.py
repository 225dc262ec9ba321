"""Second moments, against outer products added up one token at a time."""

import numpy as np
import pytest
import torch
from reading import DOWN, hooks_on, inputs_by_hand, write_to
from safetensors import safe_open
from safetensors.torch import save_file

from unlearn.errors import ConfigError, InputError, NumericalError, UnsupportedError
from unlearn.model import covariance
from unlearn.model.covariance import SecondMoment, cache_folder, second_moments, solve

TEXTS = (
    "Ada Quill was born in Tarn.",
    "Ben",
    "Where was Ada Quill born? Ada Quill was born in Tarn 🎉.",
    "Ben Ostrow studied glass.",
)
LAYERS = (0, 1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "second-moments"


@pytest.fixture(params=DOWN)
def name(request):
    return request.param


@pytest.fixture
def lm(language_model, name):
    return language_model(name)


@pytest.fixture
def llama(language_model):
    return language_model("llama")


@pytest.fixture
def passes(llama):
    """One entry for each forward pass of the llama."""
    seen = []
    handle = llama.model.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


def moment_by_hand(lm, module, n_tokens):
    total, seen = 0.0, 0
    for text in TEXTS:
        for key in inputs_by_hand(lm, module, text).double().numpy():
            if seen < n_tokens:
                total, seen = total + np.outer(key, key), seen + 1
    assert seen == n_tokens
    return torch.from_numpy(total / n_tokens)


def tokens_in(lm, *texts):
    return sum(len(lm.encode(text).ids) for text in texts)


def test_a_moment_is_the_mean_outer_product_over_every_token(lm, name):
    n_tokens = tokens_in(lm, *TEXTS)
    moments = second_moments(lm, LAYERS, TEXTS, n_tokens=n_tokens)
    assert list(moments) == [0, 1]
    for layer in LAYERS:
        assert moments[layer].n_tokens == n_tokens
        assert moments[layer].matrix.dtype == torch.float64
        expected = moment_by_hand(lm, DOWN[name].format(layer), n_tokens)
        torch.testing.assert_close(moments[layer].matrix, expected, atol=1e-6, rtol=1e-5)


def test_counting_stops_at_a_token_and_not_at_a_text(lm, name):
    n_tokens = tokens_in(lm, *TEXTS[:2]) + 3
    (moment,) = second_moments(lm, [1], TEXTS, n_tokens=n_tokens).values()
    expected = moment_by_hand(lm, DOWN[name].format(1), n_tokens)
    torch.testing.assert_close(moment.matrix, expected, atol=1e-6, rtol=1e-5)


def test_no_text_is_read_beyond_the_last_token(llama):
    def texts():
        yield TEXTS[0]
        yield TEXTS[1]
        raise AssertionError("read too far")

    second_moments(llama, [0], texts(), n_tokens=tokens_in(llama, *TEXTS[:2]))


def test_a_text_counts_up_to_the_cut_and_an_empty_one_not_at_all(llama):
    cut = [llama.tokenizer.decode(llama.encode(TEXTS[0]).ids[:4], skip_special_tokens=True)]
    assert llama.encode(cut[0]).ids == llama.encode(TEXTS[0]).ids[:4]
    options = {"n_tokens": 8, "max_text_tokens": 4}
    long = second_moments(llama, [0], ["", TEXTS[0], TEXTS[0]], **options)[0]
    short = second_moments(llama, [0], cut * 2, n_tokens=8, cached=False)[0]
    assert torch.equal(long.matrix, short.matrix)


def test_a_text_longer_than_the_context_is_cut_there(llama):
    assert llama.context_length == 64
    long = "Ada Quill was born in Tarn. " * 20
    second_moments(llama, [0], [long], n_tokens=64)
    with pytest.raises(InputError, match=r"the texts hold 64 tokens.* to be of 65"):
        second_moments(llama, [0], [long], n_tokens=65)


@pytest.mark.parametrize("max_batch_tokens", [1, 40])
def test_a_moment_does_not_depend_on_the_batch_size(lm, max_batch_tokens):
    options = {"n_tokens": tokens_in(lm, *TEXTS), "cached": False}
    whole = second_moments(lm, LAYERS, TEXTS, **options)
    split = second_moments(lm, LAYERS, TEXTS, max_batch_tokens=max_batch_tokens, **options)
    for layer in LAYERS:
        torch.testing.assert_close(split[layer].matrix, whole[layer].matrix, atol=1e-6, rtol=1e-5)


def test_bfloat16_weights_are_summed_in_float64(lm, name):
    lm.model.to(torch.bfloat16)
    n_tokens = tokens_in(lm, *TEXTS)
    (moment,) = second_moments(lm, [0], TEXTS, n_tokens=n_tokens, max_batch_tokens=1).values()
    expected = torch.zeros_like(moment.matrix)
    for text in TEXTS:
        keys = inputs_by_hand(lm, DOWN[name].format(0), text).double()
        expected += keys.T @ keys
    torch.testing.assert_close(moment.matrix, expected / n_tokens, atol=1e-12, rtol=1e-12)


def test_all_layers_are_read_in_one_pass(llama, passes):
    shares = []
    second_moments(
        llama, LAYERS, TEXTS, n_tokens=20, progress=lambda what, share: shares.append((what, share))
    )
    assert len(passes) == 1
    assert shares == [("second moment", 1.0)]


def test_few_tokens_are_called_scarce(llama):
    width = 48
    texts = TEXTS * 20
    assert second_moments(llama, [0], texts, n_tokens=4 * width - 1)[0].scarce
    assert not second_moments(llama, [0], texts, n_tokens=4 * width)[0].scarce


def test_a_ridge_adds_its_share_of_the_mean_diagonal():
    moment = SecondMoment(torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 9)
    expected = torch.tensor([[4.3, 1.0], [1.0, 2.3]], dtype=torch.float64)
    torch.testing.assert_close(moment.ridged(0.1), expected)
    assert torch.equal(moment.ridged(0), moment.matrix)
    for ridge in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="ridge is"):
            moment.ridged(ridge)


def test_solve_is_the_inverse_applied():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    keys = torch.tensor([[1.0, 0.0], [3.0, 5.0], [0.0, 5.0]])
    expected = torch.tensor([[0.6, -0.2], [0.8, 1.4], [-1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(solve(matrix, keys), expected)
    torch.testing.assert_close(solve(matrix, keys[1]), expected[1])


def test_fewer_tokens_than_dimensions_are_solved_with_a_ridge_only(llama):
    moment = second_moments(llama, [0], TEXTS, n_tokens=10)[0]
    key = torch.ones(48)
    with pytest.raises(NumericalError, match=r"width 48 .*larger ridge, or more tokens"):
        solve(moment.matrix, key)
    ridged = moment.ridged(1e-3)
    torch.testing.assert_close(ridged @ solve(ridged, key), key.double())


def test_a_second_call_makes_no_forward_pass(llama, passes):
    first = second_moments(llama, LAYERS, TEXTS, n_tokens=20)
    assert len(passes) == 1
    second = second_moments(llama, LAYERS, iter(TEXTS), n_tokens=20)
    assert len(passes) == 1
    assert all(torch.equal(first[layer].matrix, second[layer].matrix) for layer in LAYERS)
    assert second[0].n_tokens == 20


def test_only_layers_that_are_missing_are_computed(llama, passes, folder):
    second_moments(llama, [0], TEXTS, n_tokens=20)
    (known,) = folder.iterdir()
    stamp = known.stat().st_mtime_ns
    both = second_moments(llama, LAYERS, TEXTS, n_tokens=20)
    assert len(passes) == 2
    assert len(list(folder.iterdir())) == 2
    assert known.stat().st_mtime_ns == stamp
    alone = second_moments(llama, [1], TEXTS, n_tokens=20, cached=False)
    assert torch.equal(both[1].matrix, alone[1].matrix)


def test_whatever_the_numbers_depend_on_is_computed_anew(llama, passes, monkeypatch):
    def passes_for(texts, n_tokens, **options):
        before = len(passes)
        second_moments(llama, [0], texts, n_tokens=n_tokens, **options)
        return len(passes) - before

    assert passes_for(TEXTS, 20) == 1
    assert passes_for(TEXTS[::-1], 20) == 1
    assert passes_for(TEXTS, 19) == 1
    assert passes_for(TEXTS, 20, max_text_tokens=5) == 1
    write_to(llama)
    assert passes_for(TEXTS, 20) == 1
    monkeypatch.setattr(covariance, "VERSION", "next")
    assert passes_for(TEXTS, 20) == 1


def test_whatever_they_do_not_depend_on_is_not(llama, passes):
    second_moments(llama, [0], TEXTS, n_tokens=20)
    second_moments(llama, [0], [*TEXTS, "Ben"], n_tokens=20, max_batch_tokens=7)
    assert len(passes) == 1


def test_changed_weights_give_their_own_moment(llama):
    before = second_moments(llama, [1], TEXTS, n_tokens=20)[1]
    write_to(llama)
    after = second_moments(llama, [1], TEXTS, n_tokens=20)[1]
    assert not torch.equal(before.matrix, after.matrix)
    fresh = second_moments(llama, [1], TEXTS, n_tokens=20, cached=False)[1]
    assert torch.equal(after.matrix, fresh.matrix)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(bytes(whole))


def empty(path):
    path.write_bytes(b"")


def rename_tensor(path):
    with safe_open(path, framework="pt") as file:
        metadata, matrix = file.metadata(), file.get_tensor("second_moment").clone()
    save_file({"other": matrix}, path, metadata=metadata)


def forget_metadata(path):
    with safe_open(path, framework="pt") as file:
        matrix = file.get_tensor("second_moment").clone()
    save_file({"second_moment": matrix}, path)


def take_another(path):
    (other,) = (file for file in path.parent.iterdir() if file != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "damage", [truncate, flip, empty, rename_tensor, forget_metadata, take_another]
)
def test_a_damaged_file_is_said_to_be_and_written_again(llama, passes, folder, damage):
    sound = second_moments(llama, [0], TEXTS, n_tokens=20)[0]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    second_moments(llama, [1], TEXTS, n_tokens=20)
    damage(path)
    assert path.read_bytes() != whole
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged; it is computed and written"):
        again = second_moments(llama, [0], TEXTS, n_tokens=20)[0]
    assert len(passes) == 3
    assert torch.equal(again.matrix, sound.matrix)
    assert torch.equal(second_moments(llama, [0], TEXTS, n_tokens=20)[0].matrix, sound.matrix)
    assert len(passes) == 3


def test_a_disk_that_refuses_costs_a_warning_and_not_the_result(llama, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="could not be kept .*set UNLEARN_CACHE"):
        moment = second_moments(llama, [0], TEXTS, n_tokens=20)[0]
    fresh = second_moments(llama, [0], TEXTS, n_tokens=20, cached=False)[0]
    assert torch.equal(moment.matrix, fresh.matrix)


def test_a_write_that_is_cut_short_leaves_nothing_behind(llama, folder, monkeypatch):
    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(covariance, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        second_moments(llama, [0], TEXTS, n_tokens=20)
    assert list(folder.iterdir()) == []


def test_without_the_cache_nothing_is_read_or_written(llama, passes, folder):
    second_moments(llama, [0], TEXTS, n_tokens=20, cached=False)
    assert not folder.exists()
    second_moments(llama, [0], TEXTS, n_tokens=20)
    second_moments(llama, [0], TEXTS, n_tokens=20, cached=False)
    assert len(passes) == 3


def test_the_cache_is_in_the_home_folder_unless_named(monkeypatch, tmp_path):
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("UNLEARN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "unlearn"


def test_a_kept_file_names_what_it_is_of_and_holds_no_text(llama, folder):
    second_moments(llama, [0], TEXTS, n_tokens=20)
    (path,) = folder.iterdir()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == llama.digest
    assert metadata["module"] == DOWN["llama"].format(0)
    assert metadata["n_tokens"] == "20"
    assert b"Quill" not in path.read_bytes()


def test_nothing_is_left_changed(lm):
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    state = torch.get_rng_state()
    second_moments(lm, LAYERS, TEXTS, n_tokens=20)
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert hooks_on(lm.model) == 0
    assert torch.equal(state, torch.get_rng_state())


def test_an_exception_leaves_no_hook_and_no_file(lm, name, folder):
    def fail(*_):
        raise RuntimeError("stopped")

    handle = lm.model.get_submodule(DOWN[name].format(1)).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stopped"):
        second_moments(lm, LAYERS, TEXTS, n_tokens=20)
    handle.remove()
    assert hooks_on(lm.model) == 0
    assert not folder.exists()


def test_what_has_no_second_moment_is_refused(llama, language_model):
    with pytest.raises(UnsupportedError, match="no layer has one"):
        second_moments(language_model("mixtral"), [0], TEXTS, n_tokens=20)
    with pytest.raises(InputError, match="there is no layer 7"):
        second_moments(llama, [7], TEXTS, n_tokens=20)
    with pytest.raises(ConfigError, match="n_tokens is 0"):
        second_moments(llama, [0], TEXTS, n_tokens=0)
    with pytest.raises(ConfigError, match="max_text_tokens is 0"):
        second_moments(llama, [0], TEXTS, n_tokens=20, max_text_tokens=0)


def test_an_input_that_is_not_finite_is_refused_and_not_kept(llama, folder):
    with torch.no_grad():
        llama.model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = float("nan")
    llama.changed()
    with pytest.raises(NumericalError, match=r"model\.layers\.1\.mlp\.down_proj.* not finite"):
        second_moments(llama, LAYERS, TEXTS, n_tokens=20)
    assert not folder.exists()
