"""Laws of a trace's settings, of its file, which goes on where it ended, and of two traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.tiny import tiny_model, tiny_tokenizer
from properties.internals.tiny_traces import FACTS, traced
from wise.localization.attribution import rank_correlations
from wise.localization.records import read_trace
from wise.localization.tracing import causal_trace

pytestmark = pytest.mark.internals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(site="head"), "site='head' is none of hidden, mlp, attention"),
        (dict(method="fast"), "method='fast' is none of exact, attribution"),
        (dict(direction="up"), "direction='up' is none of denoising, noising"),
        (dict(corruption="zero"), "corruption='zero' is none of gaussian, replacement"),
        (dict(layers=[3]), "layer=3 is outside the model's 0..2"),
        (dict(layers=[]), "must name at least one layer"),
        (dict(window=0), "window=0 is below 1"),
        (dict(n_noise=0), "n_noise=0 is below 1"),
        (dict(sigma=-1.0), "sigma=-1.0 is below 0"),
        (dict(metrics=["rank"]), "metrics=.'rank',. must be some of"),
        (dict(facts=[]), "holds nothing to trace"),
    ],
)
def test_a_setting_outside_its_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        traced(**options)


def test_a_trace_that_was_cut_off_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    trace = traced(path=whole)
    content = whole.read_bytes()
    for end in (0, 10, content.index(b"\n") + 1, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:end])
        assert traced(path=cut) == trace
        assert cut.read_bytes() == content
    assert read_trace(whole).settings == trace.settings
    assert [f.sha256 for f in read_trace(whole).facts] == [f.sha256 for f in trace.facts]


def test_a_fact_on_the_disk_is_not_traced_again(tmp_path: Path) -> None:
    model = tiny_model("llama")
    path, calls = tmp_path / "trace.jsonl", []
    options: dict[str, Any] = dict(sigma=1.0, n_noise=2, path=path)
    causal_trace(model, tiny_tokenizer(), FACTS, **options)
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    causal_trace(model, tiny_tokenizer(), FACTS, **options)
    assert not calls


def test_a_file_of_other_settings_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    traced(path=path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="window=1 belongs to another trace; this one has 3"):
        traced(path=path, window=3)
    with pytest.raises(ValueError, match=r"model='.*' belongs to another trace"):
        traced("mistral", path=path)
    assert path.read_bytes() == content


def test_rank_correlation_is_one_with_itself_and_refuses_another_site() -> None:
    trace = traced()
    found = rank_correlations(trace, trace, "log-probability")
    assert found == {fact.id: pytest.approx(1.0) for fact in FACTS}
    with pytest.raises(ValueError, match="site='hidden' of one trace is not the other's 'mlp'"):
        rank_correlations(trace, traced(site="hidden"), "probability")
