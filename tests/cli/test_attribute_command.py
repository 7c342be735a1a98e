"""`interp attribute`: one page for many texts, resumed where it stopped, bad requests refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interp.attribution import Agreement, Attribution, Faithfulness, GeneratedAttribution, PairAttribution
from interp.cli.main import main
from interp.core.result import Result

TEXTS = ["When Mary and John went to the park, John gave a book to", "The <b>keys</b> to the cabinet"]
METHODS = ["--methods", "deeplift", "gradient_x_input"]


def numbers(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What report.json holds: the blocks of the section on all texts, the entries of the other."""
    several, single = json.loads((folder / "report.json").read_text())["sections"]
    return several["blocks"], single["blocks"][0]["entries"]


def saved(folder: Path) -> list[str]:
    """Every result in the folder."""
    results = folder / "results"
    return sorted(str(path.parent.relative_to(results)) for path in results.glob("**/manifest.json"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run; the tests look at what it wrote."""
    folder = tmp_path_factory.mktemp("attribute") / "out"
    assert main(["attribute", "tiny-grammar", "--text", *TEXTS, *METHODS, "--out", str(folder)]) == 0
    return folder


def test_it_writes_the_page_and_the_numbers(page: Path) -> None:
    names = sorted(path.name for path in page.iterdir())
    assert names == ["config.json", "report.html", "report.json", "results"]
    blocks, entries = numbers(page)
    assert len(entries) == 2
    deeplift = entries[0]["blocks"][0]
    scores = [row[-1] for row in deeplift["tables"][0]["rows"]]
    assert sum(scores) == pytest.approx(entries[0]["numbers"]["f(text) - f(baseline)"], rel=1e-3)
    assert deeplift["tables"][0]["rows"][2][0] == "2  Mary"
    html = (page / "report.html").read_text()
    assert html.count('<strong class="strip-title">deeplift</strong>') == 2 and "no gap" in html
    titles = [block["title"] for block in blocks]
    assert {"Faithfulness", "Completeness and cost"} <= set(titles)
    assert "interval over texts" in html and "no interval" not in html
    assert titles[0].startswith("Agreement of methods")


def test_every_result_can_be_loaded(page: Path) -> None:
    each = ["deeplift", "faithfulness", "gradient_x_input"]
    assert saved(page) == [
        *(f"{n}/{name}" for n in ("0001", "0002") for name in each),
        "agreement",
        "faithfulness",
    ]
    one = Attribution.load(page / "results/0001/deeplift")
    _, entries = numbers(page)
    assert one.value == entries[0]["numbers"]["f(text)"]
    assert one.scores.tolist() == [row[-1] for row in entries[0]["blocks"][0]["tables"][0]["rows"]]
    assert Agreement.load(page / "results/agreement").n_examples == 2
    single = [Faithfulness.load(page / f"results/000{n}/faithfulness") for n in (1, 2)]
    pooled = Faithfulness.load(page / "results/faithfulness")
    assert pooled.n_examples == 2
    stake = [Attribution.load(page / f"results/000{n}/deeplift").difference for n in (1, 2)]
    for field in ("insertion_area", "comprehensiveness"):  # the ratio of sums
        shares = [getattr(one, field) * abs(d) for one, d in zip(single, stake, strict=True)]
        expected = (shares[0] + shares[1]) / sum(map(abs, stake))
        assert getattr(pooled, field).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    # the control draws another order for every text
    assert single[0].insertion.shape == single[1].insertion.shape
    assert not single[0].insertion[-1].equal(single[1].insertion[-1])


def test_what_the_model_writes_is_a_matrix_of_source_and_generated(tmp_path: Path) -> None:
    asked = ["--text", TEXTS[0], "--methods", "deeplift", "--generate", "3"]
    assert main(["attribute", "tiny-grammar", *asked, "--out", str(tmp_path / "out")]) == 0
    one = GeneratedAttribution.load(tmp_path / "out/results/0001/generated")
    known = len(Attribution.load(tmp_path / "out/results/0001/deeplift").tokens)
    assert one.scores.shape == (3, known + 3)
    for i, row in enumerate(one.scores):
        assert row[: known + i].count_nonzero() > 0.5 * known  # each token rests on those before it
        assert not row[known + i :].any()
    assert one.tokens[known:] == one.generated
    _, (entry,) = numbers(tmp_path / "out")
    shown = entry["blocks"][-1]
    assert shown["title"].startswith("Source × generated")
    assert shown["tables"][0]["rows"][0] == [f"{known}  Mary", "0 <|bos|>", one.scores[0, 0].item()]
    html = (tmp_path / "out/report.html").read_text()  # of one text
    assert "one example, so no interval" in html and "interval over texts" not in html
    assert "widest" not in html and "area_low" not in html
    refused = [*asked, "--at", "blocks.1.hook_resid_pre", "--out", str(tmp_path / "no")]
    assert main(["attribute", "tiny-grammar", *refused]) == 2


def test_pairs_are_matrices_beside_their_terms(tmp_path: Path) -> None:
    assert (
        main(["attribute", "tiny-grammar", "--pairs", "--text", *TEXTS, "--out", str(tmp_path / "out")]) == 0
    )
    assert saved(tmp_path / "out") == ["0001/pair"]
    one = PairAttribution.load(tmp_path / "out/results/0001/pair")
    (exact,), (entry,) = numbers(tmp_path / "out")
    assert entry["title"] == " | ".join(TEXTS)
    assert entry["numbers"]["f(a,b)"] == one.f_ab and entry["numbers"]["f(r,r)"] == one.f_rr
    assert entry["blocks"][0]["checks"][0]["ok"]
    assert exact["tables"][0]["rows"][0] == ["largest relative gap", one.relative_gap]


def test_the_page_is_offline_and_escaped(page: Path) -> None:
    html = (page / "report.html").read_text()
    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html
    assert "<b>keys" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_an_interrupted_run_goes_on(page: Path) -> None:
    whole, every = (page / "report.json").read_text(), saved(page)
    (page / "report.html").unlink()
    for late in ("results/agreement", "results/faithfulness", "results/0002/gradient_x_input"):
        for path in (page / late).iterdir():
            path.unlink()
        (page / late).rmdir()
    (page / "results/0002/.tmp-torn").mkdir()
    kept = {path: path.stat().st_mtime_ns for path in page.glob("results/*/deeplift/manifest.json")}
    assert main(["attribute", "tiny-grammar", "--text", *TEXTS, *METHODS, "--out", str(page)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(kept) == 2
    assert saved(page) == every
    assert json.loads((page / "report.json").read_text())["sections"] == json.loads(whole)["sections"]


def test_overwriting_leaves_nothing_of_the_run_before(page: Path) -> None:
    asked = ["--text", TEXTS[0], "--methods", "saliency", "--out", str(page)]
    (page / "report.html").unlink()
    assert main(["attribute", "tiny-grammar", *asked]) == 2  # another question, page or none
    assert len(saved(page)) == 8
    assert main(["attribute", "tiny-grammar", *asked, "--overwrite"]) == 0
    assert saved(page) == ["0001/faithfulness", "0001/saliency", "faithfulness"]
    assert isinstance(Result.load(page / "results/faithfulness"), Faithfulness)


def test_texts_that_changed_since_are_another_question(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    asked = ["--file", str(tmp_path / "texts.txt"), "--methods", "saliency", "--out", str(tmp_path / "out")]
    assert main(["attribute", "tiny-grammar", *asked]) == 0
    (tmp_path / "out/report.html").unlink()
    (tmp_path / "texts.txt").write_text("\n".join(reversed(TEXTS)))
    assert main(["attribute", "tiny-grammar", *asked]) == 2


def test_bad_requests_are_refused_before_work(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attribute", "tiny-grammar", "--text", "x", "--out", str(page)]) == 2
    assert "already holds" in capsys.readouterr().err
    missing = str(tmp_path / "none.txt")
    two, target = ["--text", "x", "y"], ["--target", " Mary"]
    for asked, said in (
        ([], "--text and --file"),
        (["--text", "x", "--limit", "0"], "at least one example"),
        (["--file", missing], "cannot read the texts"),
        (["--text", "x", "--methods"], "at least one method"),
        (["--pairs", *two, *target], "their similarity"),
        (["--pairs", *two, "z"], "a pair has two texts"),
        (["--pairs", "--text", "x"], "lacks its texts"),
        (["--text", "x", *target, "--head", missing], "one target"),
    ):
        assert main(["attribute", "tiny-grammar", *asked, "--out", str(tmp_path / "out")]) == 2, asked
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_limit_takes_rows_from_the_whole_file(tmp_path: Path) -> None:
    from interp.cli.attribute import Attribute

    (tmp_path / "texts.txt").write_text("\n".join(f"line {i}" for i in range(15)))
    rows = Attribute(model="m", file=tmp_path / "texts.txt", limit=10)._rows()
    assert len(rows) == 10
    assert rows[0] == ("line 0",)
    assert rows[-1] == ("line 13",)  # and not the tenth
