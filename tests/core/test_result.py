"""Results: axes declared once hold everywhere, and nothing is lost or run on the way out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import html5lib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from interp.core import result as module
from interp.core.errors import (
    ConfigError,
    CorruptArtefact,
    InterpError,
    MissingDependency,
    NonFiniteError,
    ShapeError,
    StorageError,
)
from interp.core.frames import loaders
from interp.core.provenance import Provenance
from interp.core.result import Check, Checks, Result, renders

LAYERS, HEADS, TOKENS = 5, 3, 7


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyScores(Result):
    """Scores of heads."""

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset({"margin"})

    scores: Float[Tensor, "layer head"]
    rank: Int[Tensor, "layer head"]
    kept: Bool[Tensor, "layer head"] | None = None
    by_token: Num[Tensor, "pos layer"] | None = None
    total: Float[Tensor, ""]
    margin: Float[Tensor, "layer"] | None = None
    metric: str = "logit difference"
    path: tuple[Any, ...] = ()
    options: dict[Any, Any] = dataclasses.field(default_factory=dict)
    bound: float = 1e-3

    def check(self) -> Checks:
        gap = (self.scores.sum() - self.total).abs()
        return Checks([Check.at_most("completeness_gap", gap, self.bound)])


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyFiner(ToyScores):
    """A subclass with one more array on a known axis."""

    extra: Float[Tensor, "head"]


def toy(**changes: Any) -> ToyScores:
    scores = torch.randn(LAYERS, HEADS)
    given_: dict[str, Any] = {
        "scores": scores,
        "rank": torch.arange(LAYERS * HEADS).reshape(LAYERS, HEADS),
        "total": scores.sum(),
    }
    return ToyScores(**(given_ | changes))


PROVENANCE = Provenance(model="toy", model_fingerprint="f" * 8, sites=("blocks.0.hook_z",))


# ------------------------------------------------------------------ what is checked


def test_an_axis_has_one_size_in_all_fields() -> None:
    with pytest.raises(ShapeError) as caught:
        toy(rank=torch.zeros(LAYERS + 1, HEADS, dtype=torch.long))
    text = str(caught.value)
    assert "'scores'" in text and "'rank'" in text and "'layer'" in text
    assert "ToyScores" in text and "6" in text and "5" in text


def test_axes_bind_across_different_fields_and_subclasses() -> None:
    with pytest.raises(ShapeError, match="'by_token'"):
        toy(by_token=torch.zeros(TOKENS, LAYERS - 1))
    values = {f.name: getattr(toy(), f.name) for f in dataclasses.fields(ToyScores)}
    assert ToyFiner(**values, extra=torch.zeros(HEADS)).axes["extra"] == ("head",)
    with pytest.raises(ShapeError, match="'extra'"):
        ToyFiner(**values, extra=torch.zeros(HEADS + 2))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"scores": torch.randn(LAYERS)}, "1 axes, not 2"),
        ({"scores": torch.randn(LAYERS, HEADS, 2)}, "3 axes, not 2"),
        ({"scores": torch.ones(LAYERS, HEADS, dtype=torch.long)}, "int64"),
        ({"rank": torch.ones(LAYERS, HEADS)}, "float32"),
        ({"kept": torch.ones(LAYERS, HEADS)}, "float32"),
        ({"scores": np.ones((LAYERS, HEADS))}, "ndarray"),
        ({"scores": None}, "NoneType"),
        ({"total": torch.ones(1)}, "1 axes, not 0"),
        ({"metric": torch.ones(1)}, "without declared axes"),
    ],
)
def test_arrays_that_contradict_their_declaration(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ShapeError) as caught:
        toy(**changes)
    assert part in str(caught.value) and next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_not_finite_is_refused_by_name(value: float, dtype: torch.dtype) -> None:
    scores = torch.zeros(LAYERS, HEADS, dtype=dtype)
    scores[3, 1] = value
    with pytest.raises(NonFiniteError, match=r"ToyScores\.scores") as caught:
        toy(scores=scores)
    assert "(3, 1)" in str(caught.value)
    with pytest.raises(NonFiniteError, match=r"ToyScores\.bound"):
        toy(bound=value)
    assert toy(margin=torch.full((LAYERS,), value)).margin is not None  # declared to mean something


@pytest.mark.parametrize(
    "labels",
    [{"head": ["a", "b"]}, {"heads": ["a", "b", "c"]}, {"pos": ["x"] * TOKENS}],
    ids=["too few", "misspelt", "absent"],
)
def test_labels_must_fit_an_axis(labels: dict[str, list[str]]) -> None:
    with pytest.raises(ShapeError, match="labels") as caught:
        toy(labels=labels)
    assert "head: 3" in str(caught.value)
    if "heads" in labels:
        assert "did you mean 'head'" in str(caught.value)


def test_results_are_frozen_and_compare_by_identity() -> None:
    one = toy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.metric = "x"  # type: ignore[misc]
    assert one == one and one != toy() and len({one, toy()}) == 2


def test_a_forgotten_decorator_or_option_does_no_harm() -> None:
    class Undecorated(ToyScores):
        more: Float[Tensor, "layer"]

    with pytest.raises(ConfigError, match="dataclass"):
        Undecorated(scores=torch.zeros(2, 3), rank=torch.zeros(2, 3).long(), total=torch.zeros(()))

    @dataclass(frozen=True, kw_only=True)
    class PlainEq(Result):
        values: Float[Tensor, "a"]

    one, two = PlainEq(values=torch.zeros(3)), PlainEq(values=torch.zeros(3))
    assert one != two and hash(one) != hash(two)
    assert repr(one).startswith("PlainEq 3 (a)")


@pytest.mark.parametrize("axes", ["... pos", "*batch pos", "pos-1 layer"])
def test_axes_without_plain_names_are_refused(axes: str) -> None:
    kind = dataclasses.make_dataclass(
        "Vague", [("values", Float[Tensor, axes])], bases=(Result,), frozen=True, kw_only=True, eq=False
    )
    with pytest.raises(ConfigError, match="plain name"):
        kind(values=torch.zeros(2, 2))


def test_literal_and_anonymous_axes() -> None:
    kind = dataclasses.make_dataclass(
        "Mixed",
        [("a", Float[Tensor, "2 _ pos"]), ("b", Float[Tensor, "_ pos"])],
        bases=(Result,),
        frozen=True,
        kw_only=True,
        eq=False,
    )
    made = kind(a=torch.zeros(2, 5, 3), b=torch.zeros(7, 3))
    assert list(made.to_frame("a").columns) == ["2", "_", "pos", "a"]
    with pytest.raises(ShapeError, match="axis '2'"):
        kind(a=torch.zeros(3, 5, 3), b=torch.zeros(7, 3))


def test_one_name_one_type_for_the_house() -> None:
    """A notebook may define its class again; nobody shadows a type of the package."""
    dataclasses.make_dataclass("Again", [], bases=(Result,), frozen=True)
    newest = dataclasses.make_dataclass("Again", [], bases=(Result,), frozen=True)
    assert module._TYPES["Again"] is newest
    dataclasses.make_dataclass(
        "HouseType", [], bases=(Result,), frozen=True, namespace={"__module__": "interp.lenses"}
    )
    with pytest.raises(ConfigError, match="HouseType already"):
        dataclasses.make_dataclass("HouseType", [], bases=(Result,), frozen=True)
    del module._TYPES["HouseType"]


# ------------------------------------------------------------------ tables


def test_axes_are_read_from_the_annotations() -> None:
    assert toy().axes == {"scores": ("layer", "head"), "rank": ("layer", "head"), "total": ()}
    assert toy(by_token=torch.zeros(TOKENS, LAYERS)).axes["by_token"] == ("pos", "layer")


def test_to_frame_joins_fields_with_the_same_axes() -> None:
    made = toy(kept=torch.rand(LAYERS, HEADS) > 0.5, by_token=torch.randn(TOKENS, LAYERS))
    frame = made.to_frame()
    assert list(frame.columns) == ["layer", "head", "scores", "rank", "kept"]
    assert len(frame) == LAYERS * HEADS
    for _, row in frame.iterrows():
        at = int(row["layer"]), int(row["head"])
        assert row["scores"] == made.scores[at].item() and row["rank"] == made.rank[at].item()
        assert row["kept"] == made.kept[at].item()
    tokens = made.to_frame("by_token")
    assert list(tokens.columns) == ["pos", "layer", "by_token"] and len(tokens) == TOKENS * LAYERS
    assert tokens["by_token"].to_numpy().reshape(TOKENS, LAYERS).tolist() == made.by_token.tolist()
    totals = made.to_frame("total")
    assert list(totals.columns) == ["total"] and totals["total"].item() == made.total.item()
    assert made.to_frame("rank").equals(frame)


def test_to_frame_shows_labels_and_narrow_dtypes() -> None:
    scores = torch.randn(LAYERS, HEADS)
    made = toy(scores=scores.bfloat16(), labels={"head": ["x", " y", "x"]})
    frame = made.to_frame()
    assert frame["head"].tolist() == ["x", " y", "x"] * LAYERS
    assert frame["layer"].tolist() == [i // HEADS for i in range(LAYERS * HEADS)]
    assert frame["scores"].tolist() == scores.bfloat16().float().flatten().tolist()


def test_column_names_never_collide() -> None:
    kind = dataclasses.make_dataclass(
        "Square", [("d", Float[Tensor, "d d"])], bases=(Result,), frozen=True, kw_only=True, eq=False
    )
    values = torch.randn(3, 3)
    frame = kind(d=values).to_frame()
    assert list(frame.columns) == ["d_2", "d_3", "d"] and len(frame) == 9
    with pytest.raises(ShapeError):
        kind(d=torch.zeros(2, 3))


def test_top_sorts_and_keeps_ties_in_order() -> None:
    scores = torch.tensor([[1.0, 5.0, -9.0], [5.0, 0.0, 2.0]])
    made = toy(scores=scores, rank=torch.arange(6).reshape(2, 3), total=scores.sum())
    assert made.top(3)["scores"].tolist() == [5.0, 5.0, 2.0]
    assert made.top(3)["rank"].tolist() == [1, 3, 5]
    assert made.top(1, absolute=True)["scores"].tolist() == [-9.0]
    assert made.top(2, "rank")["rank"].tolist() == [5, 4]
    assert len(made.top(99)) == 6
    holes = toy(margin=torch.tensor([math.nan, 1.0, math.inf, -2.0, math.nan])).top(5, "margin")
    assert holes["layer"].tolist() == [2, 1, 3, 0, 4]


def test_an_unknown_field_suggests_the_nearest() -> None:
    for call in (toy().to_frame, lambda name: toy().top(3, name)):
        with pytest.raises(ConfigError, match="did you mean 'scores'"):
            call("score")
        with pytest.raises(ConfigError, match="no array 'metric'"):
            call("metric")
        with pytest.raises(ConfigError, match="no array 'kept'"):
            call("kept")  # declared, but absent here


# ------------------------------------------------------------------ checks and pictures


def test_checks_say_what_holds() -> None:
    checks = toy().check()
    assert checks.ok and checks[0].name == "completeness_gap" and checks[0].value <= 1e-3
    failed = toy(total=torch.tensor(1e3)).check()
    assert not failed.ok and "FAILED" in str(failed)
    assert not Check.at_most("x", math.nan, 1.0).ok and not Check.at_least("x", math.nan, 1.0).ok
    assert Check.at_least("x", torch.tensor(2.0), 2.0) == ("x", 2.0, 2.0, True, "≥")
    assert str(Check.at_least("x", 1.0, 2.0)) == "x 1 (≥ 2) FAILED"
    assert str(Check.at_most("x", 1.0, 2.0)) == "x 1 (≤ 2) ok"
    assert Result.check(toy()).ok and str(Checks()) == "none declared"


def test_many_checks_are_one_line() -> None:
    good, bad = Check.at_most("x", 0.0, 1.0), Check.at_most("y", 2.0, 1.0)
    assert str(Checks([good] * 3)).count("ok") == 3
    assert str(Checks([good] * 40)) == "40 checks, all ok"
    assert str(Checks([good] * 40 + [bad])) == "1 of 41 checks FAILED: y 2 (≤ 1) FAILED"
    told = str(Checks([bad] * 9))
    assert told.startswith("9 of 9 checks FAILED: ") and told.endswith("; and 6 more")


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No renderers, no types and no loaders, until the test is over."""
    empty: dict[str, Any] = {}
    for holder in (module, loaders):
        monkeypatch.setattr(holder, "LOADERS", empty)
    monkeypatch.setattr(module, "RENDERERS", {})
    monkeypatch.setattr(module, "_TYPES", {})


def test_plot_finds_the_nearest_renderer(registries: None) -> None:
    with pytest.raises(MissingDependency, match=r"ToyScores.*\n.*interp\.plotting"):
        toy().plot()

    @renders(Result)
    def generic(result: Result, **options: Any) -> Any:
        return "generic", options

    @renders(ToyScores)
    def special(result: Result, **options: Any) -> Any:
        return "special", options

    assert toy().plot(colour="red") == ("special", {"colour": "red"})
    del module.RENDERERS[ToyScores]
    assert toy().plot() == ("generic", {})


def test_the_loader_is_asked_before_a_base_is_drawn(registries: None) -> None:
    asked = []

    def load(kind: type) -> None:
        asked.append(kind)
        renders(ToyScores)(lambda result: "special")

    renders(Result)(lambda result: "generic")
    module.set_renderer_loader(load)
    assert toy().plot() == "special" and asked == [ToyScores]
    assert toy().plot() == "special" and len(asked) == 1


# ------------------------------------------------------------------ text


def test_repr_is_two_lines() -> None:
    lines = repr(toy(provenance=PROVENANCE)).split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("ToyScores 5x3 (layer head) on toy")
    assert lines[1].startswith("checks: completeness_gap") and lines[1].endswith("ok")
    odd = dataclasses.replace(PROVENANCE, model="two\nlines")
    assert len(repr(toy(provenance=odd)).split("\n")) == 2


HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--<script>",
    "--><b>",
    "<![CDATA[",
    "&lt;b&gt;&#60;b&#62;",
    "javascript:alert(1)",
    "\u202e\0\ud800\x1b[31m",
    "{{7*7}}${7*7}",
]
TEMPLATE = {"html", "head", "body", "div", "p", "table", "thead", "tbody", "tr", "th", "td"}


def elements(html: str) -> list[Any]:
    """All elements of the page, as a browser would build them."""
    return list(html5lib.parse(html, namespaceHTMLElements=False).iter())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert_in_a_notebook(text: str) -> None:
    calm, wild = (
        toy(
            labels={"layer": [word] * LAYERS, "head": [word] * HEADS},
            provenance=dataclasses.replace(PROVENANCE, model=word),
            metric=word,
        )._repr_html_()
        for word in ("calm", text)
    )
    tree = elements(wild)
    assert [e.tag for e in tree] == [e.tag for e in elements(calm)]  # not one element more
    assert {e.tag for e in tree} <= TEMPLATE
    assert not any(e.attrib for e in tree)
    wild.encode()  # a page must have a UTF-8 form
    first = next(e for e in tree if e.tag == "td")
    shown = "".join(first.itertext())
    assert shown  # visible, not swallowed
    if text.isascii() and text.isprintable() and " " not in text:
        assert shown == text


@given(st.lists(st.text(), min_size=HEADS, max_size=HEADS), st.text())
def test_any_text_is_inert_in_a_notebook(labels: list[str], model: str) -> None:
    made = toy(labels={"head": labels}, provenance=Provenance(model=model, model_fingerprint="f"))
    tree = elements(made._repr_html_())
    assert [e.tag for e in tree] == [e.tag for e in elements(toy()._repr_html_())]
    assert not any(e.attrib for e in tree)


def test_a_notebook_shows_the_first_rows_and_the_checks() -> None:
    html = toy()._repr_html_()
    assert html.count("<tr>") == 11 and "first 10 of 15 rows" in html
    assert "completeness_gap" in html
    empty = dataclasses.make_dataclass("Empty", [], bases=(Result,), frozen=True)()
    assert "none declared" in empty._repr_html_()


# ------------------------------------------------------------------ on disk


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    made = toy(
        scores=torch.randn(HEADS, LAYERS).T,  # strided
        kept=torch.rand(LAYERS, HEADS) > 0.5,
        by_token=torch.randn(TOKENS, LAYERS, dtype=torch.float64),
        margin=torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]),
        labels={"head": ["a", "<b>", "\ud800"]},
        provenance=PROVENANCE,
        path=("a", 1, (2.5, None), [True, ("x",)]),
        options={"plain": {"k": (1,)}, 3: "int key", "__tuple__": [1]},
    )
    target = made.save(tmp_path / "r")
    assert sorted(p.name for p in target.iterdir()) == ["manifest.json", "result.json", "tensors.safetensors"]
    for read in (Result.load(target), ToyScores.load(target)):
        assert type(read) is ToyScores
        for field in dataclasses.fields(ToyScores):
            before, after = getattr(made, field.name), getattr(read, field.name)
            if isinstance(before, Tensor):
                assert after.dtype == before.dtype and after.shape == before.shape
                assert after.numpy().tobytes() == before.contiguous().numpy().tobytes()
            else:
                assert after == before and type(after) is type(before)
        assert isinstance(read.path[2], tuple) and isinstance(read.path[3], list)
        assert list(read.options) == ["plain", 3, "__tuple__"]


keys = st.text() | st.integers() | st.sampled_from(["__dict__", "__x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_plain_value_comes_back(value: Any) -> None:
    import json

    from interp.core.frames.fields import from_json, to_json

    text = json.dumps(to_json(value, "x"), allow_nan=False)
    back = from_json(json.loads(text))
    assert back == value and repr(back) == repr(value)  # repr: tuples, -0.0, key types


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Path("x"), torch.zeros(2)])
def test_what_no_file_can_hold_is_named(tmp_path: Path, value: object) -> None:
    made = toy(path=(value,))
    with pytest.raises(ConfigError, match=r"ToyScores\.path.*" + type(made.path[0]).__name__):
        made.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_to_replace(tmp_path: Path) -> None:
    first = toy(metric="first")
    first.save(tmp_path / "r")
    with pytest.raises(StorageError, match="--overwrite"):
        toy().save(tmp_path / "r")
    assert ToyScores.load(tmp_path / "r").metric == "first"
    toy(metric="second").save(tmp_path / "r", overwrite=True)
    assert ToyScores.load(tmp_path / "r").metric == "second"


def test_loading_checks_the_type(tmp_path: Path) -> None:
    from interp.core import store

    target = toy().save(tmp_path / "r")
    with pytest.raises(StorageError, match="something else") as caught:
        ToyFiner.load(target)
    assert (caught.value.got, caught.value.expected) == ("result/ToyScores", "result/ToyFiner")
    store.commit(tmp_path / "d", {"x.json": {}}, schema="dictionary")
    with pytest.raises(StorageError, match="something else"):
        Result.load(tmp_path / "d")


def test_the_loader_is_asked_for_unknown_types(tmp_path: Path, registries: None) -> None:
    target = toy().save(tmp_path / "r")
    with pytest.raises(StorageError, match="not imported yet") as caught:
        Result.load(target)
    assert ToyScores.__module__ in str(caught.value.fix)
    module.set_type_loader(lambda name: module._TYPES.update({name: ToyScores}))
    assert type(Result.load(target)) is ToyScores


def test_a_changed_or_older_file_is_refused(tmp_path: Path) -> None:
    from interp.core import store

    target = toy().save(tmp_path / "r")
    saved = store.open_artefact(target)
    values, tensors = saved.json("result.json"), saved.tensors("tensors.safetensors")

    def variant(name: str, fields: object, arrays: dict[str, Tensor]) -> Path:
        files = {"result.json": {**values, "fields": fields}, "tensors.safetensors": arrays}
        return store.commit(tmp_path / name, files, schema="result/ToyScores")

    renamed = variant("renamed", {**values["fields"], "gone": 1}, tensors)
    without = variant("without", values["fields"], {"scores": tensors["scores"]})
    broken = variant("broken", 3, tensors)
    for path in (renamed, without, broken):
        with pytest.raises(StorageError, match="does not fit this interp's ToyScores"):
            Result.load(path)
    bad = variant("bad", {**values["fields"], "metric": {"__import__": "os"}}, tensors)
    with pytest.raises(CorruptArtefact, match="__import__"):
        Result.load(bad)
    crooked = variant("crooked", values["fields"], {**tensors, "total": torch.ones(2)})
    with pytest.raises(InterpError, match="total"):
        Result.load(crooked)

    data = bytearray((target / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (target / "tensors.safetensors").write_bytes(data)
    with pytest.raises(CorruptArtefact, match="changed since"):
        Result.load(target)
