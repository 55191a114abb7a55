"""Which commit a figure is said to come from."""

from __future__ import annotations

from python import provenance


def test_a_given_commit_precedes_the_repository(monkeypatch):
    monkeypatch.setenv("GENET_COMMIT", "abc1234")
    assert provenance.commit() == "abc1234"


def test_without_either_it_says_so(monkeypatch):
    monkeypatch.delenv("GENET_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "command", lambda *words: "")
    assert provenance.commit() == "unknown"


def test_changes_are_marked(monkeypatch):
    answers = {"rev-parse": "abc1234", "status": " M file"}
    monkeypatch.delenv("GENET_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "command", lambda *words: answers[words[1]])
    assert provenance.commit() == "abc1234+"
