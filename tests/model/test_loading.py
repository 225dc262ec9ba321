"""Where models come from, and what is refused on the way."""

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import T5Config
from transformers.utils import logging as transformers_logging

from unlearn.errors import ConfigError, ModelError, UnsafeModelError
from unlearn.model import loading
from unlearn.model.language_model import SCHEMES, LanguageModel


@pytest.fixture
def lm(language_model):
    return language_model("llama", tie_word_embeddings=True)


@pytest.fixture
def folder(lm, tmp_path) -> Path:
    lm.save(tmp_path / "model")
    return tmp_path / "model"


def edit_tensors(folder: Path, edit) -> None:
    """Rewrite a folder's weights."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def to_pickle(folder: Path) -> None:
    """Turn a folder's weights into a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_a_folder_loads_as_a_string_a_path_and_relative_to_home(lm, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in (str(folder), folder, "~/model"):
        assert LanguageModel.load(source).digest == lm.digest


def test_a_scheme_source_is_resolved_by_its_hook(lm, folder, monkeypatch):
    asked = []
    monkeypatch.setitem(SCHEMES, "shelf", lambda rest: asked.append(rest) or folder)
    loaded = LanguageModel.load("shelf:full")
    assert (asked, loaded.digest, loaded.source) == (["full"], lm.digest, "shelf:full")


def test_an_unknown_scheme_names_the_known_ones(monkeypatch):
    monkeypatch.setitem(SCHEMES, "shelf", Path)
    with pytest.raises(ModelError, match=r"'shelve:full'.*shelf:"):
        LanguageModel.load("shelve:full")


@pytest.mark.parametrize("source", ["/no/such/folder", "./here", "a/b/c", "", "two words"])
def test_a_missing_folder_is_named(source):
    with pytest.raises(ModelError, match="there is no folder '"):
        LanguageModel.load(source)


def test_a_file_is_not_a_model_folder(folder):
    with pytest.raises(ModelError, match="is a file"):
        LanguageModel.load(folder / "config.json")


@pytest.mark.parametrize("source", ["nobody/none", "nobody/none@v1", "none"])
def test_a_hub_id_out_of_reach_is_one_clear_sentence(source):
    with pytest.raises(ModelError) as caught:
        LanguageModel.load(source)
    message = str(caught.value)
    assert message.startswith(f"'{source}' is no folder here, and the hub did not give it")
    assert "\n" not in message


def test_two_revisions_at_once_are_refused():
    with pytest.raises(ModelError, match=r"'v1'.*'v2'"):
        LanguageModel.load("nobody/none@v1", revision="v2")


@pytest.fixture
def hub(folder, monkeypatch):
    """A hub with one model; what it was asked for is kept."""
    asked = []

    def give(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, allow_patterns))
        given = folder.parent / f"given{len(asked)}"
        shutil.copytree(folder, given)
        for path in given.iterdir():
            if not any(path.match(pattern) for pattern in allow_patterns):
                path.unlink()
        return str(given)

    monkeypatch.setattr(loading, "snapshot_download", give)
    return asked


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [("nobody/some", None, None), ("nobody/some@v1", None, "v1"), ("some", "v2", "v2")],
)
def test_a_hub_id_downloads_its_revision(hub, lm, source, revision, expected):
    assert LanguageModel.load(source, revision=revision).digest == lm.digest
    assert [(name, at) for name, at, _ in hub] == [(source.split("@")[0], expected)]


def test_no_pickle_and_no_code_is_downloaded_unasked(hub, folder):
    to_pickle(folder)
    with pytest.raises(ModelError, match="no weights in safetensors"):
        LanguageModel.load("nobody/some")
    assert not {"*.bin", "*.py", "*"} & set(hub[0][2])
    LanguageModel.load("nobody/some", allow_pickle=True)
    assert "*.bin" in hub[-1][2]


def test_pickle_weights_need_permission(lm, folder):
    to_pickle(folder)
    with pytest.raises(UnsafeModelError, match=r"pickle.*allow_pickle=True \(--allow-pickle on"):
        LanguageModel.load(folder)
    assert LanguageModel.load(folder, allow_pickle=True).digest == lm.digest


def test_safetensors_are_read_where_both_are_there(lm, folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    for allow in (False, True):
        assert LanguageModel.load(folder, allow_pickle=allow).digest == lm.digest


def test_a_folder_s_own_code_never_runs_unasked(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    trace = folder / "ran"
    (folder / "mine.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    with pytest.raises(
        UnsafeModelError, match=r"own Python code.*trust_remote_code=True \(--trust"
    ):
        LanguageModel.load(folder)
    assert not trace.exists()


def test_a_folder_without_a_config_is_no_model(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        LanguageModel.load(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter"):
        LanguageModel.load(folder)


def test_a_folder_without_weights_is_no_model(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights in safetensors"):
        LanguageModel.load(folder)


def test_weights_that_leave_a_tensor_random_are_refused(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"1 tensors of the model are missing.*{name}"):
        LanguageModel.load(folder)
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    with pytest.raises(ModelError, match=f"1 tensors of the model differ in shape.*{name}"):
        LanguageModel.load(folder)


def test_tied_weights_may_be_saved_under_either_name_or_both(lm, folder):
    tied = ("model.embed_tokens.weight", "lm_head.weight")
    edit_tensors(folder, lambda tensors: tensors.update({tied[1]: tensors.pop(tied[0])}))
    assert LanguageModel.load(folder).digest == lm.digest
    edit_tensors(folder, lambda tensors: tensors.update({tied[0]: tensors[tied[1]].clone()}))
    assert LanguageModel.load(folder).digest == lm.digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_a_model_error_in_one_line(folder, name):
    (folder / name).write_text("{")
    with pytest.raises(ModelError) as caught:
        LanguageModel.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_missing_tokenizer_is_named_with_what_to_do(folder, kept):
    for path in folder.glob("tokenizer*"):
        if path.name not in kept:
            path.unlink()
    with pytest.raises(
        ModelError, match=r"has no tokenizer: .*tokenizer\.json.*copy the tokenizer"
    ):
        LanguageModel.load(folder)


def test_an_incomplete_tokenizer_is_told_in_a_whole_sentence(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded.*copy all") as caught:
        LanguageModel.load(folder)
    assert "one of: )" not in str(caught.value)


def test_damaged_weights_say_what_to_do(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (b"{", whole[: len(whole) // 2], b"\xff" * len(whole)):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"are damaged.*copy or download"):
            LanguageModel.load(folder)


@pytest.mark.parametrize("device", ["quantum", "cpu:x", "cuda:"])
def test_an_unknown_device_does_not_list_every_backend_of_torch(folder, device):
    with pytest.raises(ConfigError, match=r"no such device; use cpu, cuda, cuda:1 or mps$"):
        LanguageModel.load(folder, device=device)


def test_a_model_that_is_no_causal_language_model_is_refused(folder):
    T5Config(vocab_size=40, d_model=8, num_layers=1).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*T5Config"):
        LanguageModel.load(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32"),
        ({"device": "abacus"}, "device 'abacus' is not available"),
    ],
)
def test_an_unknown_dtype_or_device_is_a_config_error(folder, setting, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModel.load(folder, **setting)


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_loading_is_silent_and_leaves_logs_and_bars_as_they_were(folder, capfd, bars, fails):
    level, shown = transformers_logging.get_verbosity(), not are_progress_bars_disabled()
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    transformers_logging.set_verbosity_info()
    transformers_logging.add_handler(handler)
    switch = "enable_progress_bar" if bars else "disable_progress_bar"
    getattr(transformers_logging, switch)()
    if fails:
        (folder / "config.json").write_text("{")
    try:
        capfd.readouterr()
        with pytest.raises(ModelError) if fails else nullcontext():
            LanguageModel.load(folder)
        assert capfd.readouterr() == ("", "")
        assert records == []
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled() is bars
        assert are_progress_bars_disabled() is not bars
    finally:
        transformers_logging.remove_handler(handler)
        transformers_logging.set_verbosity(level)
        getattr(transformers_logging, f"{'en' if shown else 'dis'}able_progress_bar")()
