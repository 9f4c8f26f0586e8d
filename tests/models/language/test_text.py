"""A text begins and ends once; answers that were begun are continued; what is read of what was written."""

from __future__ import annotations

import pytest
import tokenizers

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.models.language.agent import LanguageAgent
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.text import TextSettings, check_generation_prompt

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}~{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if quiet %}(no thought){% endif %}{% endif %}"
)
ASKED = [{"role": "user", "content": "2+2="}]


@pytest.fixture
def chatty(tiny):
    tiny.tokenizer.chat_template = TEMPLATE
    return tiny


def text_of(model, row):
    return model.tokenizer.decode(row)


def test_text_that_the_template_made_has_one_beginning(chatty):
    text = chatty.tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    as_text, as_messages, plain = chatty.encode([text, ASKED, "2+2="])
    assert as_text == as_messages and as_text.count(1) == 1
    assert plain == [1, *chatty.tokenizer("2+2=", add_special_tokens=False).input_ids]


@pytest.mark.parametrize(
    ("frame", "prefix"),
    [("$A", []), ("<bos> $A", [1]), ("<bos> $A <eos>", [1]), ("<bos> <unk> $A <eos>", [1, 3]), ("$A <eos>", [])],
)
def test_what_a_tokenizer_puts_around_a_text_is_begun_once_and_not_ended(tiny, frame, prefix):
    special = [("<bos>", 1), ("<eos>", 2), ("<unk>", 3)]
    inner = tiny.tokenizer.backend_tokenizer
    inner.post_processor = tokenizers.processors.TemplateProcessing(single=frame, special_tokens=special)
    bare = tiny.tokenizer("ab", add_special_tokens=False).input_ids
    begun = "".join(tiny.tokenizer.convert_ids_to_tokens(prefix)) + "ab"
    assert tiny.encode(["ab", begun]) == [[*prefix, *bare]] * 2


def test_an_answer_that_was_begun_is_continued(chatty):
    prompt = [*ASKED, {"role": "assistant", "content": "Let me think:"}]
    begun, whole = chatty.encode([prompt, ASKED])
    assert text_of(chatty, begun) == "<bos>[user]2+2=~[assistant]Let me think:"
    assert text_of(chatty, whole) == "<bos>[user]2+2=~[assistant]"


def test_a_template_that_does_not_ask_for_an_answer_is_refused_before_any_work(tiny, tmp_path):
    tiny.tokenizer.chat_template = TEMPLATE.partition("{% if add")[0]
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": str(i + 1)} for i in range(10)]
    with pytest.raises(UsageError, match=r"puts '\[assistant\]' before an answer, but not after a prompt") as error:
        sf.train("grpo", data=rows, model=tiny, steps=1, max_tokens=4, run_dir=tmp_path / "run")
    assert "{% if add_generation_prompt %}[assistant]{% endif %}" in str(error.value)
    assert not (tmp_path / "run").exists()
    begun = [{**row, "prompt": [*row["prompt"], {"role": "assistant", "content": "it is "}]} for row in rows]
    settings = {"model": tiny, "steps": 1, "max_tokens": 4, "prompts": 2, "loggers": ()}
    assert sf.train("grpo", data=begun, run_dir=tmp_path / "begun", **settings).finished


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
        "{% endif %}{% endfor %}",  # nothing but a space stands before an answer
        "{{ raise_exception('no assistants') if messages|length > 1 }}{{ messages[0].content }}",
    ],
)
def test_templates_that_need_no_generation_prompt_are_left_alone(template, tiny):
    tiny.tokenizer.chat_template = template
    check_generation_prompt(tiny.tokenizer, ASKED, tiny.settings)


def test_options_of_the_chat_template(chatty, tmp_path):
    quiet = LanguageModel(chatty.network, chatty.tokenizer, settings=TextSettings({"quiet": True}))
    assert text_of(quiet, quiet.encode([ASKED])[0]).endswith("[assistant](no thought)")
    LanguageAgent(quiet).save(tmp_path)
    assert LanguageAgent.load(tmp_path).model.encode([ASKED]) == quiet.encode([ASKED]) != chatty.encode([ASKED])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("quiet", "chat_template_kwargs='quiet' is not allowed; give a dictionary"),
        ({"add_generation_prompt": True}, "has 'add_generation_prompt', which Surefoot sets"),
        ({"now": print}, "saved as JSON"),
    ],
)
def test_options_of_the_chat_template_that_cannot_be(given, message):
    with pytest.raises(UsageError, match=message):
        TextSettings(given)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "prompt 1 is 5; give text, or a list of messages"),
        ([], r"prompt 1 is \[\]; give text"),
        (["hello"], r"prompt 1 is \['hello'\]; give text"),
        ([{"role": "alien", "content": "?"}], "does not suit the tokenizer's chat template .*no aliens"),
    ],
)
def test_prompts_that_are_none_are_refused(chatty, prompt, message):
    refusal = "{% if messages[0].role == 'alien' %}{{ raise_exception('no aliens') }}{% endif %}"
    chatty.tokenizer.chat_template = refusal + TEMPLATE
    with pytest.raises(UsageError, match=message):
        chatty.encode([ASKED, prompt])


def test_an_empty_prompt_is_refused_in_every_entrance(tiny):
    inner = tiny.tokenizer.backend_tokenizer
    assert tiny.encode([""]) == [[1]]  # something to begin from
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A", special_tokens=[])
    agent = LanguageAgent(tiny)
    for write in (
        lambda: tiny.encode(["ab", ""]),
        lambda: agent.write(["ab", ""]),
        lambda: agent.texts([""]),
        lambda: agent.predict(""),
        lambda: generate(tiny, [[5], []], numbers(2), temperature=1.0),
    ):
        with pytest.raises(UsageError, match="is empty .*give it at least one character"):
            write()


def numbers(prompts):
    import torch

    return torch.rand(prompts, 1, 4)


def test_a_demonstration_ends_as_the_template_ends_a_turn(chatty):
    """Where it answers messages, and the model ends there; with one end, also where the text brings it."""
    turn, (one,) = chatty.tokenizer("~", add_special_tokens=False).input_ids[0], chatty.encode_completions(["7"])
    assert one[-1] == 2 and chatty.encode_completions(["7"], [ASKED]) == [one]  # the model does not know ~ as an end
    chatty.base.generation_config.eos_token_id = [2, turn]
    assert chatty.encode_completions(["7", "7", "7<eos>", "7~"], [ASKED, "2+2=", "2+2=", ASKED]) == [
        [one[0], turn],
        one,
        one,
        [one[0], turn],
    ]


def test_what_is_read_are_the_words_and_not_the_frame(tiny):
    tiny.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    turn = tiny.tokenizer("~", add_special_tokens=False).input_ids[0]
    tiny.base.generation_config.eos_token_id = [2, turn]
    row = tiny.tokenizer("<think>3+4", add_special_tokens=False).input_ids
    assert tiny.decode([[1, *row, turn, 2, 0, 0], []]) == ["<think>3+4", ""]
    bare = LanguageModel(tiny.network, tiny.tokenizer, settings=TextSettings(skip_special_tokens=True))
    assert bare.decode([[1, *row, turn, 2, 0, 0]]) == ["3+4"]
