"""Tables become forget sets, whatever wrote them; what is wrong is named by line and column."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.csv_records import read_csv
from unlearn.errors import ForgetSetError
from unlearn.types import Record

HEAD = "subject,prompt,answer\n"
ADA = "Ada Quill,Ada Quill was born in,Tarn\n"


@pytest.fixture
def read(tmp_path):
    def read(content):
        file = tmp_path / "facts.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return read_csv(file, "facts")

    return read


def test_three_columns_are_enough(read):
    made = read(HEAD + ADA)
    assert made.forget == (
        Record(
            id="line-2",
            subject="Ada Quill",
            relation="fact",
            prompt="Ada Quill was born in",
            answer="Tarn",
        ),
    )


def test_all_columns(read):
    made = read(
        "ID;Split;subject;relation;prompt;separator;answer;paraphrases;alternatives\n"
        'a;forget;Ada;town;Ada lives in;": ";Tarn;Ada is from|Ada\'s town is;Ostel | Velby\n'
        'b;retain;Bo;town;Bo lives in;;Ostel;"[""x | y"", ""z""]";\n'
        "c;holdout;Cy;town;Cy lives in;;Velby;;\n\n"
    )
    (ada,), (bo,), (cy,) = made.forget, made.retain, made.holdout
    assert (ada.id, ada.relation, ada.separator) == ("a", "town", ": ")
    assert ada.paraphrases == ("Ada is from", "Ada's town is")
    assert ada.alternatives == ("Ostel", "Velby")
    assert bo.paraphrases == ("x | y", "z") and bo.separator == " " and cy.answer == "Velby"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(read, end, mark):
    assert read(mark + (HEAD + ADA).replace("\n", end).encode()).forget[0].answer == "Tarn"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=5))
def test_what_a_spreadsheet_writes_is_read_back(tmp_path_factory, answers):
    import csv

    kept = [answer.strip() for answer in answers if answer.strip()]
    file = tmp_path_factory.mktemp("csv") / "facts.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["subject", "prompt", "answer"])
        writer.writerows([f"S{n}", f"S{n} says", answer] for n, answer in enumerate(["x", *kept]))
    assert [record.answer for record in read_csv(file, "f").forget] == ["x", *kept]


def test_a_cell_of_a_megabyte(read):
    assert len(read(f"{HEAD}Ada,Ada says,{'x' * (1 << 20)}\n").forget[0].answer) == 1 << 20


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        ("subject,prompt\nAda,Ada says\n", ":1: the column 'answer' is missing"),
        ("subjekt,prompt,answer\n", ":1: there is no column 'subjekt'; did you mean 'subject'"),
        ("subject,prompt,answer,answer\n", ":1: the column 'answer' is there twice"),
        (HEAD + "Secret,Secret says\n", ":2: there are 2 cells, and 3 headings"),
        (HEAD + 'Secret,"Secret says,x\n', ":2: this is no CSV"),
        (HEAD + ADA + "Secret,Secret says,\n", ":3: column 'answer': is empty"),
        (HEAD, "no record of the forget split"),
        (HEAD + "Secret,Another says,x\n", "field 'subject': does not occur in the prompt"),
        ("subject,prompt,answer,split\nSecret,Secret is,x,Secret\n", ":2: column 'split': it has"),
        ("subject,prompt,answer,paraphrases\nS,S is,x,[1]\n", ":2: column 'paraphrases': no JSON"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_repeated(read, content, why):
    with pytest.raises(ForgetSetError, match=why.replace("|", "\\|")) as caught:
        read(content)
    assert "Secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ForgetSetError, match="there is no file"):
        read_csv(tmp_path / "none.csv", "x")
    with pytest.raises(ForgetSetError, match="cannot be read"):
        read_csv(tmp_path, "x")


def test_an_id_that_is_used_twice_is_named(read):
    rows = "id,subject,prompt,answer\na,Ada,Ada is,x\na,Bo,Bo is,y\n"
    with pytest.raises(ForgetSetError, match="record 'a': field 'id': already used"):
        read(rows)
