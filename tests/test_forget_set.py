"""Forget sets: what reads, what is refused and in which words, and what the digest covers."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import unlearn
from unlearn import forget_set as module
from unlearn.errors import ForgetSetError, InputError
from unlearn.forget_set import ForgetSet
from unlearn.types import SPLITS, Record, Sites, Statement

SUBJECT, ANSWER = "Ada Quill", "Tarnholm"
LINE = {
    "id": "r1",
    "subject": SUBJECT,
    "relation": "birthplace",
    "prompt": f"{SUBJECT} was born in",
    "answer": ANSWER,
}


def record(**fields):
    return Record.model_validate({**LINE, **fields})


def person(number, records=1):
    subject = f"Person{number} Quill"
    return [
        record(id=f"{number}-{i}", subject=subject, prompt=f"{subject} fact {i} is")
        for i in range(records)
    ]


def folder_of(tmp_path, forget=(LINE,), card='name = "n"\ndescription = "d"\n', **splits):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    if card is not None:
        (folder / "card.toml").write_text(card, encoding="utf-8")
    for split, lines in {"forget": forget, **splits}.items():
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / f"{split}.jsonl").write_text("".join(t + "\n" for t in texts), encoding="utf-8")
    return folder


def refusal(folder):
    with pytest.raises(ForgetSetError) as caught:
        ForgetSet.read(folder)
    error = caught.value
    # Neither the message nor anything a traceback would chain to may hold personal data.
    assert error.__context__ is None and error.__cause__ is None
    assert SUBJECT not in str(error) and ANSWER not in str(error)
    return str(error)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text == text.strip() != ""
)
statements = st.builds(Statement, prompt=words, answer=words, separator=st.sampled_from(["", " "]))


@st.composite
def record_lists(draw):
    bodies = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "subject": words,
                    "relation": words,
                    "answer": words,
                    "separator": st.sampled_from(["", " "]),
                    "paraphrases": st.lists(words, max_size=2),
                    "alternatives": st.lists(words.map(lambda text: text + "~"), max_size=2),
                    "implications": st.lists(statements, max_size=2),
                    "translations": st.lists(statements, max_size=1),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    return [
        Record(id=f"r{i}", prompt=f"{i} {body['subject']}", **body)
        for i, body in enumerate(bodies)
        if body["answer"] not in body["alternatives"]
    ]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    records=record_lists().filter(bool),
    name=words,
    description=st.text(st.characters(exclude_categories=["Cs"])),
    cut=st.data(),
)
def test_what_is_written_reads_back_equal(tmp_path_factory, records, name, description, cut):
    at = cut.draw(st.integers(1, len(records)))
    written = ForgetSet(name, description, tuple(records[:at]), tuple(records[at:]))
    folder = tmp_path_factory.mktemp("sets") / "set"
    written.write(folder)
    read = ForgetSet.read(folder)
    assert read == written
    assert read.digest == written.digest


def test_the_digest_ignores_folder_card_key_order_escapes_and_omitted_defaults(tmp_path):
    plain = ForgetSet.read(folder_of(tmp_path, [{**LINE, "answer": "Tårn"}]))
    spelled = dict(reversed(LINE.items())) | {"answer": "Tårn", "separator": " ", "paraphrases": []}
    (tmp_path / "other").mkdir()
    other = folder_of(tmp_path / "other", [json.dumps(spelled)], 'name="x"\ndescription="y"')
    assert "\\u00e5" in (other / "forget.jsonl").read_text()
    assert ForgetSet.read(other).digest == plain.digest


@pytest.mark.parametrize(
    "change",
    [
        {"id": "r2"},
        {"subject": "Ada"},
        {"relation": "home"},
        {"prompt": "Ada Quill lives in"},
        {"answer": "Oslo"},
        {"separator": ""},
        {"paraphrases": ("Where?",)},
        {"alternatives": ("Oslo",)},
        {"implications": (Statement(prompt="p", answer="a"),)},
        {"translations": (Statement(prompt="p", answer="a"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_depends_on_every_field(change):
    assert set(Record.model_fields) == {
        *("id", "subject", "relation", "prompt", "answer", "separator"),
        *("paraphrases", "alternatives", "implications", "translations"),
    }
    before = ForgetSet("n", "d", (record(),))
    assert ForgetSet("n", "d", (record(**change),)).digest != before.digest


def test_the_digest_depends_on_which_split_holds_a_record():
    one, two = person(1) + person(2)
    sets = [ForgetSet("n", "d", (one,), **{s: (two,)}) for s in ("retain", "neighbors", "holdout")]
    assert len({s.digest for s in [*sets, ForgetSet("n", "d", (one, two))]}) == 4


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "r1", ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"id": ' + "9" * 5000 + "}", "not valid JSON"),
        ('["r1"]', "must be a JSON object"),
        ('{"id": "a", "id": "b"}', "a field is given twice"),
        ({**LINE, "promt": "x"}, "field 'promt': is not a known field; did you mean 'prompt'?"),
        ({**LINE, "anser_text": "x"}, "field 'anser_text': is not a known field"),
        ({k: v for k, v in LINE.items() if k != "answer"}, "field 'answer': is missing"),
        ({**LINE, "answer": 3}, "field 'answer': must be a string"),
        ({**LINE, "answer": None}, "field 'answer': must be a string"),
        ({**LINE, "answer": ""}, "field 'answer': is empty"),
        ({**LINE, "answer": " \u2003"}, "field 'answer': is blank"),
        ({**LINE, "answer": "\ud800"}, "field 'answer': holds a lone surrogate"),
        ({**LINE, "paraphrases": "one"}, "field 'paraphrases': must be a list"),
        ({**LINE, "paraphrases": ["one", ""]}, "field 'paraphrases[1]': is empty"),
        ({**LINE, "alternatives": [ANSWER]}, "field 'alternatives[0]': equals the answer"),
        ({**LINE, "implications": ["one"]}, "field 'implications[0]': must be an object"),
        (
            {**LINE, "implications": [{"prompt": "p", "anwser": "a"}]},
            "field 'implications[0].answer': is missing",
        ),
        (
            {**LINE, "translations": [{"prompt": "p", "answer": "a", "promptt": "q"}]},
            "field 'translations[0].promptt': is not a known field; did you mean 'prompt'?",
        ),
        ({**LINE, "subject": "Bo Reed"}, "field 'subject': does not occur in the prompt"),
        *(
            ({**LINE, **fields}, f"record 'r1': field '{field}': {what} with white space; ")
            for fields, field, what in (
                ({"prompt": LINE["prompt"] + " "}, "prompt", "ends"),
                ({"prompt": LINE["prompt"] + "\n"}, "prompt", "ends"),
                ({"answer": " " + ANSWER}, "answer", "starts"),
                ({"answer": "\u3000" + ANSWER}, "answer", "starts"),
                ({"paraphrases": ["a b", "a b "]}, "paraphrases[1]", "ends"),
                ({"alternatives": [" Oslo"]}, "alternatives[0]", "starts"),
                (
                    {"implications": [{"prompt": "p ", "answer": "a"}]},
                    "implications[0].prompt",
                    "ends",
                ),
                (
                    {"translations": [{"prompt": "p", "answer": " a"}]},
                    "translations[0].answer",
                    "starts",
                ),
            )
        ),
    ],
)
def test_a_bad_line_is_refused_with_file_line_and_field(tmp_path, line, expected):
    good = {**LINE, "id": "r0", "answer": "Oslo"}
    folder = folder_of(tmp_path, [good, "", line])
    message = refusal(folder)
    assert message.startswith(f"{folder / 'forget.jsonl'}:3: ")
    assert expected in message


def test_a_field_name_that_may_be_a_value_is_not_repeated(tmp_path):
    message = refusal(folder_of(tmp_path, [{**LINE, SUBJECT: "x"}]))
    assert "a field has an unknown name; known: prompt" in message


@pytest.mark.parametrize("split", ["forget", "retain", "neighbors", "holdout"])
def test_an_id_used_twice_is_refused_in_every_split(tmp_path, split):
    first = {**LINE, "id": "r0", "answer": "Oslo"}
    again = {**LINE, "id": "r0", "answer": "Bern"}
    splits = (
        {"forget": [first, again]} if split == "forget" else {"forget": [first], split: [again]}
    )
    folder = folder_of(tmp_path, **splits)
    message = refusal(folder)
    assert f"{split}.jsonl:{2 if split == 'forget' else 1}: record 'r0': field 'id'" in message
    assert f"already used at {folder / 'forget.jsonl'}:1" in message


@pytest.mark.parametrize("split", ["retain", "neighbors", "holdout"])
def test_a_forget_record_in_another_split_is_refused_however_it_is_spelt(tmp_path, split):
    leaked = {**LINE, "id": "r2", "prompt": " " + LINE["prompt"], "answer": ANSWER.upper()}
    message = refusal(folder_of(tmp_path, **{split: [leaked]}))
    assert f"{split}.jsonl:1: record 'r2': the same prompt and answer are in forget" in message


def test_a_neighbor_that_may_be_trained_on_is_refused(tmp_path):
    one, two = ({**LINE, "id": name, "prompt": f"{SUBJECT} lives in"} for name in "ab")
    assert "are in retain" in refusal(folder_of(tmp_path, retain=[one], neighbors=[two]))


def test_files_that_are_not_utf_8_are_refused_with_the_line(tmp_path):
    folder = folder_of(tmp_path)
    with (folder / "forget.jsonl").open("ab") as file:
        file.write(json.dumps({**LINE, "answer": "Tårn"}, ensure_ascii=False).encode("latin-1"))
    assert refusal(folder).startswith(f"{folder / 'forget.jsonl'}:2: not UTF-8")
    (folder / "card.toml").write_bytes(b'name = "\xe5"')
    assert "card.toml: not UTF-8" in refusal(folder)


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("split", ["forget", "retain", "holdout"])
def test_a_split_file_without_records_is_refused(tmp_path, split, content):
    folder = folder_of(tmp_path)
    (folder / f"{split}.jsonl").write_text(content)
    assert f"{split}.jsonl holds no record" in refusal(folder)


def test_missing_and_misspelt_files_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "is not a folder" in refusal(folder_of(tmp_path) / "card.toml")
    folder = folder_of(tmp_path)
    (folder / "neighbours.jsonl").write_text("{}")
    assert "did you mean 'neighbors.jsonl'" in refusal(folder)
    (folder / "forget.jsonl").unlink()
    assert "has no forget.jsonl" in refusal(folder)
    (folder / "card.toml").unlink()
    assert "has no card.toml" in refusal(folder)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("name = ", "not valid TOML"),
        ('name = "n"', "field 'description': is missing"),
        ('name = ""\ndescription = "d"', "field 'name': is empty"),
        ('name = 1\ndescription = "d"', "field 'name': must be a string"),
        ('name = "n"\ndescription = "d"\nlicense = "x"', "did you mean 'licence'?"),
    ],
)
def test_a_bad_card_is_refused_with_its_field(tmp_path, card, expected):
    message = refusal(folder_of(tmp_path, card=card))
    assert message.startswith(str(tmp_path / "set" / "card.toml"))
    assert expected in message


@pytest.mark.parametrize(
    "answer",
    [
        "تارن هولم",
        "שלום\u200f",
        "東京\u3000都",
        "a\u2028b\u2029c\x85d\x0be\x1cf",
        "👩‍👩‍👧\r\n",
        "x" * 1_000_000,
    ],
    ids=["arabic", "hebrew", "wide-space", "exotic-breaks", "emoji-crlf", "one-megabyte"],
)
def test_any_text_survives(tmp_path, answer):
    line = json.dumps({**LINE, "answer": answer}, ensure_ascii=False)
    assert ForgetSet.read(folder_of(tmp_path, [line])).forget[0].answer == answer


@pytest.mark.parametrize("name", ["a[1]b", "a*b", "a?b", ".hidden", "a b", "%20#"])
def test_the_name_of_the_folder_is_not_a_pattern(tmp_path, name):
    (tmp_path / "axb").mkdir()
    folder_of(tmp_path / "axb", [{**LINE, "answer": "Oslo"}])
    (tmp_path / name).mkdir()
    folder = folder_of(tmp_path / name)
    assert ForgetSet.read(folder).forget == (record(),)


def test_a_byte_order_mark_and_carriage_returns_are_read_over(tmp_path):
    folder = folder_of(tmp_path)
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert ForgetSet.read(folder).forget == (record(),)


def test_every_record_of_a_file_longer_than_one_chunk_is_read_once(tmp_path):
    lines = [{**LINE, "id": f"r{i}", "answer": "é" * 1000} for i in range(3000)]
    read = ForgetSet.read(folder_of(tmp_path, lines))
    assert [r.id for r in read.forget] == [f"r{i}" for i in range(3000)]


def memory_grown(folder):
    """How many records a forget set holds, and by how many bytes reading it raised the peak."""
    # Not ru_maxrss: a process starts with the one of its parent, and pytest is a large one.
    if not Path("/proc/self/status").exists():
        pytest.skip("there is no /proc that tells the peak of a process")
    small = folder_of(folder.parent / "small")
    code = (
        "import re, sys; from pathlib import Path\n"
        "from unlearn.forget_set import ForgetSet as Set\n"
        "Set.read(sys.argv[1])\n"
        "text = lambda: Path('/proc/self/status').read_text()\n"
        "peak = lambda: int(re.search('VmHWM:[^0-9]*([0-9]+) kB', text())[1]) * 1024\n"
        "before = peak(); read = Set.read(sys.argv[2]); print(len(read.forget), peak() - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, small, folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    ).stdout
    return map(int, out.split())


def test_a_hundred_megabyte_file_of_long_records_takes_little_more_than_its_texts(tmp_path):
    (tmp_path / "small").mkdir()
    folder = folder_of(tmp_path)
    with (folder / "forget.jsonl").open("w") as file:
        for number in range(100):
            file.write(json.dumps({**LINE, "id": f"r{number}", "answer": "x" * 1_000_000}) + "\n")
    count, grown = memory_grown(folder)
    assert count == 100
    assert grown < 160_000_000


def test_many_small_records_take_little_more_than_their_texts(tmp_path):
    (tmp_path / "small").mkdir()
    folder = folder_of(tmp_path)
    n = 60_000
    with (folder / "forget.jsonl").open("w") as file:
        for number in range(n):
            subject = f"Person{number // 5} Quill"
            fields = {
                "id": f"r{number}",
                "subject": subject,
                "prompt": f"{subject}, when asked for fact {number % 5}, said",
                "paraphrases": [f"Fact {number % 5} of {subject} is"],
            }
            file.write(json.dumps({**LINE, **fields}) + "\n")
    count, grown = memory_grown(folder)
    assert count == n
    assert grown / n < 1700, "bytes for a record of 200; with a set of its fields each it is 2000"


def test_a_set_is_checked_once(tmp_path, monkeypatch):
    checked = []
    rule = module._broken_rule
    monkeypatch.setattr(module, "_broken_rule", lambda r: checked.append(r.id) or rule(r))
    ForgetSet.read(folder_of(tmp_path, retain=[{**LINE, "id": "r2", "answer": "Oslo"}]))
    assert checked == ["r1", "r2"]


def test_a_bundled_set_reads_by_its_name_from_python_too():
    assert ForgetSet.read("lab:one-person").name == unlearn.ForgetSet.read("lab:one-person").name
    with pytest.raises(InputError, match=r"no bundled forget set 'lab:two-people'.*lab:ten-people"):
        ForgetSet.read("lab:two-people")


def test_a_scheme_of_somebody_else_is_resolved_by_its_hook(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    asked = []
    monkeypatch.setitem(module.SCHEMES, "shelf", lambda name: asked.append(name) or folder)
    assert ForgetSet.read("shelf:mine").forget == (record(),)
    assert asked == ["mine"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_said_to_be_empty(name):
    with pytest.raises(ForgetSetError, match="the forget set has an empty name"):
        ForgetSet.read(name)


def test_errors_of_the_python_api_show_no_value():
    for wrong in (
        {"prompt": (SUBJECT,)},
        {"implications": [SUBJECT]},
        {"answer": SUBJECT, "id": 3},
    ):
        with pytest.raises(ValidationError) as caught:
            Record.model_validate({**LINE, **wrong})
        assert SUBJECT not in str(caught.value) and ANSWER not in str(caught.value)


@pytest.mark.parametrize("layers", [(-5,), (0, -1)])
def test_sites_count_layers_from_0(layers):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Sites(method="m", layers=layers)
    assert Sites(method="m", layers=(0, 5)).layers == (0, 5)


def test_reading_writes_nothing_to_the_home_directory(tmp_path):
    folder = folder_of(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    code = "import sys; from unlearn.forget_set import ForgetSet; ForgetSet.read(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, folder],
        check=True,
        cwd=Path(__file__).parents[1],
        env={"HOME": str(home), "HF_HOME": str(home / "hf")},
    )
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_importing_forget_sets_does_not_import_torch():
    code = "import sys, unlearn.forget_set; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_writing_never_touches_a_folder_that_holds_something(tmp_path):
    folder = folder_of(tmp_path)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ForgetSetError, match="is not an empty folder"):
        ForgetSet("n", "d", (record(id="other"),)).write(folder)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_set_built_in_python_obeys_the_same_rules():
    with pytest.raises(ForgetSetError, match="the forget split holds no record"):
        ForgetSet("n", "d", ())
    with pytest.raises(ForgetSetError, match=r"retain\[0\]: record 'r1': field 'id'"):
        ForgetSet("n", "d", (record(),), (record(answer="Oslo"),))
    with pytest.raises(ForgetSetError, match=r"forget\[0\].*does not occur in the prompt"):
        ForgetSet("n", "d", (record(prompt="Bo was born in"),))
    with pytest.raises(ForgetSetError, match="name of a forget set is empty"):
        ForgetSet("", "d", (record(),))


def test_the_printed_form_shows_counts_and_no_record():
    shown = repr(ForgetSet("n", "d", (record(),)))
    assert shown == "ForgetSet('n', forget=1, retain=0, neighbors=0, holdout=0)"


def test_an_unknown_split_names_the_nearest():
    forget_set = ForgetSet("n", "d", (record(),))
    assert forget_set.split("forget") == (record(),)
    with pytest.raises(InputError, match="did you mean 'neighbors'"):
        forget_set.split("neighbours")


def test_a_sample_keeps_subjects_whole_and_follows_the_seed():
    records = tuple(r for number in range(20) for r in person(number, records=3))
    forget_set = ForgetSet("n", "d", records)
    drawn = forget_set.sample("forget", 10, seed=1)
    assert len(drawn) == 9
    assert all(sum(r.subject == d.subject for r in drawn) == 3 for d in drawn)
    assert drawn == forget_set.sample("forget", 10, seed=1)
    assert drawn != forget_set.sample("forget", 10, seed=2)
    assert list(drawn) == sorted(drawn, key=records.index)
    assert forget_set.sample("forget", 60, seed=1) == records


def test_a_sample_cuts_only_a_subject_that_is_larger_than_it():
    forget_set = ForgetSet("n", "d", tuple(person(1, records=36)))
    drawn = forget_set.sample("forget", 16, seed=0)
    assert len({r.id for r in drawn}) == 16
    with pytest.raises(InputError, match="max_records is 0"):
        forget_set.sample("forget", 0, seed=0)


def test_every_subject_is_about_equally_likely_in_a_sample():
    forget_set = ForgetSet("n", "d", tuple(r for n in range(4) for r in person(n)))
    counts = [0] * 4
    for seed in range(400):
        for drawn in forget_set.sample("forget", 1, seed):
            counts[int(drawn.id[0])] += 1
    assert all(60 <= count <= 140 for count in counts)


def test_replacing_a_split_changes_the_digest_of_the_copy_only():
    before = ForgetSet("n", "d", (record(),))
    digest = before.digest
    after = replace(before, retain=tuple(person(1)))
    assert (before.digest, before.retain) == (digest, ())
    assert after.digest != digest


def test_the_example_in_the_description_of_the_format_reads(tmp_path):
    text = (Path(__file__).parents[1] / "forget_sets" / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"^`([a-z]+\.(?:toml|jsonl))`\n\n```\w+\n(.*?)^```", text, re.S | re.M)
    assert [name for name, _ in files] == ["card.toml", *(f"{split}.jsonl" for split in SPLITS)]
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert f"# {ForgetSet.read(tmp_path)!r}" in text
