"""The same model is opened by all who open it, its files are checked, and nothing that lies beside it is run."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.language import LanguageOptions
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.loading import load_model
from surefoot.models.language.nano import Nano, fresh

peft = pytest.importorskip("peft")
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)


def same(one, other):
    mine, theirs = (dict(x.base.named_parameters()) for x in (one, other))
    bare = {name.replace(".base_layer", ""): w for name, w in mine.items() if "lora" not in name}
    return bare.keys() == theirs.keys() and all(torch.equal(bare[name], w) for name, w in theirs.items())


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder `base` of the current one."""
    monkeypatch.chdir(tmp_path)
    return fresh(TINY, seed=1).save(tmp_path / "base")


@pytest.fixture
def adapter(base):
    load_model("base", lora=2).save(base.parent / "adapter")
    return base.parent / "adapter"


def edited(file, **changes):
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, **changes}))


def test_the_base_of_an_adapter_is_found_from_everywhere(base, adapter, tmp_path, monkeypatch):
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    fresh(TINY, seed=9).save("base")  # somebody else's model of the same name
    assert same(load_model(adapter), fresh(TINY, seed=1))
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_a_folder_inside_a_model_its_precision_and_its_attention_are_carried_over(base):
    step = fresh(TINY, seed=9)
    step.tokenizer.chat_template = "that of the step"
    step.save(base / "step")
    model = load_model(
        "base", subfolder="step", dtype="bfloat16", attn_implementation="eager", trust_remote_code=False, lora=2
    )
    assert model.tokenizer.chat_template == "that of the step"
    LanguageAgent(model).save("agent")
    for found in (load_model("agent"), LanguageAgent.load("agent").model):
        assert same(found, load_model(base / "step", dtype="bfloat16"))
        assert found.head()[0].dtype == torch.bfloat16 and found.base.config._attn_implementation == "eager"
        assert found.tokenizer.chat_template == "that of the step"
    assert load_model("agent", dtype="float32").head()[0].dtype == torch.float32
    load_model("base", dtype="bfloat16", attn_implementation="eager").save("whole")
    again = load_model("whole")
    assert again.head()[0].dtype == torch.bfloat16 and again.base.config._attn_implementation == "eager"


def test_weights_in_a_folder_without_a_tokenizer_take_that_of_the_model(base):
    fresh(TINY, seed=9).network.save_pretrained(base / "step")
    assert load_model("base", subfolder="step").tokenizer.eos_token == "<eos>"


@pytest.fixture
def hub(base, monkeypatch):
    """A stand-in for the hub: `someone/model` is what lies in `base`; what is asked for is noted."""
    asked = []
    for made in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer, transformers.AutoConfig):
        original = made.from_pretrained

        def read(name, *, _original=original, _made=made, revision=None, gguf_file=None, subfolder="", **options):
            if str(name) != "someone/model":
                return _original(name, **options)
            assert options["trust_remote_code"] is False
            asked.append((_made.__name__, revision, gguf_file, subfolder))
            found = _original(base, **options)
            network = found[0] if isinstance(found, tuple) else found
            network.name_or_path = str(name)
            if _made is transformers.AutoModelForCausalLM and gguf_file:
                network.hf_quantizer = object()
            return found

        monkeypatch.setattr(made, "from_pretrained", read)
    return asked


@pytest.mark.parametrize("options", [{"revision": "v2"}, {"subfolder": "x"}, {"gguf_file": "q4.gguf"}])
def test_all_that_is_read_of_a_model_is_read_with_the_same_options(hub, options):
    wanted = tuple(options.get(name, other) for name, other in [("revision", None), ("gguf_file", None)])
    wanted = (*wanted, options.get("subfolder", ""))
    load_model("someone/model", **options, lora=2).save("adapter")
    os.remove("adapter/tokenizer.json")  # as PEFT leaves an adapter
    os.remove("adapter/tokenizer_config.json")
    load_model("adapter")
    networks, tokenizers = ([x for x in hub if x[0] == f"Auto{kind}"] for kind in ("ModelForCausalLM", "Tokenizer"))
    assert [x[1:] for x in (*networks, *tokenizers)] == [wanted] * 4
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/model" and config["revision"] == options.get("revision")


def test_what_peft_says_of_the_base_counts(hub):
    network = peft.get_peft_model(fresh(TINY).network, peft.LoraConfig(target_modules="all-linear"), revision="v7")
    network.peft_config["default"].base_model_name_or_path = "someone/model"
    network.save_pretrained("adapter")  # no tokenizer beside it
    assert load_model("adapter").tokenizer.eos_token == "<eos>"
    assert {x[1] for x in hub} == {"v7"}


CODE = "open({!r}, 'w').write('ran')\nfrom transformers import {} as Evil\n"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_is_not_run_and_nothing_is_asked(base, file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))
    mark = tmp_path / "ran"
    (base / "evil.py").write_text(CODE.format(str(mark), "LlamaConfig"))
    kinds = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    edited(base / file, auto_map=kinds, **({"model_type": "evil"} if file == "config.json" else {}))
    if file == "config.json":
        with pytest.raises(UsageError, match="no code that comes with a model is run here"):
            load_model("base")
    else:
        load_model("base")
    assert not mark.exists() and sys.stdin.read() == "y\ny\ny\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_remote_code": True}, "trust_remote_code=True is not allowed"),
        ({"output_loading_info": True}, "the model option 'output_loading_info' is not allowed"),
        ({"dtype": "float8"}, "dtype='float8' is not allowed"),
        ({"subfolder": "nothing"}, "nothing is not a folder"),
        ({"subfolder": "nothing", "lora": 2}, "nothing is not a folder"),
    ],
)
def test_options_that_are_not_allowed(base, options, message):
    with pytest.raises(UsageError, match=message):
        load_model("base", **options)


def test_options_that_the_record_of_a_run_cannot_hold():
    for options, message in (
        ({"token": "hf_secret"}, "HF_TOKEN"),
        ({"device_map": print}, "cannot be stored in the run's config.json"),
        ({"trust_remote_code": True}, "trust_remote_code=True is not allowed"),
        (["revision"], r"model_options=\['revision'\] is not allowed"),
    ):
        with pytest.raises(UsageError, match=message):
            LanguageOptions(model_options=options)


def test_an_attention_from_a_hub_is_not_taken_from_a_configuration(base):
    edited(base / "config.json", attn_implementation="someone/attention")
    with pytest.raises(UsageError, match="names the attention 'someone/attention', which is code from a hub"):
        load_model("base")
    assert load_model("base", attn_implementation="sdpa").base.config._attn_implementation == "sdpa"


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pickled",)


def test_pickled_code_is_not_run_and_told_in_a_paragraph(base, adapter, tmp_path):
    torch.save({"w": Evil()}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="pickled Python objects that would run code"):
        load_model("adapter")
    torch.save({"w": Evil()}, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="pickled Python objects that would run code"):
        load_model("base")
    assert not (tmp_path / "pickled").exists()


def test_weights_that_are_missing_are_not_made_up(base, adapter):
    for file in (base / "model.safetensors", adapter / "adapter_model.safetensors"):
        whole = load_file(file)
        lost = sorted(whole)[-1]
        save_file({name: w for name, w in whole.items() if name != lost}, file, metadata={"format": "pt"})
        with pytest.raises(UsageError, match="is incomplete"):
            load_model(file.parent)
        save_file(whole, file, metadata={"format": "pt"})
        load_model(file.parent)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "llama", "num_attention_heads": 0}'),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "no such"}'),
        ("model.safetensors", "damaged"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "["),
        ("opened.json", "["),
        ("opened.json", "[1]"),
        ("opened.json", '{"dtype": "evil"}'),
    ],
)
def test_a_damaged_model_is_told_in_a_paragraph(base, file, text):
    (base / file).write_text(text)
    with pytest.raises(UsageError) as told:
        load_model("base")
    assert "\n" not in str(told.value) and len(str(told.value)) < 1200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "adapter_config.json is damaged"),
        ("{", "adapter_config.json is damaged"),
        ('{"peft_type": "MAGIC"}', "adapter_config.json is damaged or of a kind unknown to PEFT"),
        ('{"peft_type": "LORA"}', "names no base"),
        ('{"peft_type": "LORA", "base_model_name_or_path": 5}', "damaged"),
        ('{"peft_type": "LORA", "base_model_name_or_path": "/nowhere/at/all"}', "/nowhere/at/all is not a folder"),
    ],
)
def test_a_damaged_adapter_is_told_in_a_paragraph(adapter, text, message):
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_model("adapter")


def test_a_relative_base_that_is_not_there_says_what_it_is_relative_to(adapter, tmp_path, monkeypatch):
    edited(adapter / "adapter_config.json", base_model_name_or_path="another")
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("no"))
    )
    with pytest.raises(
        UsageError, match=f"neither a folder in {tmp_path} nor a reachable hub id.* relative path is relative to"
    ):
        load_model("adapter")


def test_a_long_message_of_others_is_not_cut_at_its_first_line(base, adapter):
    fresh(Nano(width=32, layers=1, heads=2, context=48, warmup=0)).save(base)
    with pytest.raises(UsageError, match="does not fit its base .*size mismatch"):
        load_model("adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with pytest.raises(UsageError, match="backend tokenizer from one of: .*sentencepiece"):
        load_model("base")


def test_loading_says_nothing(base, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model("base", lora=2).save("adapter")
        load_model("adapter")
    assert "Loading" not in capfd.readouterr().err


@pytest.mark.parametrize("stop", ["x", [""], [5], {"a": 1}])
def test_a_damaged_agent_is_told_in_a_paragraph(base, stop):
    LanguageAgent(load_model("base")).save("agent")
    edited(base.parent / "agent" / "agent.json", stop=stop)
    with pytest.raises(UsageError, match="agent.json cannot be read as that of a language model"):
        LanguageAgent.load("agent")
